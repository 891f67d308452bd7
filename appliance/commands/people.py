"""What the history of commands keeps of a person, and what stays when they are removed (PRV-4, PRV-6).

Rule: a run that happened stays in the history, for it changed files that others have; whose it was becomes nobody's.
"""

from __future__ import annotations

from typing import Any

from appliance.database import Database

_RUNS = (
    "SELECT id, state, line, cwd, why, verdict, rule, created_at, started_at, ended_at FROM runs "
    "WHERE person = ? ORDER BY created_at"
)


async def told(database: Database, person: str) -> list[dict[str, Any]]:
    """The runs a person asked for. ``person`` is a user id."""
    return [dict(row) for row in await database.rows(_RUNS, (person,))]


async def forget(tx: Any, person: str) -> None:
    """Take a person's name out of the history, in the transaction that removes them. Their id, which is random, stays."""
    await tx.execute("UPDATE runs SET name = '', session = '' WHERE person = ?", (person,))
    await tx.execute("UPDATE runs SET decided_by = '' WHERE decider = ?", (person,))
    await tx.execute("DELETE FROM leases WHERE giver = ?1 OR run IN (SELECT id FROM runs WHERE person = ?1)", (person,))
