"""Requests to an engine and their answers, as bytes: the shortest way HTTP/1.1 can be spoken on this event loop.

Rules: an answer is read as fast as it is taken and no faster; leaving :meth:`Connections.ask` before the answer is whole closes the
connection, which is how an engine learns that nobody waits any more; the key is in the request and nowhere else; no redirect is
followed.

What comes in is handed to a plain function, without waking a task for every token: that, and a real HTTP parser written in C, is
what makes the relay cheap (R1).
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast
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
IDLE_MAX, IDLE_SECONDS = 32, 20.0

Sink = Callable[[bytes], None]


@dataclass(frozen=True)
class Head:
    """How an answer begins; ``kind`` is its content type in lower case, without parameters."""

    status: int
    kind: str
    retry_after: str


class Exchange(asyncio.Protocol):
    """A connection, and the one request on it. Wait for :meth:`answer`, then say with :meth:`into` or :meth:`read` where the
    body goes."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._watch = self._loop.call_later(SILENCE_SECONDS, self._look)
        self._new()

    def _new(self) -> None:
        self.head: asyncio.Future[Head] = self._loop.create_future()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._fields: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._received = self._beside = 0
        self._complete = self._stays = False
        self._sink: Sink | None = None
        self._heard = self._loop.time()

    def send(self, request: bytes) -> None:
        """Begin a request; the one before it, if any, is over."""
        self._new()
        if self._transport is None or self._transport.is_closing():
            self._fail(EngineFault("it closed the connection"))
            return
        self._transport.write(request)

    async def answer(self) -> Head:
        """How the answer begins, once it does. Raises EngineFault."""
        return await self.head

    async def end(self) -> None:
        """Until the answer is whole. Raises EngineFault, and what the sink raised."""
        await self.done

    def into(self, sink: Sink) -> None:
        """Hand the body to ``sink``, what has come already first. A CroftError it raises ends the exchange."""
        self._sink = sink
        self._hand_on()
        self.resume()

    def come(self) -> bytes:
        """What of the body has come, to be had once."""
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        return data

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

    @property
    def unheard(self) -> bool:
        """Whether nothing at all came back for the request."""
        return self._received == 0

    @property
    def reusable(self) -> bool:
        """Whether another request may follow on this connection."""
        open_still = self._transport is not None and not self._transport.is_closing()
        return open_still and self._complete and self._framed and self._stays

    @property
    def quiet_for(self) -> float:
        """Seconds since something came last, or a request went."""
        return self._loop.time() - self._heard

    def close(self) -> None:
        """End the connection now."""
        self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        for future in (self.head, self.done):
            future.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._received += len(data)
        self._beside += len(data)
        if self._complete:
            self.close()  # nobody asked for more
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._complete = False
            self._fail(EngineFault("it does not speak HTTP"))
        self._hand_on()
        if self._beside > HEAD_MAX:
            self._fail(EngineFault("its answer has too long a head, or fields without end"))

    def connection_lost(self, error: Exception | None) -> None:
        if self.head.done() and not self.head.cancelled() and not self._framed and error is None:
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
        self._beside = 0  # bytes in a row that are none of the body, which the parser keeps: the head, trailers

    def on_message_complete(self) -> None:
        self._complete = self.head.done()
        self._stays = bool(self._parser.should_keep_alive())  # only here does the parser know

    def _hand_on(self) -> None:
        """What came with one read goes on in one piece."""
        if self._sink is None:
            if sum(map(len, self._pieces)) > AHEAD_MAX:
                self.pause()
            return
        if self._pieces:
            try:
                self._sink(self.come())
            except CroftError as error:
                self._complete = False
                self._fail(error)
        if self._complete:
            self.finish()

    def _look(self) -> None:
        """Whether the engine, where it is asked something, has said something in the last while. One timer for each connection and
        not for each request: R3."""
        left = SILENCE_SECONDS - (0.0 if self.done.done() else self.quiet_for)
        if left <= 0:
            self._fail(EngineFault("it has not said anything for a long time", status=504))
        else:
            self._watch = self._loop.call_later(left, self._look)

    def _fail(self, error: Exception) -> None:
        for future in (self.head, self.done):
            if not future.done():
                future.set_exception(error)
                future.exception()  # who waits sees it; where nobody does any more, that is no fault
        self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()


