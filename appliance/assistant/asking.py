"""One request to the model: its turn in the line, an engine that is awake, the audit record before, the answer as it comes, the use after.

Rules: the engine is held from the question to the last byte and no longer, least of all while a person thinks. What is asked is on
record before it is asked (AI-12). Cancelling closes the connection, and with it the engine's work (AI-13).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from appliance.assistant import prompts
from appliance.assistant.caps import CapReached, Meter
from appliance.assistant.engine import Engine, Upstream
from appliance.assistant.line import Line
from appliance.assistant.live import Live
from appliance.assistant.person import Person
from appliance.assistant.tokens import Tokens
from appliance.audit import AuditLog
from appliance.errors import Unavailable
from appliance.events import EventBus

if TYPE_CHECKING:
    from appliance.assistant.client import Client, Piece, Question
    from appliance.assistant.quotas import Quotas

TOPIC = "assistant"  # of the bus: how the engine is
REMOTE_PLACES = 4
MOST_CALLS = 16
MOST_ARGUMENTS = 400_000
MOST_TEXT = 400_000


@dataclass
class RawCall:
    """A call as the model sent it, put together from its pieces."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass
class Reply:
    """What came. ``read`` and ``written`` are tokens, as the engine counted or else as we guess."""

    text: str = ""
    calls: list[RawCall] = field(default_factory=list)
    finish: str = ""
    read: int = 0
    written: int = 0
    first_seconds: float = 0.0
    seconds: float = 0.0
    model: str = ""


@dataclass(frozen=True)
class Speed:
    """Tokens a second: of reading a prompt, of writing an answer."""

    reading: float
    writing: float


# Composes the question once the engine, and so the model and its context, is known.
Compose = Callable[[Upstream, "type[Question]"], "Question"]


