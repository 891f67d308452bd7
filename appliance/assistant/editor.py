"""The daemon's end of the editor's windows: what each shows, and what people ask of them.

Rules: a window is a process of the workspace and every line of it is hostile until checked; what it says grants nothing. A window is
one person's where it is known whose it is, and nobody else's page hears of it; where that is not known it is everyone's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from appliance import __version__
from appliance.assistant import editor_words as words
from appliance.assistant.door import peer_pid
from appliance.assistant.editor_window import ANSWER_SECONDS, Asked, Owner, Window, fault
from appliance.assistant.tokens import Tokens
from appliance.clock import Clock
from appliance.errors import Conflict, CroftError, Invalid, NotFound

log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
NAMES_SECONDS = 20.0  # the whole workspace is looked through
SHOW_SECONDS = 10.0  # a tab is opened, and a difference computed
ACTIVE_SECONDS = 55.0
ASKED_SECONDS = 60.0
# A person's typing makes five lines a second at most; what is faster is no editor.
LINES_BURST, LINES_A_SECOND = 100, 20.0
DIFFS_KEPT = 20


class Surroundings(Protocol):
    """What the bridge needs of the rest of the appliance."""

    workspace: str  # absolute
    page: str  # address of the assistant's page

    def owner(self, pid: int) -> Owner | None:
        """Whose browser the process ``pid`` serves a window to; None where none has it open (any more)."""

    def alone(self) -> Owner | None:
        """The only person with an editor open, if there is just one."""

    def active(self, session: str) -> None:
        """A person works in the editor (DECIDED 14)."""

    def listening(self, person: str) -> bool:
        """Whether a page of theirs follows the editor."""

    def changed(self) -> None:
        """Pages may look again."""


class Diff(msgspec.Struct):
    """A proposal shown in a window. ``state``: shown, accepted, rejected, closed or failed; ``then`` is told once it is over, and
    ``about`` names what it shows for whoever asked for it."""

    id: str
    window: str
    person: str
    path: str
    state: str
    at: float
    about: str = ""
    then: Callable[[str], None] | None = None

    def end(self, state: str) -> None:
        self.state = state
        if self.then is not None:
            self.then(state)


class Editors:
    """All windows. :meth:`serve` takes a connection from the door; the rest is for pages and for answers under way."""

    def __init__(self, clock: Clock, around: Surroundings) -> None:
        self._clock = clock
        self._around = around
        self._windows: dict[str, Window] = {}
        self._diffs: deque[Diff] = deque(maxlen=DIFFS_KEPT)
        self._tokens = Tokens()
        self._count = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its first line to its end."""
        window = None
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                hello = words.read(await reader.readline())
            window = self._greet(hello, writer, peer_pid(writer.get_extra_info("socket")))
            if window is not None:
                await self._listen(window, reader)
        except (ValueError, TimeoutError, ConnectionError) as error:
            # Not this protocol, too long, too fast, too slow, or gone.
            log.info("a line of the editor was cut", extra={"cause": str(error)[:200]})
        finally:
            if window is not None:
                self._part(window)
            writer.close()

    def _greet(self, hello: words.Said, writer: asyncio.StreamWriter, pid: int) -> Window | None:
        if not isinstance(hello, words.Hello) or hello.window in self._windows:
            raise ValueError("the first line is not a greeting of its own")
        if hello.protocol != words.PROTOCOL:
            writer.write(b'{"type":"refused","code":"version"}\n')
            return None
        window = Window(hello, writer, pid, self._clock.now())
        self._windows[window.id] = window
        told = self._owner(window)
        window.send(
            {
                "type": "welcome",
                "protocol": words.PROTOCOL,
                "workspace": self._around.workspace,
                "page": self._around.page,
                "language": told.language if told else "",
            }
        )
        self._around.changed()
        return window

    async def _listen(self, window: Window, reader: asyncio.StreamReader) -> None:
        allowance, last = float(LINES_BURST), self._clock.uptime()
        while line := await reader.readline():
            now = self._clock.uptime()
            allowance, last = min(LINES_BURST, allowance + (now - last) * LINES_A_SECOND) - 1, now
            if allowance < 0:
                raise ValueError("too many lines a second")
            self._heard(window, words.read(line))

    def _heard(self, window: Window, said: words.Said) -> None:
        window.silent = False
        if isinstance(said, words.Answer):
            window.answered(said)
            return
        if isinstance(said, words.Hello):
            raise ValueError("a second greeting")
        if isinstance(said, words.Active):
            self._active(window)
            return
        if isinstance(said, words.State):
            if said.focused and not window.state.focused:
                window.active_at = self._clock.now()
            window.state = said
        elif isinstance(said, words.Asked):
            self._asked(window, said.kind)
        else:
            self._decided(window, said)
        self._around.changed()

    def _active(self, window: Window) -> None:
        window.active_at = self._clock.now()
        owner, now = self._owner(window), self._clock.uptime()
        if owner is not None and now - window.noted >= ACTIVE_SECONDS:
            window.noted = now
            self._around.active(owner.session)

    def _asked(self, window: Window, kind: str) -> None:
        owner = self._owner(window)
        window.active_at = self._clock.now()
        file = window.state.file
        window.asked = Asked(self._number(), window.id, kind, file.path if file else "", window.active_at)
        window.send(
            {"type": "heard", "whose": owner is not None, "page": bool(owner and self._around.listening(owner.person))}
        )

    def _decided(self, window: Window, said: words.Decided) -> None:
        for diff in self._diffs:
            if diff.id == said.diff and diff.window == window.id and diff.state in ("shown", "closed"):
                diff.end(said.state)  # "closed" may have been our guess while its line was down

    def _part(self, window: Window) -> None:
        del self._windows[window.id]
        window.gone()
        for diff in self._diffs:
            if diff.window == window.id and diff.state == "shown":
                diff.end("closed")
        self._around.changed()

    def _owner(self, window: Window) -> Owner | None:
        return self._known(window) or self._around.alone()

    def _known(self, window: Window) -> Owner | None:
        """Whose browser it is in by now, or was last: a window that was closed lives on for two minutes."""
        window.owner = self._around.owner(window.pid) or window.owner
        return window.owner

    def _number(self) -> str:
        self._count += 1
        return f"{self._count:x}-{int(self._clock.now() * 1000):x}"

    def outdated(self) -> bool:
        """Whether a window runs the extension of another Croft than this: one that was started before an update."""
        return any(window.version != __version__ for window in self._windows.values())

    # For pages.

    def windows(self, person: str) -> list[Window]:
        """Those of ``person`` and those of nobody in particular. Their own come first, then the one last worked in; what did not
        answer comes last: a window that was closed lives on for two minutes."""
        known = [(one, self._known(one)) for one in self._windows.values()]
        seen = [one for one, owner in known if owner is None or owner.person == person]
        return sorted(seen, key=lambda one: (one.silent, not self._is_of(one, person), -one.active_at))

    def _is_of(self, window: Window, person: str) -> bool:
        owner = self._owner(window)
        return owner is not None and owner.person == person

    def picture(self, person: str) -> dict[str, Any]:
        """What the topic ``editor`` tells: windows, what was asked there within a minute, what became of proposals."""
        seen, now = self.windows(person), self._clock.now()
        own = [one for one in seen if self._is_of(one, person)]
        asked = [one.asked for one in own if one.asked and one.asked.at > now - ASKED_SECONDS]
        rows = [
            {
                "id": one.id,
                "mine": self._is_of(one, person),
                "active_at": one.active_at,
                **msgspec.to_builtins(one.state),
            }
            for one in seen
        ]
        return {
            "windows": [{key: value for key, value in row.items() if key != "type"} for row in rows],
            "asked": msgspec.to_builtins(max(asked, key=lambda one: one.at, default=None)),
            "diffs": [diff_json(one) for one in self._diffs if one.person == person],
        }

    async def context(self, person: str, kinds: Sequence[str], window: str = "") -> list[dict[str, Any]]:
        """Chips of what the window shows: of each kind that there is something for. Raises CroftError."""
        seconds = NAMES_SECONDS if "names" in kinds else ANSWER_SECONDS
        found = await self._choose(person, window).ask(
            "context", words.Chips, seconds, kinds=list(dict.fromkeys(kinds))
        )
        chips: list[dict[str, Any]] = msgspec.to_builtins(found.chips)
        return [chip | {"tokens": self._tokens.of(chip["text"])} for chip in chips]

    async def insert(self, person: str, text: str, window: str = "") -> words.Inserted:
        """Put ``text`` at the cursor. Raises CroftError."""
        return await self._choose(person, window).ask("insert", words.Inserted, text=text)

    async def open(self, person: str, path: str, line: int, column: int, window: str = "") -> words.Opened:
        """Show a file of the workspace at a line. Raises CroftError."""
        where = self._beneath(path)
        return await self._choose(person, window).ask(
            "open", words.Opened, SHOW_SECONDS, path=where, line=line, column=column
        )

    async def diff(
        self,
        person: str,
        path: str,
        text: str,
        window: str = "",
        *,
        about: str = "",
        then: Callable[[str], None] | None = None,
    ) -> Diff:
        """Show what ``text`` would make of a file of the workspace, to be accepted or rejected. Raises CroftError.

        ``then`` is called with what became of it: accepted, rejected, failed, or closed, after which it may still be one of these.
        That is the window's word and no proof of anything: who needs to know looks at the file.
        """
        where, chosen = self._beneath(path), self._choose(person, window)
        made = Diff(secrets.token_hex(16), chosen.id, person, path, "shown", self._clock.now(), about, then)
        self._diffs.append(made)
        try:
            await chosen.ask("diff", words.Shown, SHOW_SECONDS, diff=made.id, path=where, text=text)
        except CroftError:
            made.state = "failed"
            raise
        finally:
            self._around.changed()
        return made

    async def decide(self, person: str, diff: str, accept: bool) -> Diff:
        """Accept or reject a proposal that is shown. Raises NotFound, or CroftError as the others do."""
        found = next((one for one in self._diffs if one.id == diff and one.person == person), None)
        if found is None:
            raise NotFound("there is no such proposal in the editor")
        if found.state != "shown":
            raise Conflict(f"this proposal is over: it was {found.state}", code="editor_over")
        done = await self._choose(person, found.window).ask("decide", words.Ended, diff=diff, accept=accept)
        if found.state == "shown":  # the window's own word may have come first
            found.end(done.state)
        self._around.changed()
        return found

    async def withdraw(self, person: str, about: str) -> None:
        """Take a proposal out of the editor that was decided elsewhere, or is to be shown anew; nobody is told of that."""
        for diff in [
            one for one in self._diffs if one.person == person and one.about == about and one.state == "shown"
        ]:
            diff.then = None
            with suppress(CroftError):  # its window is gone, and the tab with it
                await self.decide(person, diff.id, False)

    def _choose(self, person: str, wanted: str) -> Window:
        seen = self.windows(person)
        if wanted:
            seen = [one for one in seen if one.id == wanted]
        if not seen:
            raise fault("away")
        return seen[0]

    def _beneath(self, path: str) -> str:
        """The absolute path. By its letters alone: what links lead to is the editor's account's own affair."""
        parts = path.split("/")
        if not path or "\0" in path or path.startswith("/") or {"", ".", ".."} & set(parts):
            raise Invalid(
                "this is not the path of a file in the workspace", hint="Name it from the workspace's folder."
            )
        return f"{self._around.workspace}/{path}"


def diff_json(diff: Diff) -> dict[str, Any]:
    return {"id": diff.id, "window": diff.window, "path": diff.path, "state": diff.state, "at": diff.at}
