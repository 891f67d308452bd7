"""The client's end of a relayed event stream: written to from where the engine's bytes arrive, without waking a task for each.

Rule: what a client does not take is not read from the engine either, and a client that takes nothing for a minute is cut off: it
would keep the engine from everybody else.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from aiohttp import web
from aiohttp.http import HttpVersion11

from webui.streams import HEADERS

# Bytes a client may be behind before the engine has to wait.
BEHIND_MAX = 256 * 1024
STUCK_SECONDS = 60.0
# Until then an error can still be told by its status.
PATIENCE_SECONDS = 5.0
BEAT_SECONDS = 10.0


class Source(Protocol):
    """Where the bytes come from."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class _Answer(web.StreamResponse):
    """Its head goes with the first piece: a program that waits for that is woken once (R2)."""

    _send_headers_immediately = False


class Outlet:
    """One answer to one client; ``async with`` it, so that nothing of it is left when the client goes."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._response = _Answer(headers=HEADERS)
        self._framed = request.version >= HttpVersion11
        self._quiet = True
        self._catching_up: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        self.source: Source | None = None
        self.opened = False

    async def __aenter__(self) -> Outlet:
        # A timer and no task: most answers begin long before.
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._beat)
        return self

    async def __aexit__(self, *why: object) -> None:
        for one in (self._timer, self._opening, self._catching_up):
            if one is not None:
                one.cancel()

    async def open(self, first: bytes = b"") -> None:
        """Send the head, if it is not out yet, and whole events with it. Raises ConnectionError."""
        if not self.opened:
            self.opened = True
            writer = await self._response.prepare(self._request)  # which waits for nothing
            if writer is not None and not first:
                writer.send_headers()
        if first:
            self._quiet = False
            await self._response.write(first)

    def send(self, data: bytes) -> None:
        """Whole events; after :meth:`open`. To a client that is gone nothing is sent: its handler is about to be cancelled."""
        transport = self._request.transport
        if not data or transport is None or transport.is_closing():
            return
        self._quiet = False
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._framed else data)
        if transport.get_write_buffer_size() > BEHIND_MAX and self._catching_up is None and self.source is not None:
            self.source.pause()
            self._catching_up = asyncio.ensure_future(self._catch_up(self.source))

    def _beat(self) -> None:
        """Send a comment if there was nothing else to send, so that neither the client nor anything between gives up."""
        if not self.opened:
            self._opening = asyncio.ensure_future(self._open_early())
        elif self._quiet:
            self.send(b": waiting\n\n")
        self._quiet = True
        self._timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    async def _open_early(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self.open()
            self.send(b": waiting\n\n")

    async def end(self) -> web.StreamResponse:
        """The answer is whole."""
        await self._response.write_eof()
        return self._response

    async def _catch_up(self, source: Source) -> None:
        try:
            async with asyncio.timeout(STUCK_SECONDS):
                await self._request.writer.drain()
        except (TimeoutError, ConnectionError):
            if self._request.transport is not None:
                self._request.transport.abort()
            return
        self._catching_up = None
        source.resume()
