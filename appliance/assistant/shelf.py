"""The models that are here: files in the models folder, and what was learned of each.

Rule: a model is a row with its file behind it. A file without a row was put there by somebody and is only found, not used, until it has
been digested and its header read; a row whose file is gone or has another size is not a model any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.assistant import catalogue, gguf
from appliance.assistant.catalogue import Entry, Shape
from appliance.assistant.choice import FILE, MODEL
from appliance.clock import Clock
from appliance.database import Database, Row
from appliance.errors import Conflict, Invalid, NotFound

BLOCK = 1 << 20


@dataclass(frozen=True)
class Installed:
    """One model. ``context`` is what it was trained for, in tokens; ``tokens_per_second`` was measured on this machine."""

    name: str
    title: str
    file: str
    path: Path
    sha256: str
    size: int
    url: str
    context: int
    shape: Shape | None
    tools: bool
    languages: tuple[str, ...]
    added_at: float
    tokens_per_second: float | None = None
    measured_at: float | None = None
    checkup: Mapping[str, Any] = field(default_factory=dict)


class Shelf:
    """``folder`` is the models folder, which the broker made."""

    def __init__(self, database: Database, clock: Clock, folder: Path) -> None:
        self._db, self._clock, self.folder = database, clock, folder
        self._headers: dict[tuple[str, int, int], gguf.Facts] = {}

    async def installed(self) -> list[Installed]:
        """By name."""
        rows = await self._db.rows("SELECT * FROM models ORDER BY name")
        return [made for row in rows if (made := await asyncio.to_thread(self._made, row)) is not None]

    async def get(self, name: str) -> Installed:
        """Raises NotFound."""
        for model in await self.installed():
            if model.name == name:
                return model
        raise NotFound("this model is not installed", hint="`croft models list` shows what is.", code="model_unknown")

    async def found(self) -> list[tuple[str, int]]:
        """Files with their sizes that somebody put there."""
        known = {model.file for model in await self.installed()}
        return await asyncio.to_thread(
            lambda: sorted(
                (entry.name, entry.stat().st_size)
                for entry in os.scandir(self.folder)
                if entry.is_file(follow_symlinks=False) and FILE.match(entry.name) and entry.name not in known
            )
        )

    async def take_in(self, name: str, file: str, sha256: str, url: str) -> Installed:
        """Make the model of a checked file. Raises Invalid for what is no model, Conflict for a name that is taken."""
        path = self.folder / file
        await asyncio.to_thread(gguf.read, path)
        taken = await self._db.row("SELECT file FROM models WHERE name = ? AND file != ?", (name, file))
        if taken is not None and (self.folder / taken["file"]).exists():
            raise Conflict("another model has this name", hint="Give it another one.", code="model_exists")
        async with self._db.transaction() as tx:
            await tx.execute("DELETE FROM models WHERE name = ?", (name,))
            await tx.execute(
                "INSERT OR REPLACE INTO models (file, name, sha256, size, url, added_at) VALUES (?, ?, ?, ?, ?, ?)",
                (file, name, sha256, path.stat().st_size, url, self._clock.now()),
            )
            if url:
                await tx.execute(
                    "INSERT OR IGNORE INTO model_digests VALUES (?, ?, ?)", (url, sha256, self._clock.now())
                )
        return await self.get(name)

    async def remove(self, name: str) -> None:
        """Delete the file, then the row. Raises NotFound, Conflict."""
        model = await self.get(name)
        try:
            await asyncio.to_thread(model.path.unlink, missing_ok=True)
        except OSError as error:  # somebody else's, in a folder where only owners delete
            raise Conflict(
                f"cannot delete the file: {error.strerror}", hint="Whoever put it there can.", code="model_not_ours"
            ) from error
        await self._db.execute("DELETE FROM models WHERE file = ?", (model.file,))

    async def digest_of(self, url: str) -> str:
        """The sha256 that ``url`` gave the first time; '' if it never did."""
        row = await self._db.row("SELECT sha256 FROM model_digests WHERE url = ?", (url,))
        return row["sha256"] if row else ""

    async def measured(self, name: str, speed: float) -> None:
        """Note how fast it answers, in tokens a second."""
        await self._db.execute(
            "UPDATE models SET speed = ?, speed_at = ? WHERE name = ?", (round(speed, 2), self._clock.now(), name)
        )

    async def checked(self, name: str, result: Mapping[str, Any]) -> None:
        """Note what the small coding tasks gave."""
        await self._db.execute("UPDATE models SET checkup = ? WHERE name = ?", (json.dumps(dict(result)), name))

    def _made(self, row: Row) -> Installed | None:
        path = self.folder / row["file"]
        try:
            state = path.stat(follow_symlinks=False)
            if state.st_size != row["size"]:
                return None
            facts = self._facts(path, state)
        except (OSError, Invalid):
            return None
        known = catalogue.by_digest(row["sha256"]) or _nobody(facts)
        return Installed(
            name=row["name"],
            title=known.title or facts.name or row["name"],
            file=row["file"],
            path=path,
            sha256=row["sha256"],
            size=row["size"],
            url=row["url"],
            context=known.context,
            shape=known.shape if known.id else facts.shape,
            tools=known.tools,
            languages=known.languages,
            added_at=row["added_at"],
            tokens_per_second=row["speed"],
            measured_at=row["speed_at"],
            checkup=json.loads(row["checkup"] or "{}"),
        )

    def _facts(self, path: Path, state: os.stat_result) -> gguf.Facts:
        key = (path.name, state.st_size, state.st_mtime_ns)
        if key not in self._headers:
            self._headers[key] = gguf.read(path)
        return self._headers[key]


def digest(path: Path, report: Any) -> str:
    """The sha256 of a file; ``report`` is told bytes so far and in all. Raises OSError. Blocks for as long as reading takes."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as file:
        total, seen, made = os.fstat(fd).st_size, 0, hashlib.sha256()
        while block := file.read(BLOCK):
            made.update(block)
            seen += len(block)
            report(seen, total)
    return made.hexdigest()


def checked_name(name: str) -> str:
    """A name that a model may have. Raises Invalid."""
    if not MODEL.match(name):
        raise Invalid(
            "a model's name has letters, digits, dots, colons and dashes",
            hint="Give it another one.",
            code="model_name",
        )
    return name


def checked_file(file: str) -> str:
    """A file name that a model may have. Raises Invalid."""
    if not FILE.match(file):
        raise Invalid(
            "a model's file has letters, digits, dots and dashes and ends in .gguf",
            hint="Rename it, or use another address.",
            code="model_file",
        )
    return file


def _nobody(facts: gguf.Facts) -> Entry:
    """What stands in for the catalogue's knowledge of a model that is not in it."""
    return Entry(
        id="",
        title="",
        publisher="",
        file="",
        url="",
        size=0,
        sha256="",
        quantisation="",
        parameters="",
        shape=Shape(0, 0, 0),
        context=facts.context,
        languages=(),
        tools=facts.tools,
        licence="",
        gallery="",
        gallery_file="",
        memory_mb=0,
    )
