"""How much of the engine each token and each person may use: requests a minute with bursts, requests at once, tokens a day.

Rules: what is under way counts before it has ended, so asking many times at once gains nothing, nor does an answer without an end;
counts outlive a restart; a day is a day in UTC. The audit log gets sums, one record an hour for each user at most, and never a text.
"""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.database import Database
from appliance.errors import TooMany
from appliance.settings import Settings

DAY = 86400.0
TELL_SECONDS = 3600.0
KEEP_DAYS = 90
NOTED_TOKENS = 256  # an answer under way is looked at each time it has grown by so much
COUNTS = ("requests", "tokens_in", "tokens_out", "refused")


class QuotaReached(TooMany):
    """A limit was reached. ``code``: ``rate_limit`` (too fast), ``too_many_at_once``, ``token_quota`` or ``person_quota`` (the day's)."""

    def __init__(self, code: str, message: str, *, retry_after: float, hint: str) -> None:
        super().__init__(message, retry_after=retry_after, hint=hint)
        self.code = code


@dataclass(frozen=True)
class Client:
    """Who uses the engine. ``subject`` is what has a quota of its own (``token:ID``, ``chat:USER`` ...), ``person`` the user id
    behind it, which has one in all; empty for the workspace, which is everybody's."""

    subject: str
    person: str = ""


@dataclass(frozen=True)
class Limits:
    """0 means no limit. ``per_minute`` and ``burst`` are requests; ``token_day`` and ``person_day`` are tokens in and out."""

    per_minute: int
    burst: int
    parallel: int
    token_day: int
    person_day: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(
            settings.ai_rate_minute,
            settings.ai_rate_burst,
            settings.ai_parallel,
            settings.ai_token_day,
            settings.ai_person_day,
        )


@dataclass
class _Row:
    """What one subject did on one day; ``told`` is how much of it the audit log has."""

    person: str
    counts: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    told_at: float = 0.0
    unsaved: bool = False

    @property
    def tokens(self) -> int:
        return self.counts["tokens_in"] + self.counts["tokens_out"]


@dataclass
class _Rate:
    """A bucket that holds ``burst`` requests and fills at ``per_minute``. ``at`` is uptime."""

    level: float
    at: float


class Use:
    """One admitted request; :meth:`end` it once, with what it used."""

    def __init__(self, quotas: Quotas, client: Client, estimate: int) -> None:
        self._quotas, self.client, self.estimate, self._open = quotas, client, estimate, True
        self.written = 0

    def going_on(self, tokens_out: int) -> None:
        """The answer has come so far. Raises QuotaReached once it is more than the day has left."""
        if tokens_out - self.written >= NOTED_TOKENS:
            self.written = tokens_out
            self._quotas._check_written(self.client)

    def end(self, tokens_in: int, tokens_out: int) -> None:
        """The request is over, however it went."""
        if self._open:
            self._open = False
            self._quotas._ended(self, max(0, tokens_in), max(0, tokens_out))


