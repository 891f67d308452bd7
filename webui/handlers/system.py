"""What programs ask of the appliance as a whole, and the files pages are made of."""

from __future__ import annotations

from aiohttp import web

from appliance import __version__
from webui import keys, views
from webui.answers import answer
from webui.guard import principal_of
from webui.manifest import manifest as describe


async def status(request: web.Request) -> web.Response:
    """The whole state of the appliance."""
    settings = request.app[keys.SETTINGS]
    return answer(
        {
            "version": __version__,
            "url": settings.ui_origin,
            "ide_url": settings.ide_origin,
            **views.services_event(request.app[keys.SERVICES], views.translator(request), principal_of(request).role),
            "machine": request.app[keys.MONITOR].now(),
            "assistant": views.engine_json(request.app[keys.ENGINE].status(), views.translator(request)),
        }
    )


async def openapi(request: web.Request) -> web.Response:
    """This API as an OpenAPI 3.1 document, made from the one route table."""
    return answer(request.app[keys.OPENAPI])


async def static(request: web.Request) -> web.StreamResponse:
    """Style, scripts and icons."""
    return request.app[keys.ASSETS].serve(request, request.match_info["version"], request.match_info["name"])


async def favicon(request: web.Request) -> web.StreamResponse:
    """The icon browsers ask for unasked."""
    return request.app[keys.ASSETS].serve(request, "", "favicon.svg")


async def manifest(request: web.Request) -> web.StreamResponse:
    """What installing Croft on a phone or desktop needs, in the reader's language."""
    settings = request.app[keys.SETTINGS]
    data = describe(views.translator(request), request.app[keys.ASSETS], settings.host)
    # Not kept: its words follow the person's language, its addresses the version.
    return web.json_response(
        data, content_type="application/manifest+json", headers={"Cache-Control": "no-cache", "Vary": "Cookie"}
    )
