"""An answer with tools: ask the model, do what it calls for, tell it what came of it, until it answers.

Rules: the model only proposes (AI-1): what it calls looks, or waits for policy and person. Every step is on record with what was decided
(AI-12). What a tool brings is data, and from then on the answer is tainted (AI-3). A call that cannot be understood is answered, never
fatal; an answer that goes in circles or on and on is ended (AI-11).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from appliance.assistant import prompts, tools
from appliance.assistant.asking import Asking, RawCall, Reply
from appliance.assistant.caps import Meter
from appliance.assistant.compaction import UNKNOWN_CONTEXT, answer_room, fit
from appliance.assistant.engine import Upstream
from appliance.assistant.live import Live
from appliance.assistant.looking import Found, Looking
from appliance.assistant.messages import Message
from appliance.assistant.person import Person
from appliance.assistant.proposals import Proposal, Proposals, State
from appliance.assistant.taint import tainted
from appliance.assistant.tools import Call, Mistake
from appliance.audit import AuditLog
from appliance.errors import CroftError, Unavailable

if TYPE_CHECKING:
    from appliance.assistant.client import Question

DECIDE_SECONDS = 300.0  # in which a person decides; a command's approval runs out then too
RESULT_SHARE = 0.3  # of the context, for what one tool brings
ABOUT = 200  # characters of what a step is about, as it is shown
CHOICE_TOKENS = 1024
MOST_MUDDLED = 2  # answers in a row that are no choice, before the model is simply let answer


@dataclass(frozen=True)
class Ran:
    """A command as far as it is. ``state`` is the run's; ``reason`` in words, for the model; ``note`` for the person."""

    run: str
    state: str
    reason: str = ""
    exit: int | None = None
    bytes: int = 0


class Shell(Protocol):
    """Where commands are proposed: the commands room, as the assistant may use it."""

    async def check(self, person: Person, conversation: str) -> None:
        """Raises Forbidden where the person may not use tools any more: an answer goes on when roles change."""

    async def propose(
        self, person: Person, conversation: str, line: str, why: str, *, tainted: bool, picked: bool = False
    ) -> Ran:
        """Ask for a command in the person's name, as actor ai; ``picked`` where they chose the line. Raises CroftError."""

    async def over(self, run: str, told: Callable[[Ran], None]) -> Ran:
        """The run once it is over; ``told`` hears when it is decided."""

    async def output(self, run: str, most: int) -> str:
        """The end of what it wrote, at most ``most`` characters, secrets redacted (AI-7)."""

    async def cancel(self, person: Person, conversation: str, run: str) -> None:
        """Withdraw it, or end all its processes."""


@dataclass(frozen=True)
class Hands:
    """What tools work with."""

    looking: Looking
    proposals: Proposals
    shell: Shell
    audit: AuditLog


