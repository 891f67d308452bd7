"""Answers: one at a time in each conversation, going on whoever looks, given to any number of readers.

Rules: an answer belongs to the daemon, not to the page that asked for it: it goes on when the reader goes, and ends when it is done, when
a person stops it, or when a cap is reached. However it ends, its message is closed and says how.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from appliance.assistant import prompts, titles
from appliance.assistant.asking import Asking, Reply
from appliance.assistant.bounds import check_chips, check_question
from appliance.assistant.caps import CapReached, Caps, Meter
from appliance.assistant.conversations import Conversations
from appliance.assistant.engine import Upstream
from appliance.assistant.live import Live, Painter
from appliance.assistant.loop import Hands, Loop
from appliance.assistant.messages import Conversation, Message, Role, State
from appliance.assistant.person import Person
from appliance.assistant.proposals import Proposal
from appliance.assistant.tools import Mistake
from appliance.errors import Conflict, CroftError, Forbidden, Invalid, NotFound
from appliance.events import LOST, EventBus

if TYPE_CHECKING:
    from appliance.assistant.client import Question

log = logging.getLogger(__name__)

MOST_UNDER_WAY = 4  # of one person, in different conversations
FREE_SECONDS = 2.0
TITLE_SECONDS = 90.0
LIKELY_TOKENS = 200  # of an answer, for "about N s"
END = "end"  # for `parent`: after the last message of the active path

Event = tuple[str, Mapping[str, Any], int | None]


@dataclass(frozen=True)
class Stopped:
    """``freed``: whether the engine itself says that it works on nothing; None where others are at work there."""

    stopped: bool
    freed: bool | None = None


@dataclass(frozen=True)
class Estimate:
    """What a question would cost: ``tokens`` of the prompt, of which ``context`` can be held; ``seconds`` to the end of a usual
    answer, None where nothing is known of this model's speed."""

    tokens: int
    context: int
    seconds: float | None


