"""An answer on its way to a program: counted, and cleared of what its client did not ask for.

Rules: only whole events pass, and of those only ``data:`` lines with an object or the end mark in them (AI-9); an event that needs
no look goes on as the bytes it came as; the engine's key never goes on, whoever repeats it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from appliance.assistant.faults import EngineFault, said_by_engine
from appliance.errors import CroftError

EVENT_MAX = 1 << 20
DONE = b"data: [DONE]\n\n"
# What wants a look. A text in an answer cannot hold them: there a quotation mark has a backslash before it.
_USAGE, _ERROR = b'"usage"', b'"error"'


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Whole(msgspec.Struct):
    usage: _Usage | None = None


class Tally:
    """``tokens_in`` and ``tokens_out`` are what the engine says it used; until it does, the caller's estimate and the events so
    far; none before it was :meth:`asked`."""

    def __init__(self, prompt: int, *, wants_usage: bool) -> None:
        self._prompt, self._wants_usage, self._key, self._asked = prompt, wants_usage, b"", False
        self._rest, self._events = bytearray(), 0
        self._usage: _Usage | None = None
        self.ended = False
        self.fault: CroftError | None = None

    def asked(self, key: str) -> None:
        """The engine has got the request, with ``key``."""
        self._key, self._asked = key.encode(), True

    @property
    def tokens_in(self) -> int:
        return self._usage.prompt_tokens if self._usage else self._prompt * self._asked

    @property
    def tokens_out(self) -> int:
        return self._usage.completion_tokens if self._usage else self._events

    def feed(self, data: bytes) -> bytes:
        """What of ``data``, a piece of an event stream, goes on now. Where the engine reports a fault it is in ``fault`` then,
        and nothing goes on after it. Raises EngineFault for an event that is too long."""
        if b"\r" in data:
            data = data.replace(b"\r", b"")  # of line ends; in JSON it stands escaped
        if self._rest or not data.endswith(b"\n\n"):
            data = self._whole_ones(data)
        if not data or self.ended:
            return b""
        if self._key and self._key in data:
            data = data.replace(self._key, b"*")
        if _USAGE not in data and _ERROR not in data and (count := _plain(data)):
            self._events += count
            return _as_text(data)
        return _as_text(b"".join(self._look(event) for event in data.split(b"\n\n") if event))

    def _whole_ones(self, data: bytes) -> bytes:
        """The events that are whole now. What came before is neither copied nor searched again: it may come byte by byte."""
        before = len(self._rest)
        self._rest += data
        end = self._rest.rfind(b"\n\n", max(0, before - 1)) + 2
        if end < 2:
            end = 0
        data = bytes(self._rest[:end])
        del self._rest[:end]
        if len(self._rest) > EVENT_MAX:
            raise EngineFault("an event of the answer is too long")
        return data

    def whole(self, body: bytes) -> bytes:
        """An answer in one piece, which goes on as it came; its usage is noted."""
        try:
            self._usage = msgspec.json.decode(body, type=_Whole).usage
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise EngineFault("its answer cannot be read") from error
        return self.without_key(body)

    def without_key(self, body: bytes) -> bytes:
        """``body``, should the engine have put its key together in it piece by piece."""
        return body.replace(self._key, b"*") if self._key else body

    def _look(self, event: bytes) -> bytes:
        """One event that may need to change; empty for one that is left out."""
        if self.ended or not event.startswith(b"data:") or b"\n" in event:
            return b""
        said = event[5:].strip()
        if said == b"[DONE]":
            self.ended = True
            return DONE
        try:
            fields = msgspec.json.decode(said, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return b""
        if "error" in fields and "choices" not in fields:
            self.ended, self.fault = True, said_by_engine(502, said, self._key.decode())
            return b""
        self._events += 1
        if self._note(fields) and not self._wants_usage:
            if bytes(fields.get("choices", b"[]")).replace(b" ", b"") == b"[]":
                return b""
            del fields["usage"]
            said = msgspec.json.encode(fields)
        return b"data: %b\n\n" % said

    def _note(self, fields: dict[str, Any]) -> bool:
        """Whether the event tells the usage, which is noted."""
        try:
            found = msgspec.json.decode(fields.get("usage", b"null"), type=_Usage | None)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return False
        self._usage = found or self._usage
        return found is not None


def _plain(data: bytes) -> int:
    """How many events these are if each is one line with an object in it; 0 otherwise. (A regular expression costs five times
    as much, for every token.)"""
    count = data.count(b"\n\n")
    framed = data.startswith(b"data: {") and data.endswith(b"}\n\n") and data.count(b"}\n\ndata: {") == count - 1
    return count if framed and data.count(b"\n") == 2 * count else 0


def _as_text(data: bytes) -> bytes:
    """``data``, with whatever is not UTF-8 replaced: programs stumble over it."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode(errors="replace").encode()
    return data
