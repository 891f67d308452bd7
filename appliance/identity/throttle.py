"""Limits on failed sign-in attempts (AUTH-4). Rule: only failures count, and a known device is never shut out.

Five failures in two minutes by one caller bring a ban of five minutes, doubling up to an hour; so do a hundred in an hour against
one account, from wherever they come. Bans survive a restart (AUTH-12).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct

from appliance.clock import Clock
from appliance.database import Database
from appliance.errors import Invalid, TooMany

FIRST_BAN = 300.0
LONGEST_BAN = 3600.0
FORGET = 24 * 3600.0
# Each attempt of a stranger costs a write that reaches the disk. So many stand in line for it among everybody else's writes; so
# many wait for that, of one network and in all, and whoever comes then is turned away at once, without a write.
AT_ONCE = 2
WAITING, WAITING_OF_NETWORK = 256, 64


class ProofRefused(Invalid):
    """A proof of identity that does not hold, or a caller who is shut out; which one is not told (AUTH-5). This, and only
    this, counts as a failure."""

    code = "proof_refused"


class Limit(Struct, frozen=True):
    """``failures`` within ``window`` seconds bring a ban."""

    failures: int
    window: float


PER_CALLER = Limit(5, 120.0)
PER_ACCOUNT = Limit(100, 3600.0)


class Throttle:
    """Counts failures by key in the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db = database
        self._clock = clock
        self._few = asyncio.Semaphore(AT_ONCE)
        self._waiting: Counter[str] = Counter()

    @asynccontextmanager
    async def line(self, address: str) -> AsyncIterator[None]:
        """The turn of an attempt from ``address``. Raises TooMany when too many wait already."""
        here = network(address)
        if self._waiting.total() >= WAITING or self._waiting[here] >= WAITING_OF_NETWORK:
            raise TooMany(
                "too many people try to sign in at the same time", retry_after=5, hint="Try again in a moment."
            )
        self._waiting[here] += 1
        try:
            async with self._few:
                yield
        finally:
            self._waiting[here] -= 1
            self._waiting += Counter()  # drops what is zero

    async def banned(self, key: str, tx: Any = None) -> float:
        """Seconds for which ``key`` is banned; 0 when it is not. With ``tx`` as that transaction sees it."""
        question, values = "SELECT until FROM bans WHERE key = ?", (key,)
        rows = list(await tx.execute_fetchall(question, values)) if tx else await self._db.rows(question, values)
        return _left(rows[0]["until"] if rows else 0.0, self._clock.now())

    async def failed(self, tx: Any, key: str, limit: Limit = PER_CALLER) -> bool:
        """Count a failure of ``key`` inside the caller's transaction; the one that reaches ``limit`` bans it.

        Returns whether it counted: during a ban nothing does, so that hammering neither prolongs it nor fills the disk.
        """
        now = self._clock.now()
        await tx.execute(
            "DELETE FROM bans WHERE until < ? AND json_extract(failures, '$[#-1]') < ?", (now - FORGET, now - FORGET)
        )
        rows = list(await tx.execute_fetchall("SELECT failures, until, level FROM bans WHERE key = ?", (key,)))
        until, level = (rows[0]["until"], rows[0]["level"]) if rows else (0.0, 0)
        times = [at for at in json.loads(rows[0]["failures"]) if now - limit.window < at <= now] if rows else []
        counted = not _left(until, now)
        if counted:
            times.append(now)
        if len(times) >= limit.failures:
            until, level, times = now + min(FIRST_BAN * 2 ** min(level, 10), LONGEST_BAN), level + 1, []
        # Something else each time, or SQLite would leave the page and the disk alone: an attempt costs the same whether it was
        # counted or not (AUTH-5). What stands for one that was not is too old to count.
        told = times if counted and times else [now - limit.window]
        await tx.execute(
            "INSERT INTO bans VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
            "failures = excluded.failures, until = excluded.until, level = excluded.level",
            (key, json.dumps(told), until, level),
        )
        return counted

    async def count(self, key: str) -> None:
        """Count a failure in a transaction of its own."""
        async with self._db.transaction() as tx:
            await self.failed(tx, key)


def _left(until: float, now: float) -> float:
    """Seconds of a ban that are left. One that seems longer than any ban is from before the clock was set back: it is over."""
    return until - now if 0 < until - now <= LONGEST_BAN else 0.0


def network(address: str) -> str:
    """The key for a client address: one IPv4 address, or the /64 that one IPv6 customer holds."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
