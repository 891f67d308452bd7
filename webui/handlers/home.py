"""The first page: how the appliance is, and what to do next."""

from __future__ import annotations

from aiohttp import web

from webui import keys
from webui.render import page


async def home(request: web.Request) -> web.StreamResponse:
    """How the appliance is, and what to do next."""
    services = request.app[keys.SERVICES]
    return page(
        request,
        "home.html",
        page="home",
        services=services.views(),
        problems=services.problems(),
        machine=request.app[keys.MONITOR].now(),
    )