class Asking:
    """``client`` gives the page :mod:`appliance.assistant.client`, imported off the loop and warm; ``quotas`` who counts a day's use."""

    def __init__(
        self,
        engine: Engine,
        client: Callable[[], Awaitable[Any]],
        quotas: Callable[[], Awaitable[Quotas]],
        audit: AuditLog,
        bus: EventBus,
    ) -> None:
        self.engine, self.line, self.tokens = engine, Line(self._places), Tokens()
        self._client, self._quotas, self._audit, self._bus = client, quotas, audit, bus
        self.speeds: dict[str, Speed] = {}

    async def ask(self, person: Person, live: Live, meter: Meter, compose: Compose, *, show: bool = True) -> Reply:
        """Ask, and show the answer while it comes. Raises CapReached, CroftError."""
        loading = asyncio.ensure_future(self._client())  # while the engine starts
        try:
            async with self.line.turn(person.id, live.waiting), self._awake(live) as upstream:
                page = await loading
                question = compose(upstream, page.Question)
                live.model = upstream.model
                async with self._counted(person, live, upstream, question) as reply:
                    live.working("reading" if show else "choosing")
                    with meter.working():
                        await self._hear(page, upstream, question, reply, live if show else None, meter)
                meter.tokens += reply.written
                self._learn(question, reply)
                return reply
        finally:
            loading.cancel()
            await asyncio.wait({loading})
            if not loading.cancelled():
                loading.exception()  # seen: it is raised above where it mattered

    def _places(self) -> int:
        """This machine does one thing at a time well; an endpoint elsewhere several."""
        return REMOTE_PLACES if self.engine.status().remote else 1

    async def quietly(self, person: Person, compose: Compose, seconds: float) -> str:
        """Ask something of our own (a title) if nobody else waits. Raises CroftError, TimeoutError."""
        page = await self._client()
        async with asyncio.timeout(seconds), self.line.turn(person.id), self.engine.hold("title") as upstream:
            question = compose(upstream, page.Question)
            async with self._counted(person, None, upstream, question) as reply:
                await self._hear(page, upstream, question, reply, None, None)
            return reply.text

    @asynccontextmanager
    async def _awake(self, live: Live) -> AsyncIterator[Upstream]:
        """The engine, held; the reader is told how far it is meanwhile."""
        watching = asyncio.create_task(self._watch(live), name="status of the engine")
        try:
            async with self.engine.hold("chat") as upstream:
                await _end(watching)
                yield upstream
        finally:
            await _end(watching)

    async def _watch(self, live: Live) -> None:
        async with self._bus.subscribe({TOPIC}) as events:
            live.engine(self.engine.status())
            async for _ in events:
                live.engine(self.engine.status())

    @asynccontextmanager
    async def _counted(
        self, person: Person, live: Live | None, upstream: Upstream, question: Question
    ) -> AsyncIterator[Reply]:
        """On record before and after, and within the day's quota. Raises QuotaReached, AuditUnavailable."""
        from appliance.assistant.quotas import Client as Consumer

        estimate = self.tokens.of_prompt(question.messages, upstream.model)
        use = (await self._quotas()).begin(Consumer(f"chat:{person.id}", person.id), estimate + question.max_tokens)
        reply, result = Reply(model=upstream.model), "failed"
        try:
            about: dict[str, Any] = {"message": live.message.id} if live else {"for": "title"}
            intent = await self._audit.note(
                "ai.ask", person.actor, **about, prompt=prompts.digest(question.messages), model=upstream.model,
                remote=upstream.remote, tokens=estimate,
            )  # fmt: skip
            try:
                yield reply
                result = "done"
            except asyncio.CancelledError:
                result = "stopped"
                raise
            finally:
                reply.read = reply.read or (estimate if reply.first_seconds else 0)
                reply.written = reply.written or self.tokens.of(reply.text, upstream.model) * bool(reply.text)
                await asyncio.shield(
                    self._audit.note(
                        "outcome", person.actor, intent, result=result, tokens_in=reply.read, tokens_out=reply.written
                    )
                )
        finally:
            use.end(reply.read, reply.written)

    async def _hear(
        self, page: Any, upstream: Upstream, question: Question, reply: Reply, live: Live | None, meter: Meter | None
    ) -> None:
        begin = time.monotonic()
        client: Client
        try:
            async with (
                asyncio.timeout(meter.seconds_left if meter else None),
                page.connected(upstream) as client,
                contextlib.aclosing(client.pieces(question)) as pieces,
            ):
                async for piece in pieces:
                    reply.first_seconds = reply.first_seconds or time.monotonic() - begin
                    _take(reply, piece)
                    if live is not None:
                        _show(live, piece)
        except TimeoutError as error:
            raise CapReached("seconds") from error
        finally:
            reply.seconds = time.monotonic() - begin

    def _learn(self, question: Question, reply: Reply) -> None:
        self.tokens.learn(question.messages, reply.read, reply.model)
        writing = reply.seconds - reply.first_seconds
        if reply.written >= 8 and reply.read >= 8 and writing > 0 and reply.first_seconds > 0:
            self.speeds[reply.model] = Speed(reply.read / reply.first_seconds, reply.written / writing)


def _take(reply: Reply, piece: Piece) -> None:
    """Add a piece. What no answer holds ends it as unreadable: a stream of anything without end."""
    reply.text += piece.text
    for part in piece.calls:
        if not 0 <= part.index < MOST_CALLS:
            raise _beyond()
        while len(reply.calls) <= part.index:
            reply.calls.append(RawCall())
        call = reply.calls[part.index]
        call.id, call.name = part.id or call.id, part.name or call.name
        call.arguments += part.arguments
        if len(call.arguments) > MOST_ARGUMENTS or len(call.name) > 200:
            raise _beyond()
    if len(reply.text) > MOST_TEXT:
        raise _beyond()
    reply.finish = piece.finish or reply.finish
    if piece.usage:
        reply.read, reply.written = piece.usage


def _show(live: Live, piece: Piece) -> None:
    if piece.text:
        live.working("writing")
        live.put(piece.text)
    elif piece.thinking:
        live.working("thinking")
    elif piece.calls:
        live.working("choosing")


def _beyond() -> Unavailable:
    return Unavailable(
        "the model server sent more than any answer holds", hint="What came so far is kept.", code="engine_garbled"
    )


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
