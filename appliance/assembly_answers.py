"""Putting the assistant's answers together, built with the first question or reader; and what it may ask of the commands room.

Rule: a command of the assistant is asked for as actor ``ai`` in the name of the person it answers, with that person's role at most, and
goes the way of every other command (AI-1).
"""

from __future__ import annotations

import asyncio
import importlib
import tomllib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import replace

from appliance.assistant.engine import Engine
from appliance.assistant.room import Late
from appliance.commands import redact
from appliance.commands.asker import Asker
from appliance.commands.assessing import Proposal
from appliance.commands.display import render
from appliance.commands.front import Commands
from appliance.commands.history import OPEN, Run, State
from appliance.commands.model import Actor, Role
from appliance.commands.output import saved
from appliance.commands.policy_text import packaged
from appliance.commands.values import Exclusions
from appliance.errors import Forbidden
from appliance.events import EventBus
from appliance.identity.sessions import Session, Sessions
from appliance.identity.users import Role as UserRole
from appliance.messages import Message
from appliance.settings import Settings
from appliance.settings_desk import SettingsDesk
from appliance.store import Store

if TYPE_CHECKING:
    from appliance.assistant.answers import Answers
    from appliance.assistant.conversations import Conversations
    from appliance.assistant.loop import Ran
    from appliance.assistant.models import Models
    from appliance.assistant.person import Person
    from appliance.assistant.quotas import Quotas

WAIT_SECONDS = 3600.0
LOOK_SECONDS = 2.0
STYLE = "\x1b"


class AnswerParts:
    """``answers`` is built when it is first asked for. ``markup`` names the module that paints text."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        bus: EventBus,
        desk: SettingsDesk,
        engine: Engine,
        commands: Commands,
        conversations: Late[Conversations],
        quotas: Late[Quotas],
        models: Late[Models],
        say: Callable[[Message], str],
        *,
        markup: str,
    ) -> None:
        """``say`` puts a message of the commands room into words for the model (in English, which all of them read)."""
        self._settings, self._store, self._bus, self._desk = settings, store, bus, desk
        self._engine, self._commands, self._conversations, self._quotas = engine, commands, conversations, quotas
        self._models, self._say, self._markup = models, say, markup
        self._client: Late[Any] = Late("appliance.assistant.client", _warmed)
        self.answers: Late[Answers] = Late("appliance.assistant.answers", self._build)

    def let_go(self, session: Session, sessions: Sessions) -> None:
        """A session ended, or its person may do less from now on: their answers end with what they lost."""
        if self.answers.made is not None:
            person = session.user
            here = any(not one.ended for one in sessions.of(person.id))
            self.answers.made.let_go(person.id, here=here, may_use_tools=person.role >= UserRole.operator)

    async def close(self) -> None:
        """Close what is under way as interrupted."""
        if self.answers.made is not None:
            await self.answers.made.close()

    async def _build(self, module: ModuleType) -> Answers:
        painting = await asyncio.to_thread(importlib.import_module, self._markup)
        floor = await asyncio.to_thread(_floor)
        from appliance.assistant.asking import Asking
        from appliance.assistant.caps import Caps
        from appliance.assistant.looking import Looking
        from appliance.assistant.loop import Hands
        from appliance.assistant.proposals import Proposals

        store, desk = self._store, self._desk
        files = self._commands.files
        looking = Looking(
            files,
            str(self._settings.paths.workspace),
            lambda part: floor.covers(part) or self._commands.policy.exclusions.covers(part),
            redact.body,
        )
        proposals = Proposals(store.database, store.audit, store.clock, files, looking)
        await proposals.recover()
        asking = Asking(self._engine, self._client.get, self._quotas.get, store.audit, self._bus)
        hands = Hands(looking, proposals, CommandsForAssistant(self._commands, self._bus, self._say), store.audit)

        def caps() -> Caps:
            now = desk.current
            return Caps(now.ai_steps, tokens=now.ai_answer_tokens, seconds=now.ai_answer_minutes * 60.0)

        async def speed() -> float | None:
            return await (await self._models.get()).speed()

        made: Answers = module.Answers(
            await self._conversations.get(),
            asking,
            hands,
            EventBus(store.clock),
            caps,
            lambda: painting.Streaming(breaks=False),
            speed,
        )
        return made


def _floor() -> Exclusions:
    """The names that the packaged policy excludes: kept from the assistant whatever the owner's policy says (AI-8)."""
    return Exclusions.of(tomllib.loads(packaged())["paths"]["exclude"])


