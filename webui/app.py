"""The web application: one route table, one gate, one error shape. Built from the parts it uses, each under its own key."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from aiohttp import web

from appliance.errors import CroftError, Unauthenticated
from appliance.identity.verify import PageName, relative_path
from webui import areas, headers, keys, openai_shape, routes
from webui.guard import Guard, Handler, Route, as_error

BODY_MAX = 1024 * 1024


def build(parts: dict[web.AppKey[Any], Any], console_uids: frozenset[int]) -> web.Application:
    """An application over ``parts`` (every key of webui.keys). ``console_uids`` may use the control socket."""
    table = _table()
    guard = Guard(
        parts[keys.SETTINGS],
        parts[keys.SESSIONS],
        parts[keys.BEARER],
        parts[keys.ACCESS],
        parts[keys.AUDIT],
        parts[keys.CLOCK],
        parts[keys.STARTED],
        table,
        console_uids,
    )
    app = web.Application(middlewares=[errors, guard.check], client_max_size=BODY_MAX)
    for key, value in parts.items():
        app[key] = value
    app[keys.OPENAPI] = routes.openapi()
    app[keys.SHARED], app[keys.FACTS] = {}, {}
    headers.attach(app, parts[keys.SETTINGS])
    app.on_cleanup.append(guard.drain)
    for route in routes.UI:
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            app.router.add_route(method, route.path, route.handler, expect_handler=_expect)
    return app


def _table() -> dict[tuple[str, str], Route]:
    ui = {
        (route.method, route.path.split(":", 1)[0] + "}" if ":" in route.path else route.path): route
        for route in routes.UI
    }
    ide = {(route.method, "ide" if route.method == "*" else f"ide:{route.path}"): route for route in routes.IDE}
    return ui | ide


async def _expect(request: web.Request) -> None:
    """Say "go on" where that is asked for; other expectations may be ignored (RFC 9110 10.1.1)."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # What is yet to come is the answer's own head.
        request.writer.output_size = 0


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever went wrong into the one error shape, or a page for people."""
    try:
        return await handler(request)
    except (ConnectionResetError, ConnectionAbortedError):
        raise
    except Exception as error:
        if isinstance(error, web.HTTPException) and error.status < 400:
            raise
        if getattr(error, "code", "") != "step_up" or not _wants_page(request) or on_ide_host(request):
            return await refuse(request, error)
        try:
            return await routes.step_up.ask(request)
        except CroftError as fault:  # the form that was to be carried along cannot be read
            return await refuse(request, fault)


async def refuse(request: web.Request, error: Exception) -> web.Response:
    """The response for an exception."""
    status, words, extra = as_error(error)
    wants_page = _wants_page(request)
    if isinstance(error, Unauthenticated) and wants_page and request.method == "GET" and not on_ide_host(request):
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            # Strict cookies stay away when another site's page leads here; asked for from our own page, they come along.
            return await _page(request, "bounce.html", target=relative_path(request.raw_path) or "/")
        return web.Response(status=302, headers={"Location": _sign_in_for(request), "Cache-Control": "no-store"})
    if wants_page and on_ide_host(request):
        name: PageName = "signed-out" if status == 401 else "forbidden" if status == 403 else "failed"
        body = request.app[keys.IDE_PAGES](name, "/", request.headers.get("Accept-Language", ""))
        response = web.Response(body=body, status=status, content_type="text/html", charset="utf-8")
    elif request.path.startswith(openai_shape.PREFIX):
        response = web.json_response(openai_shape.error_body(words, status), status=status)
    elif wants_page:
        response = await _page(request, "error.html", status=status, code=words.code, status_code=status)
    else:
        response = web.json_response(
            {"error": {"code": words.code, "message": words.message, "hint": words.hint}}, status=status
        )
    response.headers.update({"Cache-Control": "no-store", **extra})
    return response


async def _page(request: web.Request, template: str, **variables: Any) -> web.Response:
    made: web.Response = (await areas.imported("webui.render")).page(request, template, **variables)
    return made


def _wants_page(request: web.Request) -> bool:
    return "text/html" in request.headers.get("Accept", "") and not request.path.startswith(
        ("/api/", openai_shape.PREFIX)
    )


def on_ide_host(request: web.Request) -> bool:
    return request.headers.get("Host", "").partition(":")[0].lower() == request.app[keys.SETTINGS].ide_host


def _sign_in_for(request: web.Request) -> str:
    origin = request.app[keys.SETTINGS].ui_origin
    target = relative_path(request.raw_path)
    return f"{origin}/sign-in" + (f"?next={quote(target, safe='/')}" if target and target != "/" else "")