class Loop:
    """One answer. ``path`` is the conversation up to the question; without ``hands`` there are no tools."""

    def __init__(
        self,
        asking: Asking,
        hands: Hands | None,
        person: Person,
        live: Live,
        path: Sequence[Message],
        meter: Meter,
        most: int,
    ) -> None:
        """``most``: tokens of one reply."""
        self._asking, self._hands, self._person, self._live, self._meter = asking, hands, person, live, meter
        self._turns = prompts.turns(path)
        self._data = any(message.context for message in path)
        self._tainted = tainted(path)
        self._most = most
        self._steps: list[dict[str, Any]] = []  # as the model is told of them
        self._context = UNKNOWN_CONTEXT
        self._calls_tools = True  # whether the model does; found out with the first request
        self._muddled = 0

    async def run(self) -> Reply:
        """Until the model has answered. Raises CapReached, CroftError."""
        hands = self._hands
        if hands is None:
            return await self._ask()
        while True:
            self._meter.check()
            reply = await self._next()
            if reply is None:
                continue
            if not reply.calls:
                return reply
            self._live.paragraph()
            await self._carry_out(hands, reply)

    async def _next(self) -> Reply | None:
        """The model's next reply; None when there is another request to make first."""
        try:
            if self._calls_tools:
                reply = await self._ask(calling=True)
                return reply if self._calls_tools else None
            choice = await self._choose()
        except Unavailable as error:
            if error.code != "engine_rejected":
                raise
            # The server knows no tools, or no schema either: less is asked of it, in the end a plain answer.
            if self._calls_tools:
                self._calls_tools = False
                return None
            choice = Reply()
        return choice if choice is None or choice.calls else await self._ask()

    async def _ask(self, *, calling: bool = False, choose: bool = False) -> Reply:
        def compose(upstream: Upstream, question: type[Question]) -> Question:
            return self._compose(upstream, question, calling=calling, choose=choose)

        try:
            return await self._asking.ask(self._person, self._live, self._meter, compose, show=not choose)
        except _NoTools:
            return Reply()

    def _compose(self, upstream: Upstream, question: type[Question], *, calling: bool, choose: bool) -> Question:
        if calling and not upstream.tools:
            self._calls_tools = False
            raise _NoTools
        self._context = upstream.context or UNKNOWN_CONTEXT
        room = min(answer_room(self._context, CHOICE_TOKENS if choose else self._most), max(1, self._meter.tokens_left))
        text = prompts.system(tools=calling or choose, data=self._data or bool(self._steps), choose=choose)
        described = tools.described() if calling else []
        taken = self._asking.tokens.of(json.dumps(described), upstream.model) if tools else 0
        fitted = fit(text, self._turns, self._steps, self._context - room - taken, self._asking.tokens, upstream.model)
        self._live.usage |= {"context": self._context, "context_used": fitted.tokens + taken}
        if fitted.left_out or fitted.cut:
            self._live.usage |= {"left_out": fitted.left_out, "cut": fitted.cut}
        return question(
            fitted.messages,
            room,
            described,
            tools.choice_schema() if choose else None,
            temperature=0.0 if choose else None,
        )

    # --- models that do not call tools: one choice at a time, in JSON of a fixed shape

    async def _choose(self) -> Reply | None:
        reply = await self._ask(choose=True)
        try:
            action, arguments = tools.chosen(reply.text)
        except Mistake as mistake:
            self._muddled += 1
            if self._muddled >= MOST_MUDDLED:
                return Reply()  # it cannot: let it answer in its own words
            self._steps += [
                {"role": "assistant", "content": reply.text[:400]},
                {"role": "user", "content": str(mistake)},
            ]
            return None
        self._muddled = 0
        if action == "answer":
            return Reply()
        reply.calls = [RawCall(f"step-{self._meter.steps + 1}", action, arguments)]
        return reply

    # --- carrying out

    async def _carry_out(self, hands: Hands, reply: Reply) -> None:
        if self._calls_tools:
            calls = [_echo(call, number) for number, call in enumerate(reply.calls)]
            self._steps.append({"role": "assistant", "content": reply.text, "tool_calls": calls})
        else:
            self._steps.append({"role": "assistant", "content": reply.text})
        for number, raw in enumerate(reply.calls):
            text = await self._step(hands, raw)
            if self._calls_tools:
                self._steps.append({"role": "tool", "tool_call_id": raw.id or f"call-{number}", "content": text})
            else:
                self._steps.append({"role": "user", "content": f"Result of {raw.name}:\n{text}"})

    async def _step(self, hands: Hands, raw: RawCall) -> str:
        """One call, from what the model sent to what it is told; on record whatever happens."""
        number = self._meter.step(raw.name, {"sent": raw.arguments})
        self._live.working("tool")
        self._live.step(number, tool=raw.name[:40], state="running")
        step = _Step(number, raw.name[:40])
        try:
            call = tools.understood(raw.id, raw.name, raw.arguments)
            self._live.step(number, about=_about(call))
            await hands.shell.check(self._person, self._live.message.conversation)
            text = await self._do(hands, call, step)
        except Mistake as mistake:
            step.decision, text = "mistake", str(mistake)
            self._live.step(number, note=text[:ABOUT])
        except CroftError as error:
            step.decision, text = "failed", f"That did not work: {error.message}. {error.hint}".strip()
            self._live.step(number, note=error.message)
        except asyncio.CancelledError:
            step.decision = "stopped"
            raise
        finally:
            self._live.step(number, state=step.decision, exit=step.exit, bytes=step.bytes)
            await asyncio.shield(self._note(hands, raw, step))
        self._tainted = True
        return text

    async def _note(self, hands: Hands, raw: RawCall, step: _Step) -> None:
        await hands.audit.note(
            "ai.step",
            f"ai:{self._person.actor}",
            message=self._live.message.id,
            n=step.number,
            tool=step.tool,
            arguments=hashlib.sha256(raw.arguments.encode("utf-8", "replace")).hexdigest(),
            decision=step.decision,
            run=step.run,
            proposal=step.proposal,
            exit=step.exit,
            bytes=step.bytes,
        )

    async def _do(self, hands: Hands, call: Call, step: _Step) -> str:
        given = call.arguments
        match call.tool:
            case "write_file":
                return await self._write(hands, step, given["path"], given["content"])
            case "propose_command":
                return await self._command(hands, step, given["command"], given.get("why", ""))
            case _:
                with self._meter.working():
                    found = await self._look(hands.looking, call)
                return self._found(step, found)

    async def _look(self, looking: Looking, call: Call) -> Found:
        given = call.arguments
        match call.tool:
            case "list_files":
                return await looking.list_files(given.get("path", ""))
            case "search_files":
                return await looking.search_files(given["text"], given.get("path", ""))
            case _:
                return await looking.read_file(given["path"], given.get("from_line", 1), most=self._room)

    def _found(self, step: _Step, found: Found) -> str:
        step.decision, step.bytes = "done", found.bytes
        return prompts.block("output", f"{step.tool} {found.about}", found.text[: self._room + ABOUT])

    async def _write(self, hands: Hands, step: _Step, path: str, content: str) -> str:
        proposal = await hands.proposals.write(
            self._live.message.conversation, self._live.message.id, self._person, path, content, tainted=self._tainted
        )
        step.proposal, step.bytes = proposal.id, len(content.encode())
        self._live.step(step.number, state="waiting", proposal=proposal.id)
        self._live.working("deciding")
        decided = await hands.proposals.wait(proposal, DECIDE_SECONDS)
        step.decision = str(decided.state)
        if decided.edited:
            return "The person accepted it with changes of their own. Read the file again before you go on."
        return _DECIDED.get(decided.state, "It could not be written.")

    async def _command(self, hands: Hands, step: _Step, line: str, why: str) -> str:
        conversation = self._live.message.conversation
        asking = asyncio.ensure_future(
            hands.shell.propose(self._person, conversation, line, why, tainted=self._tainted)
        )
        try:
            ran = await asyncio.shield(asking)
            step.run = ran.run
            return await self._follow(hands, step, line, ran)
        except asyncio.CancelledError:
            # Also one that is just being proposed: what nobody follows must neither wait nor run.
            await asyncio.shield(self._withdraw(hands, conversation, asking))
            raise

    async def _withdraw(self, hands: Hands, conversation: str, asking: asyncio.Future[Ran]) -> None:
        with contextlib.suppress(CroftError):  # it never came to be, or is over
            await hands.shell.cancel(self._person, conversation, (await asking).run)

    async def _follow(self, hands: Hands, step: _Step, line: str, ran: Ran) -> str:
        """A command from its proposal to its end, in words for the model."""
        conversation = self._live.message.conversation
        if ran.state == "refused":
            step.decision = "refused"
            self._live.step(step.number, run=ran.run, note=ran.reason)
            return f"It is not allowed: {ran.reason}"
        proposal = await hands.proposals.command(
            conversation, self._live.message.id, self._person, ran.run, tainted=self._tainted
        )
        step.proposal = proposal.id
        self._tell(step, ran)
        ran = await hands.shell.over(ran.run, lambda now: self._tell(step, now))
        step.decision, step.exit, step.bytes = ran.state, ran.exit, ran.bytes
        if ran.state in _NOT_RUN:
            return _NOT_RUN[ran.state]
        output = await hands.shell.output(ran.run, self._room)
        status = f"exit status {ran.exit}" if ran.exit is not None else ran.state
        return f"It ran: {status}.\n{prompts.block('output', line, output or '(no output)')}"

    def _tell(self, step: _Step, ran: Ran) -> None:
        self._live.working("deciding" if ran.state == "waiting" else "tool")
        self._live.step(step.number, state=ran.state, run=ran.run, proposal=step.proposal)

    @property
    def _room(self) -> int:
        """Characters that one result may take."""
        return max(600, min(16_000, int(self._context * RESULT_SHARE * 3)))


