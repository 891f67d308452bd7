"""The IDE relay against a real WebSocket server: who gets through, what travels on, how much is kept, and how it is cut."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from support.front import IDE, UI, Front
from support.waiting import until

from appliance.identity.users import Role
from webui import ide, relay


class Upstream:
    """What code-server is to the relay. ``seen`` holds the handshake headers that arrived."""

    def __init__(self, door: Front) -> None:
        self.path = str(door.settings.paths.socket("ide"))
        self.seen: list[Any] = []
        self.open = 0
        self.runner: web.AppRunner | None = None

    async def up(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self.runner.setup()
        await web.UnixSite(self.runner, self.path).start()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.headers.copy())
        if request.path == "/refuse":
            raise web.HTTPForbidden
        socket = web.WebSocketResponse(max_msg_size=0)
        socket.headers["Set-Cookie"] = "stolen=1"
        await socket.prepare(request)
        self.open += 1
        try:
            async for message in socket:
                if message.data == "flood":
                    while True:
                        await socket.send_bytes(b"x" * 65536)
                await (socket.send_bytes if message.type is aiohttp.WSMsgType.BINARY else socket.send_str)(message.data)
        except ConnectionError:
            pass
        finally:
            self.open -= 1
        return socket


@pytest.fixture
async def upstream(door: Front) -> AsyncIterator[Upstream]:
    made = Upstream(door)
    await made.up()
    yield made
    door.relay.close_all()
    assert made.runner is not None
    await made.runner.cleanup()


async def ticket(door: Front, role: str = "operator") -> tuple[Any, str]:
    session, _ = await door.sign_in_as(role)
    return session, await door.ide_cookie(session)


def connect(door: Front, cookie: str, path: str = "/", **headers: str | None) -> Any:
    sent = {
        "Host": "ide.croft.localhost",
        "Origin": IDE,
        "Cookie": f"__Host-croft-ide={cookie}" if cookie else None,
        **headers,
    }
    return door.web.ws_connect(
        f"http://x{path}",
        max_msg_size=0,
        compress=0,
        headers={key.replace("_", "-"): value for key, value in sent.items() if value is not None},
    )


async def refused(door: Front, cookie: str, path: str = "/", **headers: str | None) -> int:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await connect(door, cookie, path, **headers)
    return caught.value.status


async def test_bytes_pass_both_ways(door: Front, upstream: Upstream) -> None:
    _, cookie = await ticket(door)
    async with connect(door, cookie, "/?reconnectionToken=1") as socket:
        for message in ("hello", "مرحبا", "x" * 3_000_000):
            await socket.send_str(message)
            assert (await socket.receive(timeout=10)).data == message
        assert door.relay.count() == 1
    await until(lambda: door.relay.count() == 0, "the relay lets go")
    await until(lambda: upstream.open == 0, "so does the other end")


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "https://evil.example",
        UI,
        IDE + ":8443",
        IDE.replace("https", "http"),
        IDE + ".evil.example",
        "https://p8080-x.croft.localhost",
        "",
        IDE.upper(),
    ],
)
async def test_only_the_editors_own_page_may_connect(door: Front, upstream: Upstream, origin: str | None) -> None:
    """WEB-7, FWD-6."""
    _, cookie = await ticket(door)
    assert await refused(door, cookie, Origin=origin) == 403
    assert not upstream.seen


async def test_who_may_connect(door: Front, upstream: Upstream) -> None:
    """DECIDED 18: operators and admins; the UI's cookie is not the editor's."""
    assert await refused(door, "") == 401
    assert await refused(door, "croft_ide_" + "x" * 43) == 401
    session, ui_cookie = await door.sign_in_as("operator")
    assert await refused(door, ui_cookie) == 401
    _, cookie = await ticket(door, "viewer")
    assert await refused(door, cookie) == 403
    session, cookie = await ticket(door)
    await door.sessions.end([session], "revoked", "test")
    assert await refused(door, cookie) == 401
    assert not upstream.seen


async def test_nothing_of_ours_travels_on_or_back(door: Front, upstream: Upstream) -> None:
    """FWD-8."""
    _, cookie = await ticket(door)
    async with connect(
        door, cookie, Authorization="Bearer x", X_Forwarded_For="1.2.3.4", X_Auth_User="root", Referer=UI
    ) as socket:
        assert "Set-Cookie" not in socket._response.headers
    names = {name.lower() for name in upstream.seen[0]}
    assert names <= {
        "host",
        "origin",
        "connection",
        "upgrade",
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-protocol",
        "sec-websocket-extensions",
        "user-agent",
    }


async def test_sockets_end_with_their_session(door: Front, upstream: Upstream) -> None:
    """DESIGN 8: within 5 s, at both ends; other people's stay."""
    session, cookie = await ticket(door)
    _, other = await ticket(door, "admin")
    async with connect(door, cookie) as first, connect(door, cookie) as second, connect(door, other) as theirs:
        began = time.monotonic()
        await door.sessions.end([session], "revoked", "test")
        for socket in (first, second):
            assert (await socket.receive(timeout=5)).type in (
                aiohttp.WSMsgType.CLOSED,
                aiohttp.WSMsgType.ERROR,
                aiohttp.WSMsgType.CLOSE,
            )
        assert time.monotonic() - began < 5
        await until(lambda: upstream.open == 1, "code-server lost them too", 5)
        await theirs.send_str("still here")
        assert (await theirs.receive(timeout=5)).data == "still here"