class Quotas:
    """All counts of today, in memory; :meth:`save` writes them (each minute and at stop)."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock, limits: Callable[[], Limits]) -> None:
        self._db, self._audit, self._clock, self._limits = database, audit, clock, limits
        self._rows: dict[tuple[str, str], _Row] = {}
        self._rates: dict[str, _Rate] = {}
        self._under_way: set[Use] = set()

    async def load(self) -> None:
        """Read today's counts, and earlier ones that the audit log has not got whole."""
        for row in await self._db.rows("SELECT * FROM ai_use WHERE day >= ?", (_day(self._clock.now() - DAY),)):
            counts = Counter({name: row[name] for name in COUNTS})
            self._rows[row["subject"], row["day"]] = _Row(row["person"], counts, Counter(json.loads(row["told"])))
        now, uptime = self._clock.now(), self._clock.uptime()
        for row in await self._db.rows("SELECT * FROM ai_rate"):
            # A clock that was set back has let no time pass; at most a day counts, which fills any bucket.
            passed = min(max(0.0, now - row["at"]), DAY)
            self._rates[row["subject"]] = _Rate(row["level"], uptime - passed)

    def begin(self, client: Client, estimate: int = 0) -> Use:
        """Let a request begin. ``estimate``: tokens it may take, which count until it ends. Raises QuotaReached."""
        limits = self._limits()
        try:
            # At the limit, nothing is left.
            self._check_tokens(limits, client, lambda use: use.estimate, 1)
            self._check_parallel(limits, client)
            self._take(limits, client)
        except QuotaReached:
            self._count(client, refused=1)
            raise
        use = Use(self, client, estimate)
        self._under_way.add(use)
        self._count(client, requests=1)
        return use

    @property
    def under_way(self) -> int:
        """Requests that have begun and not ended."""
        return len(self._under_way)

    def used(self, client: Client) -> tuple[int, int]:
        """Tokens of today: of this subject, and of its person in all."""
        today = _day(self._clock.now())
        mine = self._rows.get((client.subject, today))
        of_person = sum(
            row.tokens for (_, day), row in self._rows.items() if day == today and row.person == client.person
        )
        return (mine.tokens if mine else 0), of_person if client.person else 0

    def _check_written(self, client: Client) -> None:
        self._check_tokens(self._limits(), client, lambda use: use.written, 0)

    def _with_under_way(self, client: Client, tokens: Callable[[Use], int]) -> tuple[int, int]:
        """As :meth:`used`, and ``tokens`` of each request under way."""
        mine, of_person = self.used(client)
        mine += sum(tokens(use) for use in self._under_way if use.client.subject == client.subject)
        of_person += sum(tokens(use) for use in self._under_way if use.client.person == client.person)
        return mine, of_person

    def _check_tokens(self, limits: Limits, client: Client, tokens: Callable[[Use], int], more: int) -> None:
        if not limits.token_day and not limits.person_day:
            return
        left = DAY - self._clock.now() % DAY
        mine, of_person = self._with_under_way(client, tokens)
        if limits.token_day and mine + more > limits.token_day:
            raise QuotaReached(
                "token_quota",
                f"this token has used its {limits.token_day} tokens of today",
                retry_after=left,
                hint="It can be used again after midnight UTC. An admin sets the limit on the settings page.",
            )
        if client.person and limits.person_day and of_person + more > limits.person_day:
            raise QuotaReached(
                "person_quota",
                f"you have used your {limits.person_day} tokens of today",
                retry_after=left,
                hint="They start anew at midnight UTC. An admin sets the limit on the settings page.",
            )

    def _check_parallel(self, limits: Limits, client: Client) -> None:
        most = limits.parallel
        if most and sum(use.client.subject == client.subject for use in self._under_way) >= most:
            raise QuotaReached(
                "too_many_at_once",
                f"this token has {most} requests under way already",
                retry_after=2.0,
                hint="Wait for one of them to end.",
            )

    def _take(self, limits: Limits, client: Client) -> None:
        """One request out of the bucket."""
        if not limits.per_minute:
            return
        now = self._clock.uptime()
        most, speed = float(max(1, limits.burst)), limits.per_minute / 60.0
        rate = self._rates.setdefault(client.subject, _Rate(most, now))
        rate.level, rate.at = min(most, rate.level + (now - rate.at) * speed), now
        if rate.level < 1.0:
            raise QuotaReached(
                "rate_limit",
                f"this token may make {limits.per_minute} requests a minute, {int(most)} of them at once",
                retry_after=(1.0 - rate.level) / speed,
                hint="Ask more slowly. An admin sets the limit on the settings page.",
            )
        rate.level -= 1.0

    def _ended(self, use: Use, tokens_in: int, tokens_out: int) -> None:
        self._under_way.discard(use)
        self._count(use.client, tokens_in=tokens_in, tokens_out=tokens_out)

    def _count(self, client: Client, **more: int) -> None:
        key = client.subject, _day(self._clock.now())
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = _Row(client.person)
        for name, number in more.items():
            row.counts[name] += number
        row.unsaved = True

    async def save(self) -> None:
        """Write what changed, and tell the audit log what it has not heard for an hour."""
        await self._write(lambda row: self._clock.uptime() - row.told_at >= TELL_SECONDS or not row.told)

    async def close(self) -> None:
        """Write everything, at stop."""
        await self._write(lambda row: True)

    async def _write(self, due: Callable[[_Row], bool]) -> None:
        for (subject, day), row in list(self._rows.items()):
            untold = row.counts - row.told
            tell = bool(untold) and due(row)
            if row.unsaved or tell:
                await self._write_row(subject, day, row, untold if tell else Counter())
        await self._write_rates()
        self._forget_old()

    async def _write_row(self, subject: str, day: str, row: _Row, untold: Counter[str]) -> None:
        """One commit for the counts and the record of them: told twice or never, a sum would be wrong."""
        counts, told = Counter(row.counts), row.told + untold
        values = [counts[name] for name in COUNTS]
        async with self._db.transaction() as tx:
            await tx.execute(
                "INSERT OR REPLACE INTO ai_use VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (subject, day, row.person, *values, json.dumps(told)),
            )
            if untold:
                await self._audit.append(tx, "ai.use", subject, day=day, **{name: untold[name] for name in COUNTS})
        row.unsaved = row.counts != counts
        if untold:
            row.told, row.told_at = told, self._clock.uptime()

    async def _write_rates(self) -> None:
        now, uptime, burst = self._clock.now(), self._clock.uptime(), max(1, self._limits().burst)
        speed = self._limits().per_minute / 60.0
        # A bucket that is full again is as good as none.
        self._rates = {
            name: rate for name, rate in self._rates.items() if rate.level + (uptime - rate.at) * speed < burst
        }
        rows = [(name, rate.level, now - (uptime - rate.at)) for name, rate in self._rates.items()]
        async with self._db.transaction() as tx:
            await tx.execute("DELETE FROM ai_rate")
            await tx.executemany("INSERT INTO ai_rate VALUES (?, ?, ?)", rows)
            await tx.execute("DELETE FROM ai_use WHERE day < ?", (_day(self._clock.now() - KEEP_DAYS * DAY),))

    def _forget_old(self) -> None:
        oldest = _day(self._clock.now() - DAY)
        self._rows = {key: row for key, row in self._rows.items() if key[1] >= oldest}


async def build(database: Database, audit: AuditLog, clock: Clock, limits: Callable[[], Limits]) -> Quotas:
    """Quotas with what earlier runs of the daemon counted."""
    quotas = Quotas(database, audit, clock, limits)
    await quotas.load()
    return quotas


async def told(database: Database, user_id: str) -> list[dict[str, object]]:
    """What is kept of a person (PRV-6)."""
    rows = await database.rows(
        "SELECT subject, day, requests, tokens_in, tokens_out, refused FROM ai_use WHERE person = ? ORDER BY day, subject",
        (user_id,),
    )
    return [dict(row) for row in rows]


async def forget(tx: Any, user_id: str) -> None:
    """Nothing of a person stays (PRV-4); called in the transaction that removes them."""
    await tx.execute("DELETE FROM ai_use WHERE person = ?", (user_id,))


def _day(at: float) -> str:
    return _name(int(at // DAY))


@functools.lru_cache(maxsize=4)
def _name(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * DAY))
