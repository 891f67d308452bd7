"""One request to an engine and its answer, as bytes: the shortest way HTTP/1.1 can be spoken on this event loop.

Rules: an answer is read as fast as it is taken and no faster; leaving :func:`exchange`, for whatever reason, closes the connection,
which is how an engine learns that nobody waits any more; the key is in the request and nowhere else; no redirect is followed.

What comes in is handed to a plain function, without waking a task for every token: that, and a real HTTP parser written in C, is
what makes the relay cheap (PERFORMANCE.md 4, R1).
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from appliance.assistant.engine import Upstream
from appliance.assistant.faults import EngineFault
from appliance.errors import CroftError

CONNECT_SECONDS = 10.0
# A small machine reads a long text for many minutes before it says its first word.
SILENCE_SECONDS = 900.0
HEAD_MAX = 64 * 1024
AHEAD_MAX = 256 * 1024

Sink = Callable[[bytes], None]


@dataclass(frozen=True)
class Head:
    """How an answer begins; ``kind`` is its content type in lower case, without parameters."""

    status: int
    kind: str
    retry_after: str


class Exchange(asyncio.Protocol):
    """One connection. `Wait for :meth:`answer`, then say with :meth:`into` or :meth:`read` where the body goes."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self.head: asyncio.Future[Head] = self._loop.create_future()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._fields: dict[str, str] = {}
        self._head_bytes = 0
        self._pieces: list[bytes] = []
        self._complete = False
        self._sink: Sink | None = None
        self._transport: asyncio.Transport | None = None

    async def answer(self) -> Head:
        """How the answer begins, once it does. Raises EngineFault."""
        await self._until(self.head)
        return self.head.result()

    async def end(self) -> None:
        """Until the answer is whole. Raises EngineFault, and what the sink raised."""
        await self._until(self.done)
        self.done.result()

    def into(self, sink: Sink) -> None:
        """Hand the body to ``sink``, what has come already first. A CroftError it raises ends the exchange."""
        self._sink = sink
        self._hand_on()
        self.resume()

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises EngineFault, also when it is longer than ``limit``."""
        body = bytearray()

        def take(piece: bytes) -> None:
            body.extend(piece)
            if len(body) > limit:
                raise EngineFault("its answer is too large")

        self.into(take)
        await self.end()
        return bytes(body)

    def finish(self) -> None:
        """Nothing more is wanted of the answer."""
        if not self.done.done():
            self.done.set_result(None)

    def pause(self) -> None:
        """Take nothing more from the engine for now; it feels that, as its own writing stops."""
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    def close(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()
        for future in (self.head, self.done):
            future.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if not self.head.done():
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(EngineFault("it does not speak HTTP"))
        self._hand_on()
        if not self.head.done() and self._head_bytes > HEAD_MAX:
            self._fail(EngineFault("the head of its answer is too long"))

    def connection_lost(self, error: Exception | None) -> None:
        if self.head.done() and not self._framed and error is None:
            self.finish()  # an answer of no stated length ends with its connection
        self._fail(EngineFault("it closed the connection in the middle of the answer"))

    @property
    def _framed(self) -> bool:
        return "content-length" in self._fields or "transfer-encoding" in self._fields

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and not self.head.done():
            kind = self._fields.get("content-type", "").partition(";")[0].strip().lower()
            self.head.set_result(Head(status, kind, self._fields.get("retry-after", "")))

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self._complete = self.head.done()

    def _hand_on(self) -> None:
        """What came with one read goes on in one piece."""
        if self._sink is None:
            if sum(map(len, self._pieces)) > AHEAD_MAX:
                self.pause()
            return
        if self._pieces:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            try:
                self._sink(data)
            except CroftError as error:
                self._fail(error)
        if self._complete:
            self.finish()

    async def _until(self, future: asyncio.Future[Any]) -> None:
        """Raises EngineFault when nothing has come for too long."""
        while not future.done():
            left = self._heard + SILENCE_SECONDS - self._loop.time()
            if left <= 0:
                raise EngineFault("it has not said anything for a long time", status=504)
            await asyncio.wait({future}, timeout=left)

    def _fail(self, error: Exception) -> None:
        for future in (self.head, self.done):
            if not future.done():
                future.set_exception(error)
                future.exception()  # who waits sees it; where nobody does any more, that is no fault
        if self._transport is not None:
            self._transport.abort()


@asynccontextmanager
async def exchange(upstream: Upstream, path: str, body: bytes) -> AsyncIterator[Exchange]:
    """Send ``body`` (JSON) to ``path`` below ``/v1``. Raises EngineFault where the engine cannot be reached."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            transport, connection = await _connect(upstream)
    except (OSError, TimeoutError) as error:
        raise EngineFault("it cannot be reached", status=503) from error
    try:
        transport.write(_head(upstream, path, len(body)) + body)
        yield connection
    finally:
        connection.close()


async def _connect(upstream: Upstream) -> tuple[asyncio.Transport, Exchange]:
    loop, parts = asyncio.get_running_loop(), urlsplit(upstream.base)
    if upstream.socket is not None:
        return await loop.create_unix_connection(Exchange, str(upstream.socket))
    secure = parts.scheme == "https"
    return await loop.create_connection(
        Exchange,
        upstream.address or parts.hostname or "",
        parts.port or (443 if secure else 80),
        ssl=await asyncio.to_thread(_trust) if secure else None,
        server_hostname=parts.hostname if secure else None,
    )


@functools.cache
def _trust() -> ssl.SSLContext:
    """The machine's own authorities; reading them takes a while."""
    return ssl.create_default_context()


def _head(upstream: Upstream, path: str, length: int) -> bytes:
    parts = urlsplit(upstream.base)
    lines = [
        f"POST {parts.path}{path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        "Accept: application/json, text/event-stream",
        "Accept-Encoding: identity",
        "Connection: close",
    ]
    if upstream.key:
        lines.append(f"Authorization: Bearer {upstream.key}")
    if any(not line.isprintable() for line in lines):
        raise EngineFault("its address or key holds characters that cannot be sent")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
