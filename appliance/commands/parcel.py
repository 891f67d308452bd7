"""The result of a rehearsal as it is kept: contents before and after, then the list of changes; and differences in words.

Rule: the file is this appliance's own, written once by the helper and only read from then on. What is in it was written by
a program that nobody trusts: it is text to show, never a path to open.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

MOST_DIFF_BYTES = 512 << 10  # of one side
MOST_DIFF_LINES = 5_000
MOST_TEXT = 256 << 10
_BINARY_WITHIN = 8192

State = dict[str, Any]


class Change(Struct, frozen=True):
    """One path. ``before`` and ``after`` are None or ``kind`` with ``mode``, ``size``, ``sha256``, ``at``, ``target``."""

    path: str
    before: State | None
    after: State | None
    stale: bool

    @property
    def what(self) -> str:
        """added, deleted, replaced (by something of another kind), mode or changed."""
        if self.before is None or self.after is None:
            return "added" if self.before is None else "deleted"
        if self.before["kind"] != self.after["kind"]:
            return "replaced"
        same = all(self.before.get(key) == self.after.get(key) for key in ("size", "sha256", "target"))
        return "mode" if same else "changed"


class Listed(Struct, frozen=True):
    """The list of changes. ``cause``: why it is not whole; ``problems``: what could not be carried over."""

    digest: str
    cause: str
    changes: tuple[Change, ...]
    problems: tuple[dict[str, str], ...]


class Difference(Struct, frozen=True):
    """How a change reads: ``kind`` is text, binary, large, link or folder; ``text`` is a unified diff."""

    kind: str
    text: str = ""
    truncated: bool = False


def read_list(parcel: Path, at: int, size: int) -> Listed:
    """The list and its digest. Raises OSError, ValueError."""
    with parcel.open("rb") as file:
        file.seek(at)
        text = file.read(size)
    body = json.loads(text)
    changes = tuple(Change(row["path"], row["before"], row["after"], row["stale"]) for row in body["changes"])
    return Listed(hashlib.sha256(text).hexdigest(), body["cause"], changes, tuple(body["problems"]))


def difference(parcel: Path, change: Change) -> Difference:
    """How one change reads, bounded. Slow for long files: not for the event loop. Raises OSError."""
    sides = [state for state in (change.before, change.after) if state]
    kinds = {state["kind"] for state in sides}
    if kinds == {"folder"}:
        return Difference("folder")
    if any(state["kind"] == "file" and state["size"] > MOST_DIFF_BYTES for state in sides):
        return Difference("large")
    with parcel.open("rb") as file:
        before, after = (_content(file.fileno(), state) for state in (change.before, change.after))
    if _binary(before) or _binary(after):
        return Difference("binary")
    old, new = (data.decode("utf-8").splitlines(keepends=True) for data in (before, after))
    if max(len(old), len(new)) > MOST_DIFF_LINES:
        return Difference("large")
    text, truncated = _bounded(_unified(old, new, change))
    return Difference("link" if kinds == {"link"} else "text", text, truncated)


def _content(fd: int, state: State | None) -> bytes:
    if state is None or state["kind"] == "folder":
        return b""
    if state["kind"] == "link":
        return f"{state['target']}\n".encode()
    return os.pread(fd, state["size"], state["at"])


def _binary(data: bytes) -> bool:
    if b"\0" in data[:_BINARY_WITHIN]:
        return True
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _unified(old: list[str], new: list[str], change: Change) -> Iterator[str]:
    import difflib

    gone, there = "/dev/null", change.path
    names = gone if change.before is None else there, gone if change.after is None else there
    for line in difflib.unified_diff(old, new, *names, n=3):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _bounded(lines: Iterator[str]) -> tuple[str, bool]:
    kept: list[str] = []
    size = 0
    for line in lines:
        size += len(line)
        if size > MOST_TEXT:
            return "".join(kept), True
        kept.append(line)
    return "".join(kept), False
