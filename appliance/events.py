"""What just happened, told to whoever is listening: pages, streams, the link.

Rule: a publisher never waits for a reader. A reader that falls behind gets one ``lost`` event, which means
"look again at everything", and goes on from there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct

from appliance.clock import Clock

LOST = "lost"
KEPT = 512  # events kept for readers that come back
WAITING = 512  # events one reader may leave unread


class Event(Struct, frozen=True):
    """One event. ``id`` only ever grows, across restarts too; ``at`` is Unix seconds."""

    id: int
    topic: str
    data: Mapping[str, Any]
    at: float


class Reader:
    """One listener's own queue; iterate over it. It ends when the bus closes it."""

    def __init__(self, topics: Collection[str], tag: str, limit: int) -> None:
        self.topics = frozenset(topics)
        self.tag = tag
        self._limit = limit
        self._queue: deque[Event] = deque()
        self._stirred = asyncio.Event()
        self._closed = False

    def offer(self, event: Event) -> None:
        """Queue an event this reader asked for; a full queue collapses into one ``lost`` event."""
        if event.topic != LOST and event.topic not in self.topics:
            return
        self._queue.append(event)
        if len(self._queue) > self._limit:
            self._queue.clear()
            self._queue.append(Event(event.id, LOST, {}, event.at))
        self._stirred.set()

    def close(self) -> None:
        """End the iteration at once; what is still queued is not delivered."""
        self._closed = True
        self._stirred.set()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._closed:
            if self._queue:
                return self._queue.popleft()
            self._stirred.clear()
            await self._stirred.wait()
        raise StopAsyncIteration


class EventBus:
    """Publish and subscribe inside one process, on one event loop."""

    def __init__(self, clock: Clock, *, kept: int = KEPT, waiting: int = WAITING) -> None:
        self._clock = clock
        self._waiting = waiting
        self._ring: deque[Event] = deque(maxlen=kept)
        self._readers: set[Reader] = set()
        # Milliseconds of the wall clock: a browser that comes back after our restart holds an id below
        # every new one.
        self._last_id = self._first_id = int(clock.now() * 1000)

    @property
    def last_id(self) -> int:
        """Id of the newest event; reading from here on misses nothing published later."""
        return self._last_id

    def publish(self, topic: str, data: Mapping[str, Any], *, keep: bool = True) -> Event:
        """Tell every reader of ``topic``. Never blocks. What only counts at its moment is not kept for readers that return."""
        self._last_id += 1
        event = Event(self._last_id, topic, data, self._clock.now())
        if keep:
            self._ring.append(event)
        for reader in self._readers:
            reader.offer(event)
        return event

    def watched(self, topic: str, tags: Collection[str] | None = None) -> bool:
        """Whether anybody listens to ``topic`` now, or anybody whose tag is one of ``tags``; who produces it may take it easy
        otherwise."""
        return any(topic in one.topics and (tags is None or one.tag in tags) for one in self._readers)

    @asynccontextmanager
    async def subscribe(
        self, topics: Collection[str], after: int | None = None, *, tag: str = ""
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Events of ``topics`` from now on, or from just after event ``after``.

        ``tag`` says whose reader it is, for :meth:`close`. The first event is ``lost`` if some since
        ``after`` are gone.
        """
        reader = Reader(topics, tag, self._waiting)
        if after is not None:
            self._replay(reader, after)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def close(self, predicate: Callable[[str], bool]) -> int:
        """End every reader whose tag fits, as when a session is revoked. Answers how many."""
        ended = [reader for reader in self._readers if predicate(reader.tag)]
        for reader in ended:
            reader.close()
        return len(ended)

    def _replay(self, reader: Reader, after: int) -> None:
        oldest = self._ring[0].id if self._ring else self._last_id + 1
        if not oldest - 1 <= after <= self._last_id:
            reader.offer(Event(max(oldest - 1, self._first_id), LOST, {}, self._clock.now()))
        for event in self._ring:
            if event.id > after or after > self._last_id:
                reader.offer(event)
