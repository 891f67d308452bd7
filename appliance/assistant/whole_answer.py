"""One whole answer, as OpenAI's interface has it, made of the events of a streamed one.

Why: an engine notices that nobody waits any more where it sends an answer piece by piece; llama.cpp's works on an unstreamed one to
its end. So whoever asks for a whole answer gets one, and the engine is asked for a stream.

Rule: of what the engine sends no more is kept than an answer may be long; fields that we do not know stay as they came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import StringIO
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from appliance.assistant.faults import EngineFault

ANSWER_MAX = 16 << 20
# Bytes that a field, or a row of logprobs, takes in memory beside what it says (measured: 332, 99).
_FIELD_COSTS, _ROW_COSTS = 352, 112
# Texts of a delta that are not continued by the next one.
_NAMES = ("role", "type", "id", "name")
_OF_A_CHUNK = ("object", "choices", "usage", "obfuscation")
_NULL = Raw(b"null")

_Fields = dict[str, Raw]
# The place of a choice, or of a call: `n` of OpenAI's interface goes to 128.
_Place = Annotated[int, Meta(ge=0, lt=128)]


class _Piece(msgspec.Struct):
    """What a chunk adds to one choice."""

    index: _Place = 0
    delta: Raw = _NULL
    finish_reason: str | None = None
    logprobs: Raw = _NULL


class _Chunk(msgspec.Struct):
    choices: list[_Piece] | None = None
    usage: Raw = _NULL


class WholeAnswer:
    """Feed it whole events, as :class:`~appliance.assistant.tally.Tally` lets them through, then take :meth:`body`."""

    def __init__(self) -> None:
        self._head: _Fields = {}
        self._choices: dict[int, _Choice] = {}
        self._usage = _NULL
        self._size = 0

    def add(self, events: bytes) -> None:
        """Raises EngineFault for what is no answer, or one that is too long."""
        try:
            for said in _said(events):
                self._add(said)
        except (msgspec.MsgspecError, ValueError, AttributeError, TypeError, RecursionError) as error:
            # An AttributeError or a TypeError: what was a text is an object all at once, or the other way round.
            raise EngineFault("its answer cannot be read") from error

    def body(self, *, ended: bool) -> bytes:
        """The answer as JSON. ``ended``: the engine said that this was all; otherwise each choice must say why it ended. Raises
        EngineFault."""
        choices = [choice.fields(index) for index, choice in sorted(self._choices.items())]
        if not choices or not (ended or all(choice["finish_reason"] for choice in choices)):
            raise EngineFault("it ended in the middle of the answer")
        whole = {**self._head, "object": "chat.completion", "choices": choices}
        return msgspec.json.encode(whole if self._usage == _NULL else whole | {"usage": self._usage})

    def _add(self, said: bytes) -> None:
        chunk = msgspec.json.decode(said, type=_Chunk)
        if not self._head:
            self._head = {name: value.copy() for name, value in _fields(said).items() if name not in _OF_A_CHUNK}
        for piece in chunk.choices or ():
            self._size += len(piece.delta) + len(piece.logprobs) + len(piece.finish_reason or "")
            self._size += self._choices.setdefault(piece.index, _Choice()).add(piece)
            if self._size > ANSWER_MAX:
                raise EngineFault("its answer is too large")
        if chunk.usage != _NULL:
            self._usage = chunk.usage.copy()


class _Choice:
    """One of the answers to a question, so far."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {"role": "assistant"}
        self._calls: dict[int, dict[str, Any]] = {}
        self._finish: str | None = None
        self._logprobs: dict[str, list[Raw]] | None = None

    def add(self, piece: _Piece) -> int:
        """Returns the bytes that keeping it takes beside its own, nearly."""
        delta = _fields(piece.delta)
        fields = added = 0
        for call in msgspec.json.decode(delta.pop("tool_calls", _NULL), type=list[_Fields] | None) or ():
            index = msgspec.json.decode(call.pop("index", b"0"), type=_Place)
            fields += _join(self._calls.setdefault(index, {}), call)
        fields += _join(self._message, delta)
        self._finish = piece.finish_reason or self._finish
        for name, rows in (msgspec.json.decode(piece.logprobs, type=dict[str, list[Raw] | None] | None) or {}).items():
            self._logprobs = self._logprobs or {}
            fields += name not in self._logprobs
            added += len(rows or ())
            self._logprobs.setdefault(name, []).extend(row.copy() for row in rows or ())
        return fields * _FIELD_COSTS + added * _ROW_COSTS

    def fields(self, index: int) -> dict[str, Any]:
        """As an answer has it."""
        message = _joined(self._message)
        if self._calls:
            message["tool_calls"] = [_joined(call) for _, call in sorted(self._calls.items())]
        message.setdefault("content", None if self._calls or "function_call" in message else "")
        return {"index": index, "message": message, "finish_reason": self._finish, "logprobs": self._logprobs}


def _said(events: bytes) -> Iterator[bytes]:
    for event in events.split(b"\n\n"):
        said = event.removeprefix(b"data:").strip()
        if said and said != b"[DONE]":
            yield said


def _fields(said: bytes | Raw) -> _Fields:
    found: _Fields | None = msgspec.json.decode(said, type=_Fields | None)
    return found or {}


def _join(so_far: dict[str, Any], more: Mapping[str, Raw], *, inner: bool = False) -> int:
    """Texts go on where they ended, those of an object within as well; of anything else the last counts. Returns how many fields
    are new."""
    before, within = len(so_far), 0
    for name, value in more.items():
        said = bytes(value)
        if said in (b"null", b'""') and name in so_far:
            continue
        if said.startswith(b'"') and name not in _NAMES:
            so_far.setdefault(name, StringIO()).write(msgspec.json.decode(said, type=str))
        elif said.startswith(b"{") and not inner:
            within += _join(so_far.setdefault(name, {}), _fields(said), inner=True)
        elif said != b"null":
            so_far[name] = Raw(said)
    return len(so_far) - before + within


def _joined(found: Mapping[str, Any]) -> dict[str, Any]:
    """With texts in one piece."""
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, StringIO):
        return value.getvalue()
    return _joined(value) if isinstance(value, dict) else value
