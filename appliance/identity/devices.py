"""Browsers a person has signed in with. Rule: knowing a device lets nobody in; it only keeps other people's failures from
shutting its owner out (AUTH-4)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from appliance.clock import Clock
from appliance.database import Database
from appliance.errors import NotFound
from appliance.identity import secrets

PER_PERSON = 50
TEXT_MAX = 300


class Device(Struct, frozen=True):
    """One known browser. ``seen_at`` is when somebody last signed in with it (Unix seconds)."""

    id: str
    agent: str
    address: str
    seen_at: float
    current: bool


class Devices:
    """The table of known browsers; each holds a cookie of which only the hash is here."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db = database
        self._clock = clock

    async def recognise(self, tx: Any, user_id: str, *, agent: str, address: str, known_as: str = "") -> str:
        """Remember the browser of a sign-in inside its transaction. Returns its new cookie; the one it came with is replaced."""
        cookie = secrets.new("dev")
        await self._drop(tx, user_id, known_as)
        await tx.execute(
            "INSERT INTO devices (hash, user_id, created_at, agent, address) VALUES (?, ?, ?, ?, ?)",
            (
                secrets.digest(cookie),
                user_id,
                self._clock.now(),
                agent[:TEXT_MAX].encode("utf-8", "replace").decode(),  # a header may hold bytes that are no text
                address,
            ),
        )
        return cookie

    async def _drop(self, tx: Any, user_id: str, known_as: str) -> None:
        await tx.execute("DELETE FROM devices WHERE user_id = ? AND hash = ?", (user_id, secrets.digest(known_as)))
        await tx.execute(
            "DELETE FROM devices WHERE user_id = ?1 AND hash NOT IN "
            "(SELECT hash FROM devices WHERE user_id = ?1 ORDER BY created_at DESC LIMIT ?2)",
            (user_id, PER_PERSON - 1),
        )

    async def of(self, user_id: str, cookie: str = "") -> list[Device]:
        """A person's browsers, the last used first; ``current`` is the one that holds ``cookie``."""
        rows = await self._db.rows("SELECT * FROM devices WHERE user_id = ? ORDER BY created_at DESC", (user_id,))
        here = secrets.digest(cookie)
        return [
            Device(row["hash"][:8].hex(), row["agent"], row["address"], row["created_at"], row["hash"] == here)
            for row in rows
        ]

    async def forget(self, user_id: str, device_id: str) -> None:
        """Forget one of a person's browsers. Raises NotFound."""
        gone = await self._db.execute(
            "DELETE FROM devices WHERE user_id = ? AND lower(hex(substr(hash, 1, 8))) = ?", (user_id, device_id)
        )
        if not gone:
            raise NotFound("there is no such device", hint="It may have been forgotten meanwhile.")
