"""Leases: this exact execution, this many times, for this long, without asking again (AI-5).

Rule: a lease is held by the hash of one execution and the account it was given for; anything different asks again. It ends
with its runs, its time (by uptime), the boot, a change of the policy (which is part of the hash), or by hand.
"""

from __future__ import annotations

import secrets
from typing import Any

from msgspec import Struct

from appliance.clock import Clock
from appliance.database import Database, Row
from appliance.errors import Invalid, NotFound

MOST_RUNS = 50
MOST_MINUTES = 240


class Terms(Struct, frozen=True):
    """What a person grants: ``runs`` further runs within ``minutes``."""

    runs: int
    minutes: int

    def check(self) -> None:
        """Raises Invalid."""
        if not (1 <= self.runs <= MOST_RUNS and 1 <= self.minutes <= MOST_MINUTES):
            raise Invalid(
                "a lease cannot be that long",
                hint=f"At most {MOST_RUNS} runs and {MOST_MINUTES} minutes.",
                code="lease_terms",
            )


class Lease(Struct, frozen=True):
    """``remaining`` is in seconds from when it was read."""

    id: str
    account: str
    name: str
    line: str
    cwd: str
    given_by: str
    created_at: float
    runs: int
    used: int
    remaining: float


class Leases:
    """All live leases."""

    def __init__(self, database: Database, clock: Clock, boot_id: str) -> None:
        self._db, self._clock, self._boot = database, clock, boot_id

    async def give(
        self,
        tx: Any,
        terms: Terms,
        *,
        digest: str,
        account: str,
        name: str,
        line: str,
        cwd: str,
        run: str,
        by: str,
        giver: str,
    ) -> str:
        """Grant one in the caller's transaction. Returns its id. Raises Invalid."""
        terms.check()
        made = f"lease-{secrets.token_hex(8)}"
        await tx.execute(
            "INSERT INTO leases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, NULL, ?)",
            (
                made,
                digest,
                account,
                name,
                line,
                cwd,
                run,
                by,
                self._clock.now(),
                self._clock.uptime(),
                self._boot,
                terms.minutes * 60.0,
                terms.runs,
                giver,
            ),
        )
        return made

    async def find(self, digest: str, account: str) -> str:
        """The id of a live lease for this execution of this account; empty where there is none."""
        rows = await self._db.rows(
            f"SELECT id FROM leases WHERE hash = ? AND account = ? AND {_LIVE} LIMIT 1",  # noqa: S608 - our text
            (digest, account, self._boot, self._clock.uptime()),
        )
        return str(rows[0]["id"]) if rows else ""

    async def use(self, tx: Any, lease: str) -> bool:
        """Take one run in the caller's transaction; False when there is none left any more."""
        done = await tx.execute(
            f"UPDATE leases SET used = used + 1 WHERE id = ? AND {_LIVE}",  # noqa: S608 - our text
            (lease, self._boot, self._clock.uptime()),
        )
        return bool(done.rowcount)

    async def all(self) -> list[Lease]:
        """Live ones, the newest first."""
        rows = await self._db.rows(
            f"SELECT * FROM leases WHERE {_LIVE} ORDER BY created_at DESC",  # noqa: S608 - our text
            (self._boot, self._clock.uptime()),
        )
        return [self._lease(row) for row in rows]

    async def revoke(self, tx: Any, lease: str) -> None:
        """End one at once. Raises NotFound when it is over already."""
        done = await tx.execute(
            f"UPDATE leases SET revoked_at = ? WHERE id = ? AND {_LIVE}",  # noqa: S608 - our text
            (self._clock.now(), lease, self._boot, self._clock.uptime()),
        )
        if not done.rowcount:
            raise NotFound("there is no such lease", hint="It may have run out meanwhile.")

    async def forget(self, before: float) -> None:
        """Drop those made before a Unix time."""
        await self._db.execute("DELETE FROM leases WHERE created_at < ?", (before,))

    def _lease(self, row: Row) -> Lease:
        left = row["uptime"] + row["lifetime"] - self._clock.uptime()
        return Lease(
            row["id"],
            row["account"],
            row["name"],
            row["line"],
            row["cwd"],
            row["given_by"],
            row["created_at"],
            row["runs"],
            row["used"],
            left,
        )


# Worth no more than who gave it: what an operator let through ends when they are one no more.
_LIVE = (
    "revoked_at IS NULL AND used < runs AND boot_id = ? AND uptime + lifetime > ? AND (giver = '' OR EXISTS "
    "(SELECT 1 FROM users WHERE users.id = giver AND users.suspended_at IS NULL AND users.role IN ('operator', 'admin')))"
)