async def test_sockets_end_when_the_role_no_longer_allows_them(door: Front, upstream: Upstream) -> None:
    session, cookie = await ticket(door)
    async with connect(door, cookie) as socket:
        await door.users.change(session.user, "test", role=Role.viewer)
        assert (await socket.receive(timeout=5)).type is not aiohttp.WSMsgType.TEXT
    assert await refused(door, cookie) == 403


async def test_a_role_lost_while_connecting(door: Front) -> None:
    """The check at the door is not the last one: between it and the splice lies the time code-server takes to answer."""
    session, cookie = await ticket(door)
    knocked, answer = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        knocked.set()
        await answer.wait()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nsecret")
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(slow, str(door.settings.paths.socket("ide")))
    reader, writer = await door.raw()
    writer.write(
        (
            f"GET / HTTP/1.1\r\nHost: ide.croft.localhost\r\nOrigin: {IDE}\r\nCookie: __Host-croft-ide={cookie}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
    )
    await knocked.wait()
    await door.users.change(session.user, "test", role=Role.viewer)
    answer.set()
    try:
        async with asyncio.timeout(5):
            assert b"secret" not in await reader.read()
    except ConnectionError:
        pass
    await until(lambda: door.relay.count() == 0, "nothing is spliced")
    writer.transport.abort()
    server.close()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 1010 x\r\n\r\n",
        b"HTTP/1.0 101 x\r\n\r\n",
        b"junk\r\n\r\n",
        b"x" * 100_000,
        b"",
        b"HTTP/1.1 101 x\r\nUpgrade: websocket\nSet-Cookie: __Host-croft-ide=evil\r\n\r\n",
        b"HTTP/1.1 101 x\r\n" + b"a: b\r\n" * 4000 + b"\r\n",
    ],
    ids=lambda head: repr(head[:30]),
)
async def test_whatever_code_server_says_instead(door: Front, head: bytes) -> None:
    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        writer.close()

    server = await asyncio.start_unix_server(says, str(door.settings.paths.socket("ide")))
    _, cookie = await ticket(door)
    assert await refused(door, cookie) == 502
    server.close()


async def test_an_editor_that_refuses_or_is_not_there(door: Front, upstream: Upstream) -> None:
    _, cookie = await ticket(door)
    assert await refused(door, cookie, "/refuse") == 502
    assert upstream.runner is not None
    await upstream.runner.cleanup()
    assert await refused(door, cookie) == 502


async def test_an_editor_that_never_answers(door: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "CONNECT_SECONDS", 0.2)
    hold = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        writer.close()

    server = await asyncio.start_unix_server(silent, str(door.settings.paths.socket("ide")))
    _, cookie = await ticket(door)
    assert await refused(door, cookie) == 502
    hold.set()
    server.close()


async def test_a_socket_served_by_somebody_else_gets_no_byte(door: Front) -> None:
    """DECIDED 8: the other end must be the workspace user."""
    assert os.geteuid() == 0, "this test needs root, to run the other end as another user; ./tests/run runs as root"
    path = door.settings.paths.socket("ide")
    path.parent.chmod(0o777)
    door.folder.chmod(0o755)
    (door.folder / "run").chmod(0o755)
    script = (
        "import os, socket, sys\nos.setgid(65534); os.setuid(65534)\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\n"
        "os.chmod(sys.argv[1], 0o777)\ns.listen()\nprint('up', flush=True)\nc = s.accept()[0]\nprint(len(c.recv(100)), flush=True)\n"
    )
    server = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == "up\n"
        _, cookie = await ticket(door)
        assert await refused(door, cookie) == 502
        assert await asyncio.to_thread(server.stdout.readline) == "0\n"
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
        server.stdout.close()


