"""Where each person last was in the workspace, so that Home can offer to go on there.

Rule: the last place only, never a history; it goes with the person.
"""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from msgspec import Struct

from appliance.clock import Clock
from appliance.database import Database

TARGET_MAX = 1000
AGAIN_AFTER = 60.0  # seconds; opening the same place twice in a minute is one visit


class Visit(Struct, frozen=True):
    """``at`` is Unix seconds, ``target`` the path on the IDE host, ``folder`` what it names, or ''."""

    at: float
    target: str

    @property
    def folder(self) -> str:
        query = parse_qs(urlsplit(self.target).query)
        found = query.get("folder") or query.get("workspace") or [""]
        return found[0]


class Visits:
    """Use :meth:`record` when somebody opens the workspace, :meth:`last` on Home."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    async def record(self, user_id: str, target: str) -> None:
        """``target`` is a checked relative path; one that is too long to keep counts as the front door."""
        now = self._clock.now()
        kept = target if len(target) <= TARGET_MAX else "/"
        before = await self.last(user_id)
        if before and before.target == kept and 0 <= now - before.at < AGAIN_AFTER:
            return
        await self._database.execute(
            "INSERT INTO visits VALUES (?, ?, ?) ON CONFLICT (user_id) DO UPDATE SET at = excluded.at, target = excluded.target",
            (user_id, now, kept),
        )

    async def last(self, user_id: str) -> Visit | None:
        """The last one, or None."""
        row = await self._database.row("SELECT at, target FROM visits WHERE user_id = ?", (user_id,))
        return Visit(row["at"], row["target"]) if row else None