@dataclass
class _Step:
    """What the record will say."""

    number: int
    tool: str
    decision: str = "failed"
    run: str = ""
    proposal: str = ""
    exit: int | None = None
    bytes: int = 0


class _NoTools(Exception):
    """The model in use does not call tools."""


_DECIDED = {
    State.ACCEPTED: "The person accepted it; the file is written.",
    State.REJECTED: "The person rejected it. Do not propose it again; ask or do something else.",
    State.OPEN: "The person has not decided yet. Go on without it, and say that it waits.",
    State.STALE: "The file changed meanwhile, so nothing was written. Read it again.",
}
_NOT_RUN = {
    "denied": "The person denied it. Do not propose it again; ask or do something else.",
    "expired": "Nobody decided in time, so it did not run.",
    "cancelled": "It was cancelled.",
}


def _echo(call: RawCall, number: int) -> dict[str, Any]:
    """A call of the model as it is told of it again. Some servers fail on arguments that are no JSON."""
    try:
        json.loads(call.arguments or "{}")
        arguments = call.arguments or "{}"
    except (ValueError, RecursionError):
        arguments = "{}"
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id or f"call-{number}", "type": "function", "function": function}


def _about(call: Call) -> str:
    """What a step is about, for the person."""
    given = call.arguments
    return str(given.get("command") or given.get("text") or given.get("path") or "")[:ABOUT]


__all__ = ["Hands", "Loop", "Proposal", "Ran", "Shell"]
