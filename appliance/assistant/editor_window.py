"""One window of the editor at the other end of its line, and what it refuses in words for people.

Rule: whatever a window answers is checked against what was asked, and its own words are never shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from appliance.assistant import editor_words as words
from appliance.errors import Conflict, CroftError, TooMany, Unavailable

ANSWER_SECONDS = 5.0
WAITING_MAX = 8
UNSENT_MAX = 2 * 1024 * 1024

Reply = TypeVar("Reply")


class Owner(msgspec.Struct, frozen=True):
    """Whose window it is: the person, the session their browser has, their language."""

    person: str
    session: str
    language: str


class Asked(msgspec.Struct):
    """Somebody asked from the editor; pages show it once, by its ``id``."""

    id: str
    window: str
    kind: str
    path: str
    at: float


class Window:
    """One window of the editor, for as long as its line holds."""

    def __init__(self, hello: words.Hello, writer: asyncio.StreamWriter, pid: int, now: float) -> None:
        """``pid``: of the process that speaks, as the kernel says."""
        self.id = hello.window
        self.version = hello.version
        self.pid = pid
        self.owner: Owner | None = None
        self.state = words.State(False, None)
        self.active_at = now
        self.noted = -float("inf")
        self.silent = False  # did not answer when it was last asked
        self.asked: Asked | None = None
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[words.Answer]] = {}
        self._count = 0

    def send(self, message: Mapping[str, Any]) -> None:
        """Say something. A window that does not read is let go."""
        if self._writer.transport.get_write_buffer_size() > UNSENT_MAX:
            self._writer.transport.abort()
        self._writer.write(msgspec.json.encode(message) + b"\n")

    async def ask(self, op: str, reply: type[Reply], seconds: float = ANSWER_SECONDS, **asked: Any) -> Reply:
        """Have the window do ``op``. Raises CroftError in words for people."""
        if len(self._waiting) >= WAITING_MAX:
            raise TooMany("the editor has not answered what it was asked before", retry_after=5)
        self._count += 1
        number, answer = self._count, asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self.send({"type": "ask", "id": number, "op": op, **asked})
            async with asyncio.timeout(seconds):
                found = await answer
        except TimeoutError as error:
            self.silent = True
            raise Unavailable(
                "the editor did not answer", hint="Its window may be closed; open it again.", code="editor_silent"
            ) from error
        finally:
            del self._waiting[number]
        if not bytes(found.ok):
            raise fault(found.error)
        try:
            return msgspec.json.decode(found.ok, type=reply)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise fault("failed") from error

    def answered(self, answer: words.Answer) -> None:
        waiting = self._waiting.get(answer.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def gone(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(words.Answer(0, error="away"))


_WORDS = {
    "away": ("no window of the editor is open", "Open the workspace, then try again."),
    "no_file": ("no file is open in the editor", "Open a file there and put the cursor where it should go."),
    "read_only": ("this file cannot be changed in the editor", "Open another file, or save a copy."),
    "not_found": ("there is no such file in the workspace", "It may have been moved or removed."),
    "unreadable": ("the editor cannot show this file as text", ""),
    "too_large": ("what is open is too large to be sent", "Select a part of it."),
    "too_many": ("too many proposals wait in the editor", "Accept or reject some of them."),
    "failed": ("the editor could not do it", "Its own log says more: View, Output, Extension Host."),
}


def fault(code: str) -> CroftError:
    """A window's refusal in our words; never in its own."""
    known = code if code in _WORDS else "failed"
    message, hint = _WORDS[known]
    return Conflict(message, hint=hint, code=f"editor_{known}")
