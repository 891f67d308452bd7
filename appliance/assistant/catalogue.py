"""The models Croft offers, as `catalogue.toml` beside this page lists them.

Rule: nothing is computed here; a figure is either in the file, with its source, or not known.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """What decides how much memory a conversation takes: layers that keep a key-value cache, heads of it, numbers in each."""

    layers: int
    kv_heads: int
    head: int

    def cache_bytes(self, context: int) -> int:
        """Of keys and values in 16 bits for ``context`` tokens, as llama.cpp keeps them unless told otherwise."""
        return self.layers * self.kv_heads * self.head * 2 * 2 * context


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue. ``size`` in bytes, ``context`` in tokens; ``sha256`` is empty where no source says it."""

    id: str
    title: str
    publisher: str
    file: str
    url: str
    size: int
    sha256: str
    quantisation: str
    parameters: str
    shape: Shape
    context: int
    languages: tuple[str, ...]
    tools: bool
    licence: str
    gallery: str
    gallery_file: str
    memory_mb: int


@cache
def entries() -> tuple[Entry, ...]:
    """All of them, the smallest first."""
    text = Path(__file__).with_name("catalogue.toml").read_text("utf-8")
    return tuple(_entry(row) for row in tomllib.loads(text)["model"])


def entry(name: str) -> Entry | None:
    """The one with this id."""
    return next((found for found in entries() if found.id == name), None)


def by_digest(sha256: str) -> Entry | None:
    """The one whose file this is."""
    return next((found for found in entries() if found.sha256 and found.sha256 == sha256), None)


def _entry(row: dict[str, Any]) -> Entry:
    shape = Shape(row.pop("layers"), row.pop("kv_heads"), row.pop("head"))
    return Entry(**row | {"shape": shape, "languages": tuple(row["languages"])})
