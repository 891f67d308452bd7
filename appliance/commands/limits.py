"""How often: a burst and a daily cap for every asker and every rule, kept across restarts.

Rule: time is uptime within one boot; across boots it is the wall clock, never counted backwards, so no jump of the clock
gives anybody more while the machine runs (R9, POL-13). What was taken is on disk with the run it was taken for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from appliance.clock import Clock
from appliance.commands.asker import Asker
from appliance.commands.model import Rate
from appliance.database import Database
from appliance.errors import TooMany

DAY = 86_400.0
ASKER = Rate(per_minute=120, per_day=10_000)
FORGET_AFTER = 2 * DAY
MOST_PENDING = 10  # proposals of one account that wait for a decision
MOST_IN_NAME = 15  # of all tokens and the assistant together that act for one person


class LimitReached(TooMany):
    """Too many commands: which limit it was is ``code`` (``rate_minute``, ``rate_day``,
    ``rate_parallel``, ``rate_pending`` or ``rate_in_name``)."""

    def __init__(self, code: str, retry_after: float) -> None:
        words = {
            "rate_minute": "that is too many commands in a short time",
            "rate_day": "that is too many commands for one day",
            "rate_parallel": "too many of these commands are running already",
            "rate_pending": "too many of your commands wait for a decision",
            "rate_in_name": "too many commands that tokens and the assistant ask for in your name wait for a decision",
        }
        super().__init__(words[code], retry_after=retry_after, hint=f"Try again in {_human(retry_after)}.")
        self.code = code


class Bucket(Struct):
    """What is left of one budget. ``left`` refills evenly; ``used`` counts in a day that began with its first use."""

    left: float
    used: int
    day: float
    uptime: float

    def advance(self, rate: Rate, now: float) -> None:
        """Let the time since the last use pass."""
        passed = max(0.0, now - self.uptime)
        self.left = min(rate.per_minute, self.left + passed * rate.per_minute / 60)
        self.day += passed
        self.uptime = now
        if self.day >= DAY:
            self.day, self.used = 0.0, 0

    def wait(self, rate: Rate) -> tuple[str, float] | None:
        """Why and how long (seconds) the next use has to wait; None: not at all."""
        if self.used >= rate.per_day:
            return "rate_day", DAY - self.day
        if self.left < 1:
            return "rate_minute", (1 - self.left) * 60 / rate.per_minute
        return None

    def take(self) -> None:
        if self.used == 0:
            self.day = 0.0
        self.left -= 1
        self.used += 1


class RateLimits:
    """All budgets of this appliance. Reading and taking are memory; :meth:`save` writes within the caller's transaction."""

    def __init__(self, database: Database, clock: Clock, boot_id: str) -> None:
        self._db, self._clock, self._boot = database, clock, boot_id
        self._buckets: dict[str, Bucket] = {}

    async def load(self) -> None:
        """Read what was used before the last stop."""
        now, uptime = self._clock.now(), self._clock.uptime()
        for row in await self._db.rows("SELECT * FROM rates"):
            away = uptime - row["uptime"] if row["boot_id"] == self._boot else max(0.0, now - row["at"])
            self._buckets[row["key"]] = Bucket(row["left"], row["used"], row["day"], uptime - away)

    def take(self, budgets: Mapping[str, Rate]) -> None:
        """Use each budget once, or none. Raises LimitReached."""
        now = self._clock.uptime()
        buckets = []
        for key, rate in budgets.items():
            bucket = self._buckets.setdefault(key, Bucket(rate.per_minute, 0, 0.0, now))
            bucket.advance(rate, now)
            if found := bucket.wait(rate):
                raise LimitReached(*found)
            buckets.append(bucket)
        for bucket in buckets:
            bucket.take()

    async def save(self, tx: Any, keys: Iterable[str]) -> None:
        """Write these budgets in the caller's transaction."""
        now = self._clock.now()
        rows = [
            (key, one.left, one.used, one.day, now, one.uptime, self._boot)
            for key in keys
            if (one := self._buckets.get(key))
        ]
        # Not INSERT OR REPLACE, which would write the index anew as well.
        await tx.executemany(
            "INSERT INTO rates VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET left = excluded.left, "
            "used = excluded.used, day = excluded.day, at = excluded.at, uptime = excluded.uptime, boot_id = excluded.boot_id",
            rows,
        )

    async def forget(self) -> None:
        """Drop budgets that nobody has used for two days: they are whole again."""
        now = self._clock.uptime()
        old = [key for key, bucket in self._buckets.items() if now - bucket.uptime > FORGET_AFTER]
        async with self._db.transaction() as tx:
            await tx.executemany("DELETE FROM rates WHERE key = ?", [(key,) for key in old])
        for key in old:
            del self._buckets[key]


def budgets(asker: Asker, rule: str, rate: Rate) -> dict[str, Rate]:
    """What one command of ``asker`` is taken from: the account, the session, the rule for this account, and the person behind
    it all, who has no more for having many tokens."""
    found = {asker.account: ASKER, f"rule:{rule}:{asker.account}": rate}
    found |= {f"session:{asker.session}": ASKER} if asker.session else {}
    return found | ({f"user:{asker.person}": ASKER} if asker.person else {})


def crowd(asker: Asker, waiting: Sequence[Asker]) -> tuple[str, int] | None:
    """Why no more of ``asker`` may wait beside those that do, the oldest first, and which of them makes room first; None: it may.

    What asks in a person's name has one bound for all of it, so that having many tokens fills nobody's inbox; it leaves the
    person's own questions their room.
    """
    own = [place for place, one in enumerate(waiting) if one.account == asker.account]
    if len(own) >= MOST_PENDING:
        return "rate_pending", own[0]
    in_name = [place for place, one in enumerate(waiting) if one.person == asker.person and not one.in_person]
    if asker.person and not asker.in_person and len(in_name) >= MOST_IN_NAME:
        return "rate_in_name", in_name[0]
    return None


def _human(seconds: float) -> str:
    whole = max(1, math.ceil(seconds))
    if whole < 120:
        return f"{whole} s"
    return f"{math.ceil(whole / 60)} min" if whole < 7200 else f"{math.ceil(whole / 3600)} h"
