"""Server-sent events (WHATWG HTML 9.2): one multiplexed stream a page, resumable, with a heartbeat.

Rule: a stream ends within two seconds of its session (DECIDED 19); the event bus closes it by its tag.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, cast

import msgspec
from aiohttp import web
from aiohttp.client_exceptions import ClientConnectionResetError

from appliance.errors import CroftError, TooMany

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
# WEB-16: streams one session may hold open.
STREAMS_MAX = 32
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def encode(event: str, data: Mapping[str, Any]) -> bytes:
    """An event without its id, as it goes over the wire; several readers may share it."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), msgspec.json.encode(data))


class Stream:
    """An open event stream. Use as a context manager; writing to a gone reader ends the handler quietly."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._response = web.StreamResponse(headers=HEADERS)

    async def open(self) -> web.StreamResponse:
        await self._response.prepare(self._request)
        if self._request.method != "HEAD":
            # Some proxies and browsers hold the head back until the first byte.
            await self._response.write(b": open\n\n")
        return self._response

    async def send(self, event: str, data: Mapping[str, Any] | bytes, event_id: int | None = None) -> None:
        """``data`` as it is, or as :func:`encode` made it of the same event."""
        head = f"id: {event_id}\n".encode() if event_id is not None else b""
        await self._response.write(head + (data if isinstance(data, bytes) else encode(event, data)))

    async def beat(self) -> None:
        await self._response.write(b": beat\n\n")


async def pump(
    request: web.Request,
    items: AsyncGenerator[tuple[str, Mapping[str, Any] | bytes, int | None], None],
    heartbeat: float = HEARTBEAT_SECONDS,
) -> web.StreamResponse:
    """Send ``items`` (event, data, id) until they end or the reader goes."""
    stream = Stream(request)
    response = await stream.open()
    if request.method == "HEAD":
        return response
    upcoming: asyncio.Future[tuple[str, Mapping[str, Any] | bytes, int | None]] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(items))
            done, _ = await asyncio.wait({upcoming}, timeout=heartbeat)
            if not done:
                await stream.beat()
                continue
            event, data, event_id = upcoming.result()
            upcoming = None
            await stream.send(event, data, event_id)
    except (StopAsyncIteration, ClientConnectionResetError, ConnectionResetError):
        return response
    except CroftError as error:
        # The head is out, so this cannot become an error answer any more; the reader comes back and is told then.
        log.warning("a stream ended early", extra={"cause": error.message})
        return response
    finally:
        # Closed here and now: left to the garbage collector, its subscription would go on queueing.
        if upcoming is not None:
            upcoming.cancel()
            await asyncio.wait({upcoming})
        await items.aclose()


def last_event_id(request: web.Request) -> int | None:
    """Where a returning reader left off, from the header browsers send or ``?after=``."""
    text = request.headers.get("Last-Event-ID") or request.query.get("after", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


class Streams:
    """Open streams by session, so that ending a session ends them at once."""

    def __init__(self) -> None:
        self._open: dict[str, set[asyncio.Task[Any]]] = {}

    async def run(self, tag: str, work: Coroutine[Any, Any, web.StreamResponse]) -> web.StreamResponse:
        """Run a stream in the task of its request until it ends or :meth:`close` is called for its tag. Raises TooMany."""
        mine = self._open.setdefault(tag, set())
        if len(mine) >= STREAMS_MAX:
            work.close()
            raise TooMany("this session has too many open streams", retry_after=5, hint="Close some tabs.")
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        mine.add(task)
        try:
            # Cancelled by us or as the reader goes: either way aiohttp closes the connection without a word.
            return await work
        finally:
            mine.discard(task)
            if not mine:
                self._open.pop(tag, None)

    def close(self, tag: str) -> None:
        """End every stream of a session."""
        for task in list(self._open.get(tag, ())):
            task.cancel()

    def close_all(self) -> None:
        for tag in list(self._open):
            self.close(tag)