async def _warmed(module: ModuleType) -> ModuleType:
    await module.warm()
    return module


class CommandsForAssistant:
    """The commands room as the assistant may use it (``appliance.assistant.loop.Shell``)."""

    def __init__(self, commands: Commands, bus: EventBus, say: Callable[[Message], str]) -> None:
        self._commands, self._bus, self._say = commands, bus, say

    async def check(self, person: Person, conversation: str) -> None:
        """Raises Forbidden where the person may not use tools any more."""
        asker = await self._commands.as_now(_asker(person, conversation, True))
        if asker.role == "viewer":
            raise Forbidden("files and commands need the role operator", hint="Ask an admin of this appliance.")

    async def propose(
        self, person: Person, conversation: str, line: str, why: str, *, tainted: bool, picked: bool = False
    ) -> Ran:
        """Ask for a command in the person's name. Raises CroftError."""
        asker = replace(_asker(person, conversation, tainted), picked=picked)
        return self._ran(await self._commands.propose(asker, Proposal(line, why=why)))

    async def over(self, run: str, told: Callable[[Ran], None]) -> Ran:
        """The run once it is over; ``told`` hears when it is decided."""
        seen = ""
        async with self._bus.subscribe({"runs"}) as changes:
            while True:
                found = await self._commands.wait(run, WAIT_SECONDS if seen == State.RUNNING else 0)
                if found.state not in OPEN:
                    return self._ran(found)
                if found.state != seen:
                    seen = str(found.state)
                    told(self._ran(found))
                    continue
                if found.state is State.WAITING and self._commands.approvals.remaining(found) <= 0:
                    return self._ran(found, state="expired")
                try:
                    async with asyncio.timeout(LOOK_SECONDS):  # nobody tells when a proposal has run out
                        await anext(changes)
                except TimeoutError:
                    continue

    async def output(self, run: str, most: int) -> str:
        """The end of what it wrote, secrets redacted."""
        text = b""
        async for frames in saved(self._commands.history.output(run), 0):
            text = (text + b"".join(frame.data for frame in frames))[-8 * most :]
        shown = redact.body(_plain(render(text))).strip("\n")
        return shown if len(shown) <= most else f"[... the beginning is cut ...]\n{shown[-most:]}"

    async def cancel(self, person: Person, conversation: str, run: str) -> None:
        """Withdraw it, or end all its processes; one that is over by now stays so."""
        found = await self._commands.wait(run, 0)
        if found.state in OPEN:
            await self._commands.cancel(_asker(person, conversation, True), run)

    def _ran(self, run: Run, *, state: str = "") -> Ran:
        from appliance.assistant.loop import Ran

        done = run.outcome
        reason = self._say(run.reason) if run.state is State.REFUSED else ""
        size = done.stdout_bytes + done.stderr_bytes
        return Ran(run.id, state or str(run.state), reason, done.exit_code, size)


def _asker(person: Person, conversation: str, tainted: bool) -> Asker:
    user = "" if person.id == "console" else person.id
    return Asker(
        Actor.AI, cast(Role, person.role), person=user, name=person.name, session=conversation, tainted=tainted
    )


def _plain(text: str) -> str:
    """Without the colours that are left."""
    parts = text.split(STYLE)
    return parts[0] + "".join(part.partition("m")[2] for part in parts[1:])