async def test_one_session_holds_so_many_sockets_and_no_more(
    door: Front, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WEB-16; also when they all knock at once."""
    monkeypatch.setattr(ide, "SOCKETS_MAX", 5)
    _, cookie = await ticket(door)
    tried = await asyncio.gather(*(connect(door, cookie) for _ in range(20)), return_exceptions=True)
    let_in = [one for one in tried if not isinstance(one, BaseException)]
    assert len(let_in) == 5
    assert {one.status for one in tried if isinstance(one, aiohttp.WSServerHandshakeError)} == {429}
    for socket in let_in:
        await socket.close()


async def test_only_upgrades_without_a_body(door: Front, upstream: Upstream) -> None:
    """FWD-11."""
    _, cookie = await ticket(door)
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        async with door.ask(method, "/", cookie, host="ide.croft.localhost") as answer:
            assert answer.status == 405, method
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Origin": IDE}
    async with door.ask("POST", "/", cookie, host="ide.croft.localhost", headers=upgrade) as answer:
        assert answer.status == 405
    async with door.ask(
        "GET", "/", cookie, host="ide.croft.localhost", headers=upgrade, data=b"GET /x HTTP/1.1\r\n\r\n"
    ) as answer:
        assert answer.status == 400
    assert not upstream.seen


async def test_fifty_megabytes_arrive_as_they_left(door: Front, upstream: Upstream) -> None:
    _, cookie = await ticket(door)
    sent, came = hashlib.sha256(), hashlib.sha256()
    async with connect(door, cookie) as socket:

        async def read() -> None:
            for _ in range(50):
                came.update((await socket.receive(timeout=30)).data)

        reading = asyncio.create_task(read())
        for number in range(50):
            piece = hashlib.sha256(str(number).encode()).digest() * 32768
            sent.update(piece)
            await socket.send_bytes(piece)
        await reading
    assert came.digest() == sent.digest()


async def test_a_browser_that_does_not_read_costs_bounded_memory(door: Front, upstream: Upstream) -> None:
    """DECIDED 11: about 1 MiB is kept each way; the rest waits where it is."""
    _, cookie = await ticket(door)
    sockets = [await connect(door, cookie) for _ in range(4)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for socket in sockets:
        socket._response.connection.transport.pause_reading()
        await socket.send_str("flood")
    splices = [splice for found in door.relay._open.values() for splice in found]
    assert len(splices) == 4

    def kept() -> list[int]:
        return [
            splice._request.transport.get_write_buffer_size() + len(splice._up_reader._buffer) for splice in splices
        ]

    await until(lambda: min(kept()) > relay.BUFFER, "the buffers are full", 10)
    for _ in range(20):
        await asyncio.sleep(0.01)
        assert max(kept()) < 1.5 * relay.BUFFER
    # Client, relay and upstream live in this one process, with kernel buffers outside of it.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024
    for socket in sockets:
        socket._response.connection.transport.abort()
    await until(lambda: door.relay.count() == 0, "all are let go", 5)


async def test_a_hand_off_code_works_once(door: Front) -> None:
    """DECIDED 16."""
    session, _ = await door.sign_in_as("operator")
    code = door.sessions.hand_off(session)

    async def enter(code: str, **headers: str | None) -> int:
        sent = {"Origin": UI, "Sec-Fetch-Site": "same-site", "Accept": "application/json", **headers}
        async with door.ask(
            "POST", "/__croft/enter", host="ide.croft.localhost", headers=sent, data={"code": code, "next": "//evil"}
        ) as answer:
            assert answer.headers.get("Location", "/") == "/"
            return int(answer.status)

    for origin in (None, "null", IDE, "https://evil.example"):
        assert await enter(code, Origin=origin) == 403
    assert sorted(await asyncio.gather(*(enter(code) for _ in range(20)))) == [303] + [401] * 19
    late = door.sessions.hand_off(session)
    door.clock.advance(31)
    assert await enter(late) == 401
    ended = door.sessions.hand_off(session)
    await door.sessions.end([session], "revoked", "test")
    assert await enter(ended) == 401
