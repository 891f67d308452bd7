"""What an editor's window and the daemon say to each other: one JSON object a line, checked field by field.

Protocol 1 (2026-11): hello, state, active, asked, decided, answer; welcome, refused, heard, ask.
Rule: whatever a window says was said by a process of the workspace: nothing here is longer than it says, and no field decides
what anybody may do.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

PROTOCOL = 1
Id = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Place = Annotated[str, Meta(max_length=4096)]
Name = Annotated[str, Meta(max_length=64)]
Count = Annotated[int, Meta(ge=0, le=1 << 40)]
Text = Annotated[str, Meta(max_length=128 * 1024)]
Kind = Literal["file", "selection", "diagnostics", "names"]


class Hello(Struct, tag="hello"):
    """The first line. Whose window it is, is not the window's to say."""

    protocol: int
    window: Id
    version: Name


class File(Struct):
    """What is in front. ``selected`` counts characters, ``line`` is the caret's, from 1."""

    path: Place
    language: Name
    lines: Count
    dirty: bool
    line: Count
    selected: Count
    errors: Count
    warnings: Count


class State(Struct, tag="state"):
    focused: bool
    file: File | None


class Active(Struct, tag="active"):
    """A person typed or clicked (DECIDED 14)."""


class Asked(Struct, tag="asked"):
    """A person wants to ask about this; ``show``: wants to see the assistant."""

    kind: Literal["selection", "file", "diagnostics", "show"]


class Decided(Struct, tag="decided"):
    """What became of a proposal."""

    diff: Id
    state: Literal["accepted", "rejected", "closed", "failed"]


class Answer(Struct, tag="answer"):
    """To an ``ask``: ``ok`` by its operation, or a code."""

    id: Count
    ok: msgspec.Raw = msgspec.Raw()
    error: Name = ""


class Chip(Struct):
    """A piece of context. ``from_line`` and ``to_line`` where it is a part of a file."""

    kind: Kind
    path: Place
    language: Name
    text: Text
    truncated: bool
    from_line: Count = msgspec.field(name="from", default=0)
    to_line: Count = msgspec.field(name="to", default=0)


class Chips(Struct):
    chips: Annotated[list[Chip], Meta(max_length=4)]


class Inserted(Struct):
    path: Place
    line: Count


class Opened(Struct):
    line: Count


class Shown(Struct):
    """The proposal is in front of the person."""


class Ended(Struct):
    state: Literal["accepted", "rejected", "failed"]


Said = Hello | State | Active | Asked | Decided | Answer
_decoder: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)


def read(line: bytes) -> Said:
    """One line. Raises ValueError for anything that is not of the protocol."""
    try:
        return _decoder.decode(line)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
