"""Looking into the audit log: filters, pages by sequence, and the whole of it a piece at a time.

Rule: nothing here holds more than one page in memory, and nothing here writes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from msgspec import Struct

from appliance.audit import Record
from appliance.database import Database, Row

PIECE = 500
PAGE_MAX = 1000


class Wanted(Struct, frozen=True):
    """What to look for; empty means anything. ``since`` and ``until`` are Unix seconds, ``text`` is looked for in the details."""

    event: str = ""
    actor: str = ""
    since: float | None = None
    until: float | None = None
    text: str = ""

    def where(self) -> tuple[str, list[str | float]]:
        """The condition and its values."""
        parts: list[tuple[str, str | float | None]] = [
            ("event = ?", self.event or None),
            ("actor = ?", self.actor or None),
            ("at >= ?", self.since),
            ("at < ?", self.until),
            ("detail LIKE ? ESCAPE '^'", _pattern(self.text) if self.text else None),
        ]
        kept = [(part, value) for part, value in parts if value is not None]
        return " AND ".join(part for part, _ in kept) or "1", [value for _, value in kept]


def _pattern(text: str) -> str:
    # Details are stored as ASCII JSON, so other letters are looked for as they are written there.
    stored = json.dumps(text)[1:-1]
    return "%" + stored.replace("^", "^^").replace("%", "^%").replace("_", "^_") + "%"


class Checkpoint(Struct, frozen=True):
    """A signed head: up to ``seq`` nothing can be changed unseen since ``at``."""

    seq: int
    at: float


class AuditSearch:
    """Reads the log of a database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def page(
        self, wanted: Wanted, *, before: int | None = None, after: int | None = None, limit: int = 100
    ) -> list[Record]:
        """Newest first: those before a sequence number, or those after one."""
        where, values = wanted.where()
        rows = await self._db.rows(
            f"SELECT * FROM audit WHERE {where} AND seq < ? AND seq > ? ORDER BY seq DESC LIMIT ?",  # noqa: S608 (fixed parts)
            (*values, before if before is not None else 1 << 62, after or 0, min(limit, PAGE_MAX)),
        )
        return [Record.of(row) for row in rows]

    async def all(self, wanted: Wanted) -> AsyncIterator[Record]:
        """Every record there is now, oldest first."""
        where, values = wanted.where()
        head, seq = (await self._db.rows("SELECT max(seq) AS seq FROM audit"))[0]["seq"] or 0, 0
        while rows := await self._piece(where, values, seq, head):
            for row in rows:
                yield Record.of(row)
            seq = rows[-1]["seq"]

    async def _piece(self, where: str, values: list[str | float], after: int, head: int) -> list[Row]:
        return await self._db.rows(
            f"SELECT * FROM audit WHERE {where} AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?",  # noqa: S608 (fixed parts)
            (*values, after, head, PIECE),
        )

    async def checkpoints(self, limit: int = 5) -> list[Checkpoint]:
        """The newest signed heads."""
        rows = await self._db.rows("SELECT seq, at FROM audit_checkpoints ORDER BY seq DESC LIMIT ?", (limit,))
        return [Checkpoint(row["seq"], row["at"]) for row in rows]
