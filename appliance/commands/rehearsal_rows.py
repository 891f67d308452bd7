"""The table of rehearsals, and what may still be done with one.

Rule: a row is only ever changed from the state it was seen in.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct

from appliance.database import Database, Row
from appliance.errors import NotFound

READY_SECONDS = 24 * 3600.0
UNDO_SECONDS = 7 * 86_400.0
# Why one cannot be applied, then why nothing is left of one.
CAUSES = ("problems", "stale", "too_many", "too_large", "too_deep", "torn", "not_started", "gone")


class Stage(StrEnum):
    """Where a rehearsal stands."""

    RUNNING = "running"
    READY = "ready"
    EMPTY = "empty"
    APPLYING = "applying"
    APPLIED = "applied"
    UNDOING = "undoing"
    UNDONE = "undone"
    DISCARDED = "discarded"
    EXPIRED = "expired"
    LOST = "lost"


class Rehearsal(Struct, frozen=True):
    """``*_at`` are Unix times; ``cause`` says why it cannot be applied, or why nothing is left of it."""

    run: str
    stage: Stage
    created_at: float
    cause: str = ""
    digest: str = ""
    changes: int = 0
    list_at: int = 0
    list_size: int = 0
    bytes: int = 0
    ready_at: float | None = None
    applied_at: float | None = None
    undone_at: float | None = None
    intent: int | None = None

    @property
    def expires_at(self) -> float | None:
        """When it can no longer be applied."""
        return self.ready_at + READY_SECONDS if self.ready_at and self.stage in (Stage.READY, Stage.EMPTY) else None

    @property
    def undo_until(self) -> float | None:
        return self.applied_at + UNDO_SECONDS if self.applied_at and self.stage is Stage.APPLIED else None

    def applicable(self, now: float) -> bool:
        return self.stage is Stage.READY and not self.cause and now < (self.expires_at or 0)

    def can_undo(self, now: float) -> bool:
        return self.stage is Stage.APPLIED and self.bytes > 0 and now < (self.undo_until or 0)

    @property
    def kept(self) -> bool:
        """Whether its file is still of use."""
        return self.bytes > 0


class Rows:
    """The rows."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def add(self, tx: Any, run: str, now: float) -> None:
        await tx.execute("INSERT INTO rehearsals (run, state, created_at) VALUES (?, 'running', ?)", (run, now))

    async def change(self, tx: Any, row: Rehearsal, was: Stage) -> bool:
        """Write ``row`` if it is still in ``was``; False when it is not."""
        done = await tx.execute(
            "UPDATE rehearsals SET state = ?, cause = ?, digest = ?, changes = ?, list_at = ?, list_size = ?, bytes = ?, "
            "ready_at = ?, applied_at = ?, undone_at = ?, intent = ? WHERE run = ? AND state = ?",
            (
                str(row.stage), row.cause, row.digest, row.changes, row.list_at, row.list_size, row.bytes,
                row.ready_at, row.applied_at, row.undone_at, row.intent, row.run, str(was),
            ),
        )  # fmt: skip
        return bool(done.rowcount)

    async def get(self, run: str) -> Rehearsal:
        """Raises NotFound for a run that was no rehearsal."""
        row = await self._db.row("SELECT * FROM rehearsals WHERE run = ?", (run,))
        if row is None:
            raise NotFound("this run was no rehearsal", hint="Only a rehearsal has changes to look at.")
        return _rehearsal(row)

    async def all(self) -> list[Rehearsal]:
        """The newest first."""
        return [_rehearsal(row) for row in await self._db.rows("SELECT * FROM rehearsals ORDER BY created_at DESC")]

    async def forget(self, tx: Any) -> None:
        """Rows of runs that are forgotten themselves."""
        await tx.execute("DELETE FROM rehearsals WHERE run NOT IN (SELECT id FROM runs)")


def _rehearsal(row: Row) -> Rehearsal:
    values = dict(row)
    return Rehearsal(stage=Stage(values.pop("state")), **values)
