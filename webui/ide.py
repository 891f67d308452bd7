"""The IDE host's own few addresses, and the door to the relay.

Rule: nothing on this host is trusted to have been checked by Caddy. Only ``/__croft/`` answers; everything else that comes here
is a WebSocket for the relay or is refused.
"""

from __future__ import annotations

from aiohttp import web

from appliance.errors import Forbidden, Invalid, Unauthenticated
from appliance.identity.sessions import Session
from appliance.identity.users import Role
from appliance.identity.verify import relative_path
from webui import cookies, keys
from webui.forms import read_form
from webui.guard import IDE_COOKIE

# WEB-16: sockets one session may hold. One IDE window uses two or three.
SOCKETS_MAX = 64


def session_of(request: web.Request) -> Session:
    """The live session behind the IDE host's cookie, if it may use the IDE. Raises Unauthenticated or Forbidden."""
    session = request.app[keys.SESSIONS].check_ide(request.cookies.get(IDE_COOKIE, ""))
    if session is None:
        raise Unauthenticated("you are not signed in to the editor", hint="Open the workspace page again.")
    if session.user.role < Role.operator:
        raise Forbidden("the editor needs the role operator", hint="Ask an admin of this appliance.")
    return session


async def enter(request: web.Request) -> web.StreamResponse:
    """Turn a hand-off code into the IDE host's own cookie (DECIDED 16)."""
    if request.headers.getall("Origin", []) != [request.app[keys.SETTINGS].ui_origin]:
        raise Forbidden("the editor is opened from the workspace page", code="cross_site")
    form = await read_form(request)
    found = await request.app[keys.SESSIONS].enter_ide(form.get("code", ""))
    if found is None:
        raise Unauthenticated("this way in was used or is too old", hint="Open the workspace page again.")
    session, cookie = found
    request.app[keys.SESSIONS].slide(session)
    request.app[keys.SERVICES].wake("ide")
    response = web.Response(status=303, headers={"Location": relative_path(form.get("next", "")) or "/"})
    cookies.put(response, IDE_COOKIE, cookie, keep=session.remember)
    return response


async def wake(request: web.Request) -> web.StreamResponse:
    """The page shown while the editor starts (Caddy comes here when code-server does not answer)."""
    session_of(request)
    request.app[keys.SERVICES].wake("ide")
    # Caddy says what was asked for; a client's own X- headers do not get past it.
    target = relative_path(request.headers.get("X-Forwarded-Uri", "")) or "/"
    response = web.Response(
        body=request.app[keys.IDE_PAGES]("waking", target, request.headers.get("Accept-Language", "")),
        status=503,
        content_type="text/html",
        charset="utf-8",
    )
    response.headers.update({"Retry-After": "2", "Cache-Control": "no-store"})
    return response


async def state(request: web.Request) -> web.StreamResponse:
    """How far the editor's start is; asking counts as wanting it."""
    from webui import views

    session_of(request)
    services = request.app[keys.SERVICES]
    services.wake("ide")
    return web.json_response(views.wake_event(services), headers={"Cache-Control": "no-store"})


async def static(request: web.Request) -> web.StreamResponse:
    """Style and scripts of the progress page."""
    version, _, name = request.path.removeprefix("/__croft/static/").partition("/")
    return request.app[keys.ASSETS].serve(request, version, name)


async def anything_else(request: web.Request) -> web.StreamResponse:
    """A WebSocket goes to the relay; nothing else is served here."""
    if request.path.startswith("/__croft/static/") and request.method in ("GET", "HEAD"):
        return await static(request)
    if request.path.startswith("/__croft/"):
        raise web.HTTPNotFound
    if request.method != "GET" or request.headers.get("Upgrade", "").lower() != "websocket":
        raise web.HTTPMethodNotAllowed(request.method, ["GET"])
    if request.body_exists:
        raise Invalid("a connection to the editor carries no body")
    session = session_of(request)
    if request.headers.getall("Origin", []) != [request.app[keys.SETTINGS].ide_origin]:
        raise Forbidden("this connection does not come from the editor's own page", code="cross_site")
    return await request.app[keys.RELAY].run(request, session, SOCKETS_MAX)
