"""What a person was shown once and need not see again, and how far they are with what has several steps.

Rule: a hint never decides about access; losing all of them costs nobody more than a second look.
"""

from __future__ import annotations

from appliance.clock import Clock
from appliance.database import Database
from appliance.identity.users import User

DONE = "done"
FIRST_RUN = "welcome"  # whose states are the screens of /welcome


class Hints:
    """One state a person and name; '' before the first."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db, self._clock = database, clock

    async def state(self, user: User, name: str) -> str:
        """How far ``user`` is with ``name``."""
        rows = await self._db.rows("SELECT state FROM hints WHERE user_id = ? AND name = ?", (user.id, name))
        return str(rows[0]["state"]) if rows else ""

    async def keep(self, user: User, name: str, state: str = DONE) -> None:
        """Remember how far they are."""
        await self._db.execute(
            "INSERT INTO hints VALUES (?, ?, ?, ?) ON CONFLICT (user_id, name) DO UPDATE SET state = excluded.state, "
            "at = excluded.at",
            (user.id, name, state, self._clock.now()),
        )

    async def done_by_anyone(self, name: str) -> bool:
        """Whether somebody has finished it for everyone."""
        return bool(await self._db.rows("SELECT 1 FROM hints WHERE name = ? AND state = ? LIMIT 1", (name, DONE)))
