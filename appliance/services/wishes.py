"""What people last asked of each service, kept so that a deliberate stop survives a restart."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.clock import Clock
from appliance.database import Database


class Wishes:
    """The table ``service_wishes``."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db = database
        self._clock = clock

    async def load(self) -> Mapping[str, str]:
        """Service to wish, for those that somebody has changed."""
        return {row["service"]: row["wish"] for row in await self._db.rows("SELECT service, wish FROM service_wishes")}

    async def save(self, service: str, want: str, actor: str) -> None:
        """Returns once it is on disk. Who asked is in the audit log."""
        await self._db.execute(
            "INSERT INTO service_wishes VALUES (?, ?, ?) ON CONFLICT (service) DO UPDATE SET "
            "wish = excluded.wish, at = excluded.at",
            (service, want, self._clock.now()),
        )
