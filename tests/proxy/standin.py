"""What stands behind Caddy in these tests, one process per role: ``standin.py daemon|editor DIR UI-ORIGIN IDE-ORIGIN``.

The forward-auth endpoint is the real one; who is who, and what lies behind it, is fixed here. Every request that
reaches a role is written to DIR/ROLE.log, one JSON object per line, as it arrived: the tests assert on that, not on
what a client was told.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from aiohttp import WSMsgType, web

from appliance.identity.verify import NOBODY, Access, Site, Verdict, Verifier, VerifyProtocol

OPERATOR = "croft_ide_" + "o" * 43
VIEWER = "croft_ide_" + "v" * 43
TOKEN = "eyJ0.eyJzdWIiOiJvcGVyYXRvciJ9.c2lnbmF0dXJl"
HOST = "croft.localhost"


class FixedGate:
    """One operator, one viewer, one token; the rest is a counter."""

    def __init__(self) -> None:
        self.is_ready = True
        self.counts = {"slide": 0, "wake": 0}

    def check(self, cookie: str, host: str) -> Verdict:
        known = {OPERATOR: Verdict(Access.allowed, "operator"), VIEWER: Verdict(Access.forbidden, "viewer")}
        return known.get(cookie, NOBODY)

    def check_bearer(self, token: str, host: str) -> Verdict:
        return Verdict(Access.allowed, "token") if token == TOKEN else NOBODY

    def slide(self, session: object) -> None:
        self.counts["slide"] += 1

    def ready(self) -> bool:
        return self.is_ready

    def wake(self) -> None:
        self.counts["wake"] += 1

    def page(self, name: str, path: str, accept_language: str) -> bytes:
        return f"<!doctype html><title>{name}</title><p>{path}</p>".encode().replace(b"&", b"&amp;")


class Log:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    async def record(self, request: web.Request) -> dict[str, object]:
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers]
        entry = {
            "method": request.method,
            "path": request.raw_path,
            "headers": headers,
            "body": (await request.read()).decode("latin-1"),
        }
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        return entry


def editor_app(log: Log) -> web.Application:
    """Answers like a hostile code-server: every header that must not come back."""

    async def handle(request: web.Request) -> web.Response:
        entry = await log.record(request)
        response = web.json_response(entry | {"role": "editor"})
        response.headers.add("Set-Cookie", "__Host-croft=stolen; Path=/; Secure")
        response.headers.add("Set-Cookie", "wide=1; Domain=croft.localhost")
        response.headers["Clear-Site-Data"] = '"*"'
        response.headers["Service-Worker-Allowed"] = "/"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Content-Security-Policy"] = "default-src 'self'; frame-ancestors *; img-src data:"
        return response

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    return app


def daemon_app(log: Log, gate: FixedGate) -> web.Application:
    async def handle(request: web.Request) -> web.StreamResponse:
        entry = await log.record(request)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await socket.send_str(message.data)
            return socket
        if request.path == "/__croft/wake":
            asked = request.headers["X-Forwarded-Uri"].replace("&", "&amp;")
            return web.Response(
                status=503, text=f"<!doctype html><title>waking</title><p>{asked}</p>", content_type="text/html"
            )
        return web.json_response(entry | {"role": "daemon"})

    async def state(request: web.Request) -> web.Response:
        if "ready" in request.query:
            gate.is_ready = request.query["ready"] == "1"
        return web.json_response(gate.counts)

    app = web.Application(client_max_size=64 << 20)
    app.router.add_get("/test-state", state)
    app.router.add_route("*", "/{tail:.*}", handle)
    return app


async def listen(app: web.Application, path: Path) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()


async def main(role: str, folder: Path, ui_origin: str, ide_origin: str) -> None:
    log = Log(folder / f"{role}.log")
    if role == "editor":
        await listen(editor_app(log), folder / "run/ide/ide.sock")
    else:
        gate = FixedGate()
        site = Site(f"ide.{HOST}", ide_origin, ui_origin)
        verifier, path = Verifier(gate, site), str(folder / "run/web/verify.sock")
        await asyncio.get_running_loop().create_unix_server(lambda: VerifyProtocol(verifier), path)
        await listen(daemon_app(log, gate), folder / "run/web/web.sock")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
