"""Runs in words and lines: what a card says of a proposal, and what a command wrote, ready for the page.

Rule: what a command or its asker wrote is text: unseen characters are spelt out, colours come from a closed list (AI-4, WEB-15).
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec import Struct, field

from appliance.commands.display import render
from appliance.commands.hidden import Hidden, hidden, is_hidden
from appliance.commands.history import Run, State
from appliance.commands.judge import Policy
from appliance.commands.output import STDERR, Frame
from appliance.messages import Message
from webui.filters import Piece
from webui.log_lines import Part, parts

LINES = 1000  # shown by the page itself; scripts show more, the download is whole
LINE_MOST = 4000  # characters of one line
# Programs whose meaning is said in a sentence of its own: ``meaning.NAME`` of the catalogue.
MEANINGS = {
    "bash": "shell", "sh": "shell", "zsh": "shell", "dash": "shell",
    "python": "code", "python3": "code", "node": "code", "ruby": "code", "perl": "code", "php": "code", "deno": "code", "bun": "code",
    "npm": "packages", "pnpm": "packages", "yarn": "packages", "pip": "packages", "pip3": "packages", "uv": "packages",
    "poetry": "packages", "cargo": "build", "go": "build", "make": "build", "gradle": "build", "mvn": "build", "cmake": "build",
    "pytest": "tests", "tox": "tests", "jest": "tests", "vitest": "tests",
    "git": "git", "rm": "remove", "mv": "move", "cp": "copy", "mkdir": "make_folder", "touch": "make_file", "chmod": "modes",
    "curl": "fetch", "wget": "fetch", "ssh": "remote", "scp": "remote", "rsync": "remote", "docker": "containers",
    "kill": "signals", "pkill": "signals", "tar": "archives", "unzip": "archives", "zip": "archives", "sed": "rewrite",
}  # fmt: skip
# What each state looks like in the icon sprite.
ICONS = {
    State.WAITING: "clock", State.RUNNING: "state-starting", State.DONE: "check", State.FAILED: "state-failed",
    State.REFUSED: "state-parked", State.DENIED: "close", State.EXPIRED: "clock", State.CANCELLED: "state-stopped",
    State.INTERRUPTED: "state-unwell", State.KILLED: "state-failed",
}  # fmt: skip


class Line(Struct):
    """One line of output: ``stream`` is stdout or stderr; ``cut`` where it was too long to show whole."""

    stream: str
    text: str = ""
    cut: bool = False

    @property
    def parts(self) -> list[Part]:
        return parts(self.text)


class Lines(Struct):
    """The end of an output: its last lines, and how many came before."""

    kept: list[Line] = field(default_factory=list)
    before: int = 0
    _open: bool = False

    def add(self, stream: str, text: str) -> None:
        """Text as it came. A line goes on while the same stream writes; a carriage return begins it again."""
        for number, piece in enumerate(text.replace("\r\n", "\n").split("\n")):
            if number:
                self._open = False
            if not piece:
                continue
            if not self._open or self.kept[-1].stream != stream:
                self.kept.append(Line(stream))
                self._open = True
            self._extend(self.kept[-1], piece)
            if len(self.kept) > 2 * LINES:
                self._trim()

    def end(self) -> Lines:
        self._trim()
        return self

    @staticmethod
    def _extend(line: Line, piece: str) -> None:
        start, back, rest = piece.rpartition("\r")
        text = rest if back and rest else start.rpartition("\r")[2] if back else line.text + piece
        line.cut = len(text) > LINE_MOST
        line.text = text[:LINE_MOST]

    def _trim(self) -> None:
        extra = max(0, len(self.kept) - LINES)
        self.before += extra
        del self.kept[:extra]


async def lines_of(frames: AsyncIterator[list[Frame]]) -> Lines:
    """The last lines of a kept output."""
    found = Lines()
    async for some in frames:
        for frame in some:
            found.add("stderr" if frame.stream == STDERR else "stdout", render(frame.data))
    return found.end()


def spelled(word: str) -> list[Piece]:
    """A word of a command with everything that cannot be seen spelt out as its code point."""
    found: list[Piece] = []
    for char in word:
        unseen = is_hidden(char)
        if found and not unseen and not found[-1].hidden:
            found[-1] = Piece(found[-1].text + char, False)
        else:
            found.append(Piece(f"U+{ord(char):04X}" if unseen else char, unseen))
    return found


def unseen(text: str) -> list[dict[str, str | int]]:
    """The hidden characters of a line for people: place (from 1), code point and name."""
    return [_row(one) for one in hidden(text)]


def _row(one: Hidden) -> dict[str, str | int]:
    return {"place": one.position + 1, "code": f"U+{one.codepoint:04X}", "name": one.name}


def meaning(run: Run) -> Message:
    """What a command does, in one sentence."""
    if run.scope == "host":
        return Message("meaning.host")
    if len(run.typed) > 1:
        return Message("meaning.pipeline", {"n": len(run.typed)})
    program = run.typed[0][0].rpartition("/")[2] if run.typed and run.typed[0] else ""
    known = MEANINGS.get(program)
    return (
        Message(f"meaning.{known}", {"program": program}) if known else Message("meaning.other", {"program": program})
    )


def touches(run: Run, policy: Policy) -> Message:
    """What it may touch: what its rules say it does at most; without a rule, everything in the workspace."""
    if run.scope == "host":
        return Message("touches.host")
    rule = next((rule for rule in policy.rules if rule.id == run.rule), None)
    return Message(f"touches.{rule.effect if rule else 'run'}")
