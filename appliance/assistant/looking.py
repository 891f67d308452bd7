"""The tools that look: listing, searching and reading what lies in the workspace.

Rules: everything goes through the broker's file helper; a path leads beneath the workspace or nowhere, and no part of it, as written or
with links followed, is one of the names that the policy excludes (AI-8). What is found is redacted before the model sees it (AI-7).
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from appliance.assistant.tools import Mistake
from appliance.errors import CroftError

MOST_ROWS = 200
MOST_HITS = 40
MOST_LINE = 200
MOST_READ = 256 * 1024
SEARCH_FILES = 1500
SEARCH_FILE_BYTES = 256 * 1024
SEARCH_SECONDS = 6.0
# Made by programs, large, and not what anybody asks about.
PASSED_OVER = frozenset({"node_modules", ".venv", "venv", "__pycache__", "dist", "build", "target", ".cache", "vendor"})


class Place(Protocol):
    """Where a path leads: ``path`` and ``kind``, or ``code`` where it leads nowhere."""

    @property
    def path(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def code(self) -> str: ...


class Files(Protocol):
    """The workspace's files, through the broker's helper. All raise CroftError (``code`` not_found forbidden outside changed exists)."""

    async def resolve(self, paths: Sequence[str]) -> Sequence[Place]: ...
    async def entries(self, path: str) -> list[dict[str, Any]]: ...
    async def read(self, path: str, most: int) -> bytes | None: ...
    async def stat(self, path: str) -> dict[str, Any] | None: ...
    async def write(self, path: str, data: bytes, *, version: str = "") -> dict[str, Any]: ...


@dataclass(frozen=True)
class Found:
    """What a tool gives the model; ``bytes`` is how much was looked at, ``about`` what it is (a path)."""

    text: str
    bytes: int
    about: str = ""


class Looking:
    """``excluded`` says of one part of a path whether it is a secret's; ``redact`` blanks secrets in a text."""

    def __init__(self, files: Files, root: str, excluded: Callable[[str], bool], redact: Callable[[str], str]) -> None:
        self._files, self._root, self._excluded, self._redact = files, root.rstrip("/"), excluded, redact

    async def list_files(self, path: str = "") -> Found:
        """The entries of a folder. Raises Mistake."""
        folder = await self.place(path, "folder")
        rows = [row for row in await self._entries(folder) if not self._excluded(row["name"])]
        lines = [f"{row['name']}/" if row["kind"] == "folder" else f"{row['name']}  {row['size']} B" for row in rows]
        more = [f"... and {len(lines) - MOST_ROWS} more"] if len(lines) > MOST_ROWS else []
        text = "\n".join([*lines[:MOST_ROWS], *more]) or "(empty)"
        return Found(text, len(text.encode()), folder)

    async def read_file(self, path: str, from_line: int = 1, *, most: int = 8000) -> Found:
        """At most ``most`` characters of a file, from a line on. Raises Mistake."""
        name = await self.place(path, "file")
        data = await self._read(name, MOST_READ)
        if b"\0" in data[:4096]:
            raise Mistake(f"{name} is not text.")
        lines = self._redact(data.decode("utf-8", "replace")).split("\n")
        first = max(1, from_line)
        if first > len(lines):
            raise Mistake(f"{name} has {len(lines)} lines.")
        shown: list[str] = []
        size = 0
        for line in lines[first - 1 :]:
            size += len(line) + 1
            if shown and size > most:
                break
            shown.append(line[:most])
        last = first + len(shown) - 1
        more = f" (read on from line {last + 1})" if last < len(lines) else ""
        text = f"{name}, lines {first} to {last} of {len(lines)}{more}:\n" + "\n".join(shown)
        return Found(text, len(data), name)

    async def search_files(self, text: str, path: str = "") -> Found:
        """Lines that hold ``text``; upper and lower case count only where ``text`` has an upper one. Raises Mistake."""
        start = await self.place(path, "folder")
        folded = text == text.lower()
        hits: list[str] = []
        looked, size, deadline = 0, 0, time.monotonic() + SEARCH_SECONDS
        waiting = [start]
        while waiting and looked < SEARCH_FILES and len(hits) < MOST_HITS and time.monotonic() < deadline:
            folder = waiting.pop(0)
            for row in await self._entries(folder):
                name = row["name"] if folder in ("", ".") else f"{folder}/{row['name']}"
                if self._excluded(row["name"]) or row["name"] in PASSED_OVER:
                    continue
                if row["kind"] == "folder":
                    waiting.append(name)
                elif row["kind"] == "file" and row["size"] <= SEARCH_FILE_BYTES and len(hits) < MOST_HITS:
                    looked += 1
                    data = await self._read(name, SEARCH_FILE_BYTES)
                    size += len(data)
                    hits += _hits(name, data, text, folded)
        shown = self._redact("\n".join(hits[:MOST_HITS])) or "Nothing found."
        whole = not waiting and len(hits) <= MOST_HITS
        return Found(shown + ("" if whole else "\n(there may be more)"), size, text)

    async def place(self, path: str, kind: str = "") -> str:
        """Where ``path`` leads, beneath the workspace and links followed; of ``kind`` if one is asked for. Raises Mistake."""
        name = self._lexical(path)
        found = (await self._files.resolve([name or "."]))[0]
        if found.code:
            raise Mistake({"not_found": f"There is nothing at {path}."}.get(found.code, f"{path} cannot be used."))
        self._check_parts(found.path, path)
        if kind and found.kind != kind:
            there = "nothing there" if found.kind == "missing" else f"a {found.kind}"
            raise Mistake(f"{path or 'the workspace'} is not a {kind}: there is {there}.")
        return "" if found.path == "." else found.path

    def _lexical(self, path: str) -> str:
        if path == self._root or path.startswith(f"{self._root}/"):
            path = path[len(self._root) :].lstrip("/")
        name = posixpath.normpath(path) if path else ""
        if name.startswith(("/", "../")) or name == ".." or "\0" in name:
            raise Mistake(f"{path} is not in the workspace. Paths are relative to it.")
        self._check_parts(name, path)
        return "" if name == "." else name

    def _check_parts(self, name: str, path: str) -> None:
        if any(map(self._excluded, name.split("/"))):
            raise Mistake(f"{path} is kept from you: secrets and a repository's inside are not shown.")

    async def _entries(self, folder: str) -> list[dict[str, Any]]:
        try:
            return await self._files.entries(folder or ".")
        except CroftError as error:
            if error.code in ("not_found", "forbidden", "outside", "invalid"):
                return []
            raise

    async def _read(self, name: str, most: int) -> bytes:
        try:
            return await self._files.read(name, most) or b""
        except CroftError as error:
            if error.code in ("forbidden", "outside", "invalid"):
                return b""
            raise


def _hits(name: str, data: bytes, text: str, folded: bool) -> list[str]:
    if b"\0" in data[:1024]:
        return []
    found = []
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
        if text in (line.lower() if folded else line):
            found.append(f"{name}:{number}: {line.strip()[:MOST_LINE]}")
    return found[:MOST_HITS]
