"""The IDE relay: checks each WebSocket to code-server itself, then splices bytes, and can close them.

Rules (SECURITY 6): cookie, role, host and exact Origin are checked here, for nothing in front is trusted to have done it; no
cookie and no Authorization travels on; the other end of the socket must be the workspace user before it gets a byte; every
open socket is indexed by session, so that signing out closes it at once.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from appliance.identity.sessions import Session
from appliance.identity.users import Role
from webui import writers

HEAD_MAX = 16 * 1024
BUFFER = 1024 * 1024
# The reader holds up to twice this on top; more would only add to what a slow browser makes us keep.
READ_AHEAD = 64 * 1024
CONNECT_SECONDS = 5.0
# What code-server needs of the handshake (RFC 6455 4.1); everything else stays here.
PASSED = (
    "Host",
    "Origin",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
    "User-Agent",
)
RETURNED = {b"upgrade", b"connection", b"sec-websocket-accept", b"sec-websocket-protocol", b"sec-websocket-extensions"}


class UpstreamRefused(Exception):
    """code-server is not there, is not who it should be, or did not agree to upgrade."""


class Relay:
    """All spliced sockets. ``opened`` and ``closed`` tell the supervisor whether the IDE is in use."""

    def __init__(self, path: Path, workspace_uid: int, opened: Callable[[], None], closed: Callable[[], None]) -> None:
        self._path = path
        self._uid = workspace_uid
        self._opened = opened
        self._closed = closed
        self._open: dict[str, set[Splice]] = {}
        self._connecting: Counter[str] = Counter()
        self._sessions: dict[str, Session] = {}

    def count(self, session_id: str | None = None) -> int:
        """Open sockets, of one session or in all."""
        return sum(len(found) for key, found in self._open.items() if session_id in (None, key))

    def served_by(self, pid: int) -> Session | None:
        """Whose browser the process ``pid`` of the editor serves; None where it serves none."""
        return next(
            (self._sessions[key] for key, found in self._open.items() for one in found if one.writer == pid), None
        )

    def alone(self) -> Session | None:
        """A session of the only person with an editor open; None for nobody and for several."""
        here = [self._sessions[key] for key in self._open]
        return here[-1] if len({session.user.id for session in here}) == 1 else None

    def close(self, session: Session) -> None:
        """Cut every socket of a session."""
        for splice in list(self._open.get(session.id, ())):
            splice.cut()

    def close_all(self) -> None:
        for splices in list(self._open.values()):
            for splice in list(splices):
                splice.cut()

    async def run(self, request: web.Request, session: Session, limit: int) -> web.StreamResponse:
        """Splice ``request``, already found to be allowed, until either side ends. ``limit`` bounds sockets a session."""
        if self.count(session.id) + self._connecting[session.id] >= limit:
            raise web.HTTPTooManyRequests(headers={"Retry-After": "5"})
        self._connecting[session.id] += 1
        try:
            upstream = await asyncio.wait_for(self._connect(request), CONNECT_SECONDS)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, UpstreamRefused) as error:
            raise web.HTTPBadGateway(text="the editor does not answer") from error
        finally:
            self._connecting[session.id] -= 1
            self._connecting += Counter()  # drops what is zero
        splice = Splice(request, *upstream)
        if session.ended or session.user.role < Role.operator:  # while we were connecting
            splice.cut()
        self._open.setdefault(session.id, set()).add(splice)
        self._sessions[session.id] = session
        self._opened()
        try:
            await splice.run()
        finally:
            self._open[session.id].discard(splice)
            if not self._open[session.id]:
                del self._open[session.id], self._sessions[session.id]
            self._closed()
        return splice

    async def _connect(self, request: web.Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        reader, writer = await asyncio.open_unix_connection(str(self._path), limit=READ_AHEAD)
        try:
            if peer_uid(writer.get_extra_info("socket")) != self._uid:
                raise UpstreamRefused("the socket is not served by the workspace user")
            writers.announce(writer.get_extra_info("socket"))
            writer.write(_handshake(request))
            head = await reader.readuntil(b"\r\n\r\n")
            return reader, writer, _answer(head)
        except BaseException:
            writer.transport.abort()
            raise


class Splice(web.StreamResponse):
    """One upgraded connection. As a response it writes its own head and body, so aiohttp adds nothing."""

    def __init__(
        self, request: web.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        super().__init__(status=101)
        self._request = request
        self._up_reader = reader
        self._up_writer = writer
        self._head = head
        self._done = asyncio.Event()
        self._resuming: asyncio.Task[None] | None = None
        self.writer = 0  # pid of the process that serves this window, once it is known

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing: the head went out as code-server wrote it."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: the sockets are closed by then."""

    def cut(self) -> None:
        """End both sides now."""
        self._done.set()
        self._up_writer.transport.abort()
        if self._request.transport is not None:
            self._request.transport.abort()

    async def run(self) -> None:
        transport, protocol = self._request.transport, self._request.protocol
        if transport is None:
            self.cut()
            return
        transport.set_write_buffer_limits(high=BUFFER)
        self._up_writer.transport.set_write_buffer_limits(high=BUFFER)
        transport.write(self._head)
        protocol.set_parser(self)  # type: ignore[arg-type] # any object with feed_data and feed_eof
        looking = asyncio.ensure_future(
            writers.other_writer(cast(asyncio.Transport, self._up_writer.transport), self._wrote)
        )
        down = asyncio.ensure_future(self._down(transport))
        done = asyncio.ensure_future(self._done.wait())
        try:
            await asyncio.wait({down, done}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (looking, down, done, self._resuming):
                if task is not None:
                    task.cancel()
            self._up_writer.transport.abort()
            protocol.force_close()

    def _wrote(self, pid: int) -> None:
        self.writer = pid

    async def _down(self, transport: asyncio.Transport) -> None:
        while data := await self._up_reader.read(65536):
            transport.write(data)
            if transport.get_write_buffer_size() > BUFFER // 2:
                await self._request.writer.drain()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Bytes from the browser (called by aiohttp's protocol)."""
        self._up_writer.write(data)
        if self._up_writer.transport.get_write_buffer_size() > BUFFER and self._resuming is None:
            self._request.protocol.pause_reading()
            self._resuming = asyncio.ensure_future(self._resume())
        return False, b""

    def feed_eof(self) -> None:
        """The browser is gone (called by aiohttp's protocol)."""
        self._done.set()

    async def _resume(self) -> None:
        try:
            await self._up_writer.drain()
        except ConnectionError:
            self._done.set()
            return
        self._resuming = None
        self._request.protocol.resume_reading()


def peer_uid(sock: socket.socket) -> int:
    """Uid of the process at the other end of a unix socket (unix(7), SO_PEERCRED)."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)


def _handshake(request: web.Request) -> bytes:
    lines = [f"GET {request.raw_path} HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket"]
    for name in PASSED:
        values = request.headers.getall(name, [])
        lines += [f"{name}: {value}" for value in values[:1]]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def _answer(head: bytes) -> bytes:
    """The head to pass back: only what the handshake needs (no cookie, no policy of code-server's)."""
    status, *lines = head[:-4].split(b"\r\n")
    if len(head) > HEAD_MAX or not status.startswith(b"HTTP/1.1 101 "):
        raise UpstreamRefused("code-server did not upgrade")
    if any(byte < 32 for line in lines for byte in line):
        # A lone line feed would be a line of its own to whoever reads this next: a cookie of the workspace's making.
        raise UpstreamRefused("the answer holds control characters")
    kept = [line for line in lines if line.split(b":", 1)[0].strip().lower() in RETURNED]
    return b"\r\n".join([b"HTTP/1.1 101 Switching Protocols", *kept]) + b"\r\n\r\n"