class Answers:
    """``caps`` and ``painter`` are asked for each answer; ``speed`` gives tokens a second measured elsewhere, if any."""

    def __init__(
        self,
        conversations: Conversations,
        asking: Asking,
        hands: Hands,
        feed: EventBus,
        caps: Callable[[], Caps],
        painter: Callable[[], Painter],
        speed: Callable[[], Awaitable[float | None]],
    ) -> None:
        self._store, self._asking, self._hands, self._feed = conversations, asking, hands, feed
        self._caps, self._painter, self._speed = caps, painter, speed
        self._live: dict[str, Live] = {}
        self._begun: dict[str, str] = {}  # conversation to person: being asked, or under way
        self._title: asyncio.Task[None] | None = None
        hands.proposals.changed = self._proposal_changed

    # --- asking

    async def ask(
        self,
        person: Person,
        conversation_id: str,
        text: str,
        *,
        parent: str | None = END,
        context: Sequence[Mapping[str, Any]] = (),
        tools: bool = False,
    ) -> tuple[Message, Message]:
        """Put a question; the answer begins. ``parent``: after which message (None: as the first, which is an edit of it).

        Raises CroftError: Conflict (``busy``) while an answer is under way in this conversation.
        """
        check_question(person, text, context, tools)
        conversation = await self._store.get(person.id, conversation_id)
        with _Begun(self._begun, conversation.id, person.id) as begun:
            self._check_room(person)
            path = await self._store.path(conversation)
            after = parent if parent != END else (path[-1].id if path else None)
            asked = await self._store.add(conversation, after, Role.USER, text, context=context)
            if not path:
                await self._name(conversation, titles.of_question(text))
            answer = await self._begin(person, conversation, asked.id, tools)
            begun.keep()
        return asked, answer

    async def regenerate(
        self, person: Person, conversation_id: str, message_id: str, *, tools: bool = False
    ) -> Message:
        """Another answer to the same question, beside the one there is. Raises CroftError."""
        check_question(person, "again", (), tools)
        conversation = await self._store.get(person.id, conversation_id)
        old = await self._store.message(conversation, message_id)
        if old.role is not Role.ASSISTANT or old.parent is None:
            raise Invalid("only an answer can be given again", hint="Edit the question instead.")
        with _Begun(self._begun, conversation.id, person.id) as begun:
            self._check_room(person)
            answer = await self._begin(person, conversation, old.parent, tools)
            begun.keep()
        return answer

    async def branch(self, person: Person, conversation_id: str, message_id: str) -> list[Message]:
        """Read on at another branch. Raises CroftError: Conflict while an answer is under way."""
        conversation = await self._store.get(person.id, conversation_id)
        if conversation.id in self._begun:
            raise _busy()
        return await self._store.branch(conversation, message_id)

    async def stop(self, person: Person, conversation_id: str) -> Stopped:
        """End the answer under way: the model's work, and the processes of a command it waits for (AI-13). Raises NotFound."""
        conversation = await self._store.get(person.id, conversation_id)
        live = self._live.get(conversation.id)
        if live is None:
            return Stopped(False)
        await self._end(live)
        await self._hands.audit.note("ai.stop", person.actor, message=live.message.id)
        return Stopped(True, await self._freed())

    async def drop(self, conversation_id: str) -> None:
        """Before a conversation is deleted: its answer ends."""
        if live := self._live.get(conversation_id):
            await self._end(live)

    async def save(self, person: Person, conversation_id: str, message_id: str, path: str, text: str) -> Proposal:
        """A block of an answer as a file: proposed, so that the person sees what it changes. Raises CroftError."""
        if not person.may_use_tools:
            raise Forbidden("files need the role operator", hint="Ask an admin of this appliance.")
        conversation = await self._store.get(person.id, conversation_id)
        message = await self._store.message(conversation, message_id)
        try:
            return await self._hands.proposals.write(conversation.id, message.id, person, path, text)
        except Mistake as mistake:
            raise Invalid(str(mistake), hint="Choose another name, or save less at once.", code="file") from mistake

    async def proposals(self, person: Person, conversation_id: str) -> list[Proposal]:
        """What was proposed in a conversation, the oldest first. Raises NotFound."""
        conversation = await self._store.get(person.id, conversation_id)
        return await self._hands.proposals.of(person.id, conversation.id)

    async def decide(self, person: Person, proposal_id: str, accept: bool) -> Proposal:
        """Accept or reject a proposed file. Raises CroftError."""
        proposals = self._hands.proposals
        return await (proposals.accept if accept else proposals.reject)(person, proposal_id)

    def running(self, conversation_id: str) -> bool:
        """Whether an answer is under way there."""
        return conversation_id in self._live

    async def close(self) -> None:
        """The daemon stops: what is under way is closed as interrupted."""
        tasks = [live.task for live in self._live.values() if live.task] + ([self._title] if self._title else [])
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- reading

    async def events(self, person: Person, conversation_id: str, *, text: bool = False) -> AsyncGenerator[Event, None]:
        """Everything as it is, then what changes: ``message`` ``status`` ``step`` ``proposal`` ``title``, and the words as ``block``, or
        with ``text`` as ``text``, whole each time. Raises NotFound."""
        conversation = await self._store.get(person.id, conversation_id)
        async with self._feed.subscribe({conversation.id}) as changes:
            left_out = "block" if text else "text"
            picture, seen = await self._picture(conversation, text)
            for name, data in picture:
                yield name, data, seen
            async for event in changes:
                if event.topic == LOST:
                    picture, seen = await self._picture(conversation, text)
                    for name, data in picture:
                        yield name, data, seen
                elif event.id > seen and event.data["event"] != left_out:
                    yield event.data["event"], event.data["data"], event.id

    async def output(self, run: str, most: int) -> str:
        """The end of what a run wrote, as the assistant may see it."""
        return await self._hands.shell.output(run, most)

    async def _picture(self, conversation: Conversation, text: bool) -> tuple[list[tuple[str, Mapping[str, Any]]], int]:
        """The state of the last answer and of what waits, and the event it is as of."""
        proposed = [
            ("proposal", one.data()) for one in await self._hands.proposals.of(conversation.owner, conversation.id)
        ]
        seen, found = self._feed.last_id, []
        if conversation.id not in self._live:
            path = await self._store.path(conversation)
            # In a thread, for a long answer takes longer than others should wait; what is told meanwhile comes after it.
            found = await asyncio.to_thread(self._finished, path, text)
        if live := self._live.get(conversation.id):
            # Nothing is awaited between such a picture and its number, so nothing happens there.
            seen, found = self._feed.last_id, live.events(text=text)
        return found + proposed, seen

    def _finished(self, path: Sequence[Message], text: bool) -> list[tuple[str, Mapping[str, Any]]]:
        if not path or path[-1].role is not Role.ASSISTANT:
            return []
        last = path[-1]
        if last.state is State.RUNNING:
            last = replace(last, state=State.INTERRUPTED)  # how it ended could not be saved
        live = Live(last, self._painter(), lambda name, data: None, lambda text: None)
        live.text, live.usage, live.model = last.text, dict(last.usage), last.model
        live.steps = [dict(step) for step in last.steps]
        live.ended(last)
        return live.events(text=text)

    async def estimate(
        self, person: Person, text: str, context: Sequence[Mapping[str, Any]], conversation_id: str = ""
    ) -> Estimate:
        """What asking this would cost. Raises CroftError."""
        check_chips(context)
        status, tokens = self._asking.engine.status(), self._asking.tokens
        said = [prompts.chip(one) for one in context]
        turns: list[dict[str, Any]] = [{"role": "user", "content": "\n\n".join([*said, text])}]
        if conversation_id:
            conversation = await self._store.get(person.id, conversation_id)
            turns = prompts.turns(await self._store.path(conversation)) + turns
        first = {"role": "system", "content": prompts.system(tools=False, data=bool(context))}
        found = tokens.of_prompt([first, *turns], status.model)
        return Estimate(found, status.context, await self._seconds(min(found, status.context or found), status.model))

    async def _seconds(self, tokens: int, model: str) -> float | None:
        if speed := self._asking.speeds.get(model):
            return tokens / speed.reading + LIKELY_TOKENS / speed.writing
        writing = await self._speed()
        # A prompt is read some times faster than an answer is written; how many is only known once it was measured.
        return tokens / (writing * 4) + LIKELY_TOKENS / writing if writing else None

    # --- an answer under way

    def _check_room(self, person: Person) -> None:
        """Before anything is kept: a question that is refused must not stay behind in the conversation."""
        if sum(owner == person.id for owner in self._begun.values()) > MOST_UNDER_WAY:
            raise Conflict(
                f"{MOST_UNDER_WAY} answers are under way for you already", hint="Wait for one, or stop it.", code="busy"
            )

    async def _begin(self, person: Person, conversation: Conversation, question: str, tools: bool) -> Message:
        if self._title is not None:
            self._title.cancel()  # a name can wait
        answer = await self._store.add(conversation, question, Role.ASSISTANT, "", state=State.RUNNING)

        def publish(name: str, data: Mapping[str, Any]) -> None:
            self._publish(conversation.id, name, data)

        live = Live(answer, self._painter(), publish, lambda text: self._store.append(answer, text))
        self._live[conversation.id] = live
        live.task = asyncio.create_task(self._answer(person, conversation, live, tools), name="answer")
        live.task.add_done_callback(_seen)
        for name, data in live.events():
            publish(name, data)
        return answer

    async def _answer(self, person: Person, conversation: Conversation, live: Live, tools: bool) -> None:
        state = State.FAILED
        try:
            path = await self._store.path(conversation)
            caps = self._caps()
            loop = Loop(self._asking, self._hands if tools else None, person, live, path[:-1], Meter(caps), caps.reply)
            _note(live, await loop.run())
            state = State.DONE
        except CapReached as reached:
            state = State.DONE
            live.usage["capped"] = reached.which
        except asyncio.CancelledError:
            state = State.STOPPED if live.stopping else State.INTERRUPTED
        except CroftError as error:
            live.usage["error"] = {"code": error.code, "message": error.message, "hint": error.hint}
        finally:
            await asyncio.shield(self._close(conversation, live, state))
        if state is State.DONE:
            self._title = asyncio.create_task(self._entitle(person, conversation), name="title")
            self._title.add_done_callback(_seen)

    async def _close(self, conversation: Conversation, live: Live, state: State) -> None:
        """Whatever happened, the message is no longer under way."""
        ended: Message | None = None
        try:
            ended = await self._store.finish(
                live.message, live.text.rstrip(), state, usage=live.usage, model=live.model, steps=live.steps
            )
        except (CroftError, sqlite3.Error, OSError) as error:
            log.error("cannot save how an answer ended; it will read as interrupted", exc_info=error)
        self._live.pop(conversation.id, None)
        self._begun.pop(conversation.id, None)
        live.ended(ended or live.closed(state))

    async def _end(self, live: Live) -> None:
        live.stopping = True
        if live.task is not None:
            live.task.cancel()
            await asyncio.wait({live.task})

    async def _freed(self) -> bool | None:
        """Whether the engine is idle within two seconds; None where somebody else's question keeps it busy."""
        deadline = asyncio.get_running_loop().time() + FREE_SECONDS
        while self._asking.line.quiet and not self._asking.engine.status().holds:
            if await self._asking.engine.idle():
                return True
            if asyncio.get_running_loop().time() > deadline:
                log.warning("the engine goes on working though its answer was stopped")
                return False
            await asyncio.sleep(0.1)
        return None

    # --- titles

    async def _name(self, conversation: Conversation, title: str) -> None:
        if title and not conversation.named:
            named = await self._store.rename(conversation, title, by_person=False)
            self._publish(conversation.id, "title", {"title": named.title})

    async def _entitle(self, person: Person, conversation: Conversation) -> None:
        """A better title after the first exchange, if nobody waits for the engine."""
        try:
            path = await self._store.path(conversation)
        except NotFound:
            return  # deleted meanwhile
        if len(path) != 2 or conversation.named or not self._asking.line.quiet:
            return
        said = prompts.title(prompts.turns(path))

        def compose(upstream: Upstream, question: type[Question]) -> Question:
            return question(said, titles.MAX_TOKENS, temperature=0.0)

        try:
            found = await self._asking.quietly(person, compose, TITLE_SECONDS)
            await self._name(await self._store.get(person.id, conversation.id), titles.of_model(found))
        except (CroftError, TimeoutError, CapReached) as error:
            log.info("no title from the model; the question's first words stay", extra={"cause": str(error)})

    # --- telling

    def _publish(self, conversation: str, name: str, data: Mapping[str, Any]) -> None:
        self._feed.publish(conversation, {"event": name, "data": data}, keep=False)

    def _proposal_changed(self, proposal: Proposal) -> None:
        self._publish(proposal.conversation, "proposal", proposal.data())


class _Begun:
    """One answer at a time in a conversation, from the first look at it. Kept, it stays marked until the answer ends."""

    def __init__(self, begun: dict[str, str], conversation: str, person: str) -> None:
        self._begun, self._conversation, self._person = begun, conversation, person
        self._kept = False

    def __enter__(self) -> _Begun:
        if self._conversation in self._begun:
            raise _busy()
        self._begun[self._conversation] = self._person
        return self

    def keep(self) -> None:
        self._kept = True

    def __exit__(self, *error: object) -> None:
        if not self._kept:
            self._begun.pop(self._conversation, None)


def _note(live: Live, reply: Reply) -> None:
    """What is kept of how it went."""
    live.usage |= {
        "prompt_tokens": reply.read,
        "completion_tokens": reply.written,
        "context_used": reply.read + reply.written,
        "first_seconds": round(reply.first_seconds, 2),
        "seconds": round(reply.seconds, 2),
    }
    if reply.finish == "length":
        live.usage["length"] = True


def _busy() -> Conflict:
    return Conflict("an answer is under way in this conversation", hint="Wait for it, or stop it.", code="busy")


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("an answer failed on our side", exc_info=error)
