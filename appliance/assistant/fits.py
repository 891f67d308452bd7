"""Whether a model fits this machine, said before anything is downloaded; and which one to offer first.

Rule: a pure sum over what is passed in. Weights, the key-value cache for the conversation, and what the engine itself takes, against
what the services' limits leave to the engine with the editor open: a model that needs the editor gone is none for this machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from appliance.assistant.catalogue import Entry, Shape, entries

MIB = 1 << 20
# The engine's program and its working buffers beside weights and cache: 91 MiB measured of llama.cpp with a model of the shape of
# Llama 3.2 3B (128,256 words, engine_child.BATCH), and 66 MiB more for the largest vocabulary there is here.
ENGINE_BYTES = 160 * MIB
CONTEXTS = (8192, 4096, 2048)  # tokens; the first that fits is taken
LEAST_CONTEXT = CONTEXTS[-1]

Verdict = Literal["fits", "big"]


@dataclass(frozen=True)
class Room:
    """Bytes the engine may have beside the open editor, and what the machine has in all."""

    engine: int
    machine: int


@dataclass(frozen=True)
class Fit:
    """``need`` and ``have`` in bytes."""

    verdict: Verdict
    need: int
    have: int
    context: int


def need(size: int, shape: Shape | None, context: int) -> int:
    """Bytes a model with a file of ``size`` takes. One whose header does not say its shape counts as the heaviest we know."""
    cache = shape.cache_bytes(context) if shape else max(one.shape.cache_bytes(context) for one in entries())
    return size + cache + ENGINE_BYTES


def fit(size: int, shape: Shape | None, trained: int, room: Room) -> Fit:
    """How a model fits with the longest context that it was ``trained`` for and that fits; 0 where that is not known."""
    choices = [context for context in CONTEXTS if not trained or context <= trained] or [trained]
    for context in choices:
        needed = need(size, shape, context)
        if needed <= room.engine:
            return Fit("fits", needed, room.engine, context)
    return Fit("big", needed, room.engine, context)


def of_entry(entry: Entry, room: Room) -> Fit:
    """The same for a model of the catalogue."""
    return fit(entry.size, entry.shape, entry.context, room)


def first_choice(room: Room, language: str, offered: Iterable[Entry] = ()) -> Entry | None:
    """The model to offer first to who reads ``language``: the largest made for a machine of this size, from among those whose
    publisher lists the language if there are any. None where nothing fits."""
    able = [
        entry
        for entry in offered or entries()
        if 0 < entry.memory_mb * MIB <= room.machine and of_entry(entry, room).verdict != "big"
    ]
    listed = [entry for entry in able if language in entry.languages]
    return max(listed or able, key=lambda entry: (entry.memory_mb, entry.size), default=None)
