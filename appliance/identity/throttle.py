"""Limits on failed sign-in attempts (AUTH-4). Rule: only failures count, and a known device is never shut out.

Five failures in two minutes from one key bring a ban of five minutes, doubling up to an hour. Bans survive a restart (AUTH-12).
"""

from __future__ import annotations

import ipaddress
import json

from appliance.clock import Clock
from appliance.database import Database

FAILURES = 5
WINDOW = 120.0
FIRST_BAN = 300.0
LONGEST_BAN = 3600.0
FORGET = 24 * 3600.0


class Throttle:
    """Counts failures by key in the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db = database
        self._clock = clock

    async def banned(self, key: str) -> float:
        """Seconds for which ``key`` is banned; 0 when it is not."""
        row = await self._db.row("SELECT until FROM bans WHERE key = ?", (key,))
        # A clock set back must not turn minutes into days.
        return min(max(0.0, row["until"] - self._clock.now()), LONGEST_BAN) if row else 0.0

    async def failed(self, key: str) -> None:
        """Count a failure of ``key``; the fifth within two minutes bans it."""
        now = self._clock.now()
        async with self._db.transaction() as tx:
            await tx.execute("DELETE FROM bans WHERE until < ? AND json_extract(failures, '$[#-1]') < ?", (now - FORGET, now - FORGET))
            rows = list(await tx.execute_fetchall("SELECT failures, until, level FROM bans WHERE key = ?", (key,)))
            times = [at for at in json.loads(rows[0]["failures"]) if now - WINDOW < at <= now] if rows else []
            until, level = (rows[0]["until"], rows[0]["level"]) if rows else (0.0, 0)
            times.append(now)
            if len(times) >= FAILURES:
                until, level, times = now + min(FIRST_BAN * 2**level, LONGEST_BAN), level + 1, [now]
            await tx.execute("INSERT INTO bans VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                             "failures = excluded.failures, until = excluded.until, level = excluded.level",
                             (key, json.dumps(times), until, level))


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
