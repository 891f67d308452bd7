"""The first page: how the appliance is, what waits for the reader, and where to go on."""

from __future__ import annotations

from aiohttp import web

from webui import charts, keys, views
from webui.guard import principal_of
from webui.handlers.telemetry import drawings
from webui.needs import gather
from webui.render import page


async def home(request: web.Request) -> web.StreamResponse:
    """How the appliance is, and what to do next."""
    services, user = request.app[keys.SERVICES], principal_of(request).user
    span, t = charts.SPANS["day"], views.translator(request)
    return page(
        request,
        "home.html",
        page="home",
        services=services.views(),
        problems=services.problems(),
        machine=request.app[keys.MONITOR].now(),
        visit=await request.app[keys.VISITS].last(user.id) if user else None,
        needs=await gather(request.app[keys.NEEDS], user) if user else [],
        span=span.name,
        charts=await drawings(request.app).of(request, span, charts.HOME, t),
    )