class Connections:
    """Connections to engines. One over the network is kept for the next request, for beginning another takes longer than all
    else here; to the engine on this machine a new one costs nothing, and one kept would hold one of its few threads."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, str], list[Exchange]] = {}
        self._tidying: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def ask(self, upstream: Upstream, path: str, body: bytes) -> AsyncIterator[Exchange]:
        """Send ``body`` (JSON) to ``path`` below ``/v1`` and wait for the head of the answer. Raises EngineFault."""
        request = b"%b%bContent-Length: %d\r\n\r\n%b" % (
            _head(upstream.base, path, keep=upstream.socket is None),
            _bearing(upstream.key),
            len(body),
            body,
        )
        link = self._kept(upstream)
        if link is None or not await _begin(link, request, again=True):
            link = await _connect(upstream)
            await _begin(link, request)
        try:
            yield link
        finally:
            if link.reusable and upstream.socket is None:
                self._keep(upstream, link)
            else:
                link.close()

    def close(self) -> None:
        """Let go of all that are kept."""
        if self._tidying is not None:
            self._tidying.cancel()
        for links in self._idle.values():
            for link in links:
                link.close()
        self._idle.clear()

    def _kept(self, upstream: Upstream) -> Exchange | None:
        links = self._idle.get((upstream.base, upstream.address), [])
        while links:
            link = links.pop()
            if link.reusable:
                return link
            link.close()
        return None

    def _keep(self, upstream: Upstream, link: Exchange) -> None:
        links = self._idle.setdefault((upstream.base, upstream.address), [])
        link.resume()
        links.append(link)
        if len(links) > IDLE_MAX:
            links.pop(0).close()
        if self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._tidy)

    def _tidy(self) -> None:
        """Let go of those that were kept long enough, between one and two times IDLE_SECONDS."""
        for links in self._idle.values():
            for link in [link for link in links if link.quiet_for >= IDLE_SECONDS]:
                links.remove(link)
                link.close()
        self._idle = {where: links for where, links in self._idle.items() if links}
        self._tidying = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._tidy) if self._idle else None


async def _begin(link: Exchange, request: bytes, *, again: bool = False) -> bool:
    """Send a request and wait for the head of its answer. False when the connection was ``again`` used and had ended meanwhile
    without a byte of answer: then the engine has not begun, and the request may go over another one. Raises EngineFault."""
    link.send(request)
    try:
        await link.answer()
    except EngineFault:
        link.close()
        if again and link.unheard:
            return False
        raise
    except BaseException:
        link.close()
        raise
    return True


async def _connect(upstream: Upstream) -> Exchange:
    loop, parts = asyncio.get_running_loop(), urlsplit(upstream.base)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            if upstream.socket is not None:
                return (await loop.create_unix_connection(Exchange, str(upstream.socket)))[1]
            secure = parts.scheme == "https"
            _, link = await loop.create_connection(
                Exchange,
                upstream.address or parts.hostname or "",
                parts.port or (443 if secure else 80),
                ssl=await asyncio.to_thread(_trust) if secure else None,
                server_hostname=parts.hostname if secure else None,
            )
            return link
    except (OSError, TimeoutError) as error:
        raise EngineFault("it cannot be reached", status=503) from error


@functools.cache
def _trust() -> ssl.SSLContext:
    """The machine's own authorities; reading them takes a while."""
    return ssl.create_default_context()


@functools.lru_cache(maxsize=16)
def _head(base: str, path: str, *, keep: bool) -> bytes:
    """How a request begins; the key, its length, the blank line and the body follow."""
    parts = urlsplit(base)
    lines = [
        f"POST {parts.path}{path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        "Accept-Encoding: identity",
        f"Connection: {'keep-alive' if keep else 'close'}",
    ]
    return "".join(_line(line) for line in lines).encode("latin-1", "replace")


def _bearing(key: str) -> bytes:
    return _line(f"Authorization: Bearer {key}").encode("latin-1", "replace") if key else b""


def _line(text: str) -> str:
    if not text.isprintable():
        raise EngineFault("its address or key holds characters that cannot be sent")
    return f"{text}\r\n"
