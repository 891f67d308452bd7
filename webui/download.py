"""What a run wrote, from its record to a client's socket by sendfile(2): it does not pass through memory.

Rules: sending is done in a thread, in short turns, because a disk may make it wait; a client that takes nothing holds no thread.
The socket is a duplicate of our own: its connection may be closed meanwhile, and the number go to another one. Where this process
itself speaks TLS, which an appliance leaves to Caddy, everything passes through memory after all.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import Collection
from pathlib import Path

from aiohttp import web
from aiohttp.client_exceptions import ClientConnectionResetError
from aiohttp.http import HttpVersion11

from appliance.commands.output import Reader

TURN = 0.005  # seconds in a thread at once
PATIENCE = 2  # milliseconds a thread waits for a client to take more
LARGE = 16 * 1024  # bytes; smaller pieces are sent from memory, many at once
BUFFER = 1 << 20  # bytes the kernel may hold for the client, as far as it grants them: pages of the record


class Download:
    """One answer; ``async with`` it. Each :meth:`send` sends what has come by then."""

    def __init__(
        self, request: web.Request, response: web.StreamResponse, path: Path, streams: Collection[int]
    ) -> None:
        """``path`` is the record's, ``streams`` those that are wanted."""
        self._request, self._response, self._path, self._streams = request, response, path, streams
        self._framed = request.version >= HttpVersion11
        self._turn: asyncio.Future[bool] | None = None
        self._socket: socket.socket | None = None
        self._buffer = 0
        self._reader: Reader | None = None
        self._file = -1
        self._text = memoryview(b"")
        self._start, self._size = 0, 0  # of what is sent of the file after the text
        self._ending = b""

    async def __aenter__(self) -> Download:
        writer = await self._response.prepare(self._request)
        if writer is not None:
            writer.send_headers()
        return self

    async def __aexit__(self, *why: object) -> None:
        if self._turn is None or self._turn.done():
            self._close()
        else:  # cancelled: the thread is still at it
            self._turn.add_done_callback(self._left)

    async def send(self) -> None:
        """Raises ConnectionError when the client has gone, OSError when the disk does not give it."""
        if self._request.method == "HEAD":
            return
        transport = self._request.transport
        if transport is not None and transport.get_extra_info("ssl_object") is not None:
            await self._through_tls()
            return
        sock = self._socket or await self._own_socket()
        loop = asyncio.get_running_loop()
        while True:
            self._turn = loop.run_in_executor(None, self._send, sock)
            if await asyncio.shield(self._turn):
                return
            await _writable(sock)

    async def _through_tls(self) -> None:
        while (data := await asyncio.to_thread(self._read)) is not None:
            await self._response.write(data)

    async def _own_socket(self) -> socket.socket:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("the client has gone")
        sock: socket.socket = transport.get_extra_info("socket").dup()
        self._socket = sock
        sock.setblocking(False)
        self._buffer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2  # told doubled (socket(7))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        while transport.get_write_buffer_size():
            await _writable(sock)
        return sock

    def _left(self, turn: asyncio.Future[bool]) -> None:
        if not turn.cancelled():
            turn.exception()  # nobody is there to be told
        self._close()

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        if self._socket is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer)
            self._socket.close()

    # In a thread

    def _send(self, sock: socket.socket) -> bool:
        """Whether everything that has come was sent; if not, the client should take some first, or it was long enough."""
        ready, until = select.poll(), time.monotonic() + TURN
        ready.register(sock, select.POLLOUT)
        while time.monotonic() < until:
            try:
                if self._text:
                    self._text = self._text[sock.send(self._text) :]
                elif self._size:
                    sent = os.sendfile(sock.fileno(), self._file, self._start, self._size)
                    if not sent:
                        raise OSError(f"cannot send an output: its record ends at {self._start}")
                    self._start, self._size = self._start + sent, self._size - sent
                elif not self._next():
                    return True
            except BlockingIOError:
                if not ready.poll(PATIENCE):
                    return False
        return False

    def _read(self) -> bytes | None:
        """What has come; None where nothing has."""
        reader = self._record()
        pieces = reader.more() if reader else ()
        return b"".join(one.data for one in pieces if one.stream in self._streams) if pieces else None

    def _record(self) -> Reader | None:
        if self._reader is None:
            try:
                self._reader = Reader(self._path)
            except FileNotFoundError:
                return None
            self._file = self._reader.fileno()
        return self._reader

    def _next(self) -> bool:
        """Make the next piece ready; False where there is none."""
        reader = self._record()
        if reader is None:
            return False
        if span := reader.span():
            if span.size < LARGE:
                self._say(self._read() or b"")
            else:
                reader.take(span, span.size)
                if span.stream in self._streams:
                    self._start, self._size = span.start, span.size
                    self._say(b"", span.size)
            return True
        said, self._ending = self._ending, b""
        self._text = memoryview(said)
        return bool(said)

    def _say(self, data: bytes, more: int = 0) -> None:
        """Say ``data`` next, and that ``more`` bytes of the file follow (RFC 9112, 7.1)."""
        if self._framed and (data or more):
            data = b"%b%x\r\n%b" % (self._ending, len(data) + more, data)
            self._ending = b"\r\n"
        self._text = memoryview(data)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock)
