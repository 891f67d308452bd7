"""The IDE, full-bleed, and the hand-over to its own host (DECIDED 16)."""

from __future__ import annotations

import asyncio
import logging
import sqlite3

from aiohttp import web

from appliance.errors import Forbidden
from appliance.identity.verify import relative_path
from webui import keys, views
from webui.guard import principal_of
from webui.render import page

# The editor's start takes every processor. It begins once the page that shows it is painted, or with the editor's own address.
PAINT_SECONDS = 0.2
RTL_HINT = "rtl-editor"  # what VS Code itself cannot do in a right-to-left language; said once

log = logging.getLogger(__name__)


async def workspace(request: web.Request) -> web.StreamResponse:
    """The IDE, full-bleed."""
    principal, settings = principal_of(request), request.app[keys.SETTINGS]
    if principal.session is None:
        raise Forbidden("the editor is for a person's browser")
    services = request.app[keys.SERVICES]
    asyncio.get_running_loop().call_later(PAINT_SECONDS, services.wake, "ide")
    target = relative_path(request.query.get("next", "")) or "/"
    await _remember(request, principal.session.user.id, target)
    response = page(
        request,
        "workspace.html",
        page="workspace",
        service=services.view("ide"),
        enter_url=f"{settings.ide_origin}/__croft/enter",
        handoff_code=request.app[keys.SESSIONS].hand_off(principal.session),
        next=target,
        rtl_hint=views.translator(request).dir == "rtl"
        and not await request.app[keys.HINTS].state(principal.session.user, RTL_HINT),
    )
    # Under "same-origin" a form posted to another host carries "Origin: null" (Fetch, "append a request Origin header"),
    # and the IDE host must see ours.
    response.headers["Referrer-Policy"] = "strict-origin"
    return response


async def _remember(request: web.Request, user_id: str, target: str) -> None:
    """For Home's offer to go on there. A disk that takes no writes keeps nobody from the editor (R10)."""
    try:
        await request.app[keys.VISITS].record(user_id, target)
    except (sqlite3.Error, OSError) as error:
        log.warning("cannot remember a visit to the workspace", exc_info=error)
