"""Answers: one at a time in each conversation, going on whoever looks, given to any number of readers.

Rules: an answer belongs to the daemon, not to the page that asked for it: it goes on when the reader goes, and ends when it is done, when
a person stops it, or when a cap is reached. However it ends, its message is closed and says how.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.assistant.asking import Asking, Reply
from appliance.assistant.bounds import check_question
from appliance.assistant.caps import CapReached, Caps, Meter
from appliance.assistant.conversations import Conversations
from appliance.assistant.deciding import Deciding
from appliance.assistant.estimates import Estimates
from appliance.assistant.live import Live, Painter
from appliance.assistant.loop import Hands, Loop
from appliance.assistant.messages import Conversation, Message, Role, State
from appliance.assistant.naming import Naming
from appliance.assistant.person import Person
from appliance.assistant.proposals import Proposal
from appliance.assistant.watching import Watching
from appliance.errors import Conflict, CroftError, Invalid, NotFound
from appliance.events import EventBus

log = logging.getLogger(__name__)

MOST_UNDER_WAY = 4  # of one person, in different conversations
FREE_SECONDS = 2.0
END = "end"  # for `parent`: after the last message of the active path


@dataclass(frozen=True)
class Stopped:
    """``freed``: whether the engine itself says that it works on nothing; None where others are at work there."""

    stopped: bool
    freed: bool | None = None


class Answers:
    """``caps`` and ``painter`` are asked for each answer; ``speed`` gives tokens a second measured elsewhere, if any.

    ``watching`` reads along, ``deciding`` is what people do with an answer, ``estimates`` says what a question would cost.
    """

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
        self._caps, self._painter = caps, painter
        self._live: dict[str, Live] = {}
        self._begun: dict[str, _Begun] = {}  # by conversation: being asked, or under way
        self._leaving: set[str] = set()  # conversations that are being deleted
        self.watching = Watching(conversations, hands.proposals, feed, self._live, painter)
        self.deciding = Deciding(conversations, hands)
        self.estimates = Estimates(conversations, asking, speed)
        self._naming = Naming(conversations, asking, self._publish)
        hands.proposals.changed = self._proposal_changed

    # --- asking

    async def ask(
        self,
        person: Person,
        conversation_id: str,
        text: str,
        *,
        parent: str | None = END,
        edits: str = "",
        without: Collection[int] = (),
        context: Sequence[Mapping[str, Any]] = (),
        tools: bool = False,
    ) -> tuple[Message, Message]:
        """Put a question; the answer begins. ``parent``: after which message (None: as the first).

        ``edits`` names a question that this is another version of: it follows what that one follows, and what went along with that
        one goes along again, but for the pieces that ``without`` names by their places (from 0).
        Raises CroftError: Conflict (``busy``) while an answer is under way in this conversation.
        """
        conversation = await self._store.get(person.id, conversation_id)
        if edits:
            before = await self._store.message(conversation, edits)
            if before.role is not Role.USER:
                raise Invalid("only a question can be put in other words", hint="Ask for another answer instead.")
            kept = [chip for place, chip in enumerate(before.context) if place not in without]
            parent, context = before.parent, [*kept, *context]
        check_question(person, text, context, tools)
        with self._beginning(conversation.id, person, tools) as begun:
            path = await self._store.path(conversation)
            after = parent if parent != END else (path[-1].id if path else None)
            asked = await self._store.add(conversation, after, Role.USER, text, context=context)
            if not path:
                await self._naming.by_question(conversation, text)
            answer = await self._begin(begun, person, conversation, asked.id)
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
        with self._beginning(conversation.id, person, tools) as begun:
            answer = await self._begin(begun, person, conversation, old.parent)
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

    async def delete(self, person: Person, conversation_id: str) -> None:
        """Delete a conversation for good. Its answer ends first, and none begins meanwhile. Raises CroftError."""
        conversation = await self._store.get(person.id, conversation_id)
        self._leaving.add(conversation.id)
        try:
            if live := self._live.get(conversation.id):
                await self._end(live)
            await self._store.delete(conversation, person.actor)
        finally:
            self._leaving.discard(conversation.id)

    def let_go(self, person_id: str, *, here: bool, may_use_tools: bool) -> None:
        """A session of theirs ended, or may do less from now on. Nobody who is not ``here`` any more has an answer under way, and
        one that works with tools only who may use them."""
        for conversation, begun in self._begun.items():
            if begun.person == person_id and not (here and (may_use_tools or not begun.tools)):
                begun.let_go = True
                if live := self._live.get(conversation):
                    live.let_go = True
                    _cancel(live)

    def running(self, conversation_id: str) -> bool:
        """Whether an answer is under way there."""
        return conversation_id in self._live

    async def close(self) -> None:
        """The daemon stops: what is under way is closed as interrupted."""
        tasks = [live.task for live in self._live.values() if live.task]
        for live in self._live.values():
            _cancel(live)
        if tasks:
            await asyncio.wait(tasks)
        await self._naming.close()

    # --- an answer under way

    def _beginning(self, conversation: str, person: Person, tools: bool) -> _Begun:
        """Before anything is kept: a question that is refused must not stay behind in the conversation. Raises CroftError."""
        if conversation in self._leaving:
            raise _gone()
        if conversation in self._begun:
            raise _busy()
        if sum(begun.person == person.id for begun in self._begun.values()) >= MOST_UNDER_WAY:
            raise Conflict(
                f"{MOST_UNDER_WAY} answers are under way for you already", hint="Wait for one, or stop it.", code="busy"
            )
        return _Begun(self._begun, conversation, person.id, tools)

    async def _begin(self, begun: _Begun, person: Person, conversation: Conversation, question: str) -> Message:
        self._naming.step_aside()
        answer = await self._store.add(conversation, question, Role.ASSISTANT, "", state=State.RUNNING)
        if conversation.id in self._leaving:
            raise _gone()  # it is deleted after us, with the question

        def publish(name: str, data: Mapping[str, Any]) -> None:
            self._publish(conversation.id, name, data)

        def keep(text: str, steps: Sequence[Mapping[str, Any]]) -> None:
            self._store.append(answer, text, steps)

        live = Live(answer, self._painter(), publish, keep)
        live.let_go = begun.let_go
        self._live[conversation.id] = live
        live.task = asyncio.create_task(self._answer(person, conversation, live, begun.tools), name="answer")
        live.task.add_done_callback(_seen)
        if live.let_go:
            _cancel(live)
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
            state = State.STOPPED if live.stopping else State.FAILED if live.let_go else State.INTERRUPTED
            if live.let_go:
                live.usage["error"] = {"code": "let_go", "message": "who asked has signed out, or may do less by now"}
        except CroftError as error:
            live.usage["error"] = {"code": error.code, "message": error.message, "hint": error.hint}
        finally:
            await asyncio.shield(self._close(conversation, live, state))
        if state is State.DONE:
            self._naming.by_model(person, conversation)

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
        _cancel(live)
        if live.task is not None:
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

    # --- telling

    def _publish(self, conversation: str, name: str, data: Mapping[str, Any]) -> None:
        self._feed.publish(conversation, {"event": name, "data": data}, keep=False)

    def _proposal_changed(self, proposal: Proposal) -> None:
        self._publish(proposal.conversation, "proposal", proposal.data())


class _Begun:
    """One answer at a time in a conversation, from the first look at it. Kept, it stays marked until the answer ends.

    ``let_go``: who asks may not have it any more.
    """

    def __init__(self, begun: dict[str, _Begun], conversation: str, person: str, tools: bool) -> None:
        self._begun, self._conversation = begun, conversation
        self.person, self.tools = person, tools
        self.let_go = self._kept = False

    def __enter__(self) -> _Begun:
        self._begun[self._conversation] = self
        return self

    def keep(self) -> None:
        self._kept = True

    def __exit__(self, *error: object) -> None:
        if not self._kept:
            self._begun.pop(self._conversation, None)


def _cancel(live: Live) -> None:
    """After its first step, which waits already: cancelled before, it would never come to close its message."""
    if live.task is not None:
        asyncio.get_running_loop().call_soon(live.task.cancel)


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


def _gone() -> NotFound:
    return NotFound("there is no such conversation", hint="It may have been deleted.")


def _busy() -> Conflict:
    return Conflict("an answer is under way in this conversation", hint="Wait for it, or stop it.", code="busy")


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("an answer failed on our side", exc_info=error)
