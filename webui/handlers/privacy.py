"""What the appliance keeps of the person who asks (PRV-6)."""

from __future__ import annotations

from aiohttp import web

from appliance.errors import Forbidden
from appliance.identity.own_data import as_file
from webui import keys
from webui.guard import principal_of


async def own_data(request: web.Request) -> web.Response:
    """All of one's own data as one file; recorded as an export before it is told."""
    principal = principal_of(request)
    if principal.user is None:
        raise Forbidden("this is for a person")
    await request.app[keys.AUDIT].note("export", principal.actor, what="own data", user=principal.user.id)
    body = as_file(await request.app[keys.OWN_DATA].of(principal.user))
    return web.Response(
        body=body,
        content_type="application/json",
        headers={"Content-Disposition": 'attachment; filename="croft-my-data.json"', "Cache-Control": "no-store"},
    )
