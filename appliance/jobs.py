"""Long work that people watch: downloads, measurements, and whatever else outlives a request.

Rules: a job is a row before it does anything, so it survives the daemon; the row is the truth and what is in memory only adds how
fast it goes. A kind of job says itself how it goes on after a restart; one that cannot is said to be interrupted, never forgotten.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.database import Database, Row
from appliance.errors import Conflict, CroftError, NotFound
from appliance.events import EventBus

log = logging.getLogger(__name__)

State = Literal["queued", "running", "paused", "done", "failed", "cancelled"]
UNFINISHED = ("queued", "running", "paused")
KEPT = 100  # finished jobs that can still be looked at
BEGUN_MOST = 10  # times in a row without a person: work that takes the daemon down with it must end somewhere
SAVE_SECONDS = 2.0
TELL_SECONDS = 0.25
SPEED_SECONDS = 5.0  # over which speed is smoothed


@dataclass
class Job:
    """One row. Times are Unix seconds; ``current`` and ``total`` are bytes or steps, as the kind has it."""

    id: str
    kind: str
    subject: str
    params: Mapping[str, Any]
    actor: str
    state: State
    created_at: float
    phase: str = ""
    current: int = 0
    total: int = 0
    attempt: int = 0
    code: str = ""
    cause: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    started_at: float | None = None
    ended_at: float | None = None
    speed: float = 0.0  # a second, of ``current``; only while it runs
    pausable: bool = False
    leaves: bool = False  # something where it fails, for who resumes it; cancelling removes that

    @property
    def left(self) -> float | None:
        """Seconds until the end at this speed; None while nobody can say."""
        return (self.total - self.current) / self.speed if self.total and self.speed > 0 else None

    @property
    def actions(self) -> list[str]:
        """What may be done to it now."""
        first = {"running": "pause", "queued": "pause", "paused": "resume", "failed": "resume"}.get(self.state)
        found = [first] if first and (self.pausable or self.state == "failed") else []
        return [*found, "cancel"] if self.state in UNFINISHED or (self.state == "failed" and self.leaves) else found


@dataclass(frozen=True)
class Kind:
    """One kind of work. ``run`` does it, from wherever an earlier attempt stopped, and returns what came of it; CroftError is a
    failure that people are told. ``discard`` removes what a cancelled one left. ``lane``: jobs that share it wait for each other.
    """

    run: Callable[[Running], Awaitable[Mapping[str, Any]]]
    event: str  # in the audit log, announced before it begins
    lane: str
    pausable: bool = False
    resumes: bool = False  # after the daemon ended under it
    discard: Callable[[Mapping[str, Any]], Awaitable[None]] | None = None


class Running:
    """What a kind's ``run`` sees of its job."""

    def __init__(self, job: Job, told: Callable[[], None]) -> None:
        self._job, self._told = job, told
        self._mark: tuple[float, int] | None = None

    @property
    def params(self) -> Mapping[str, Any]:
        return self._job.params

    @property
    def actor(self) -> str:
        return self._job.actor

    def report(self, phase: str, current: int = 0, total: int = 0) -> None:
        """How far it is. Costs next to nothing; call it as often as you like."""
        job = self._job
        if phase != job.phase or current < job.current:
            self._mark, job.speed = None, 0.0
        job.phase, job.current, job.total = phase, current, total
        now = asyncio.get_running_loop().time()
        if self._mark is None:
            self._mark = (now, current)
        elif now - self._mark[0] >= TELL_SECONDS:
            since, before = self._mark
            share = min(1.0, (now - since) / SPEED_SECONDS) if job.speed else 1.0
            job.speed += share * ((current - before) / (now - since) - job.speed)
            self._mark = (now, current)
        self._told()


class Jobs:
    """One for the appliance. Call :meth:`open` once, and :meth:`close` before the database is closed."""

    def __init__(
        self, database: Database, audit: AuditLog, bus: EventBus, clock: Clock, kinds: Mapping[str, Kind]
    ) -> None:
        self._db, self._audit, self._bus, self._clock = database, audit, bus, clock
        self._kinds = kinds
        self._live: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wishes: dict[str, State] = {}  # what a running job is ended for: paused or cancelled
        self._lanes: dict[str, asyncio.Lock] = {}
        self._told_at = float("-inf")
        self._tell_later: asyncio.TimerHandle | None = None
        self._ended = 0

    async def open(self) -> None:
        """Take up what an earlier daemon left."""
        for job in await self._read("state IN ('queued', 'running', 'paused') ORDER BY created_at, id"):
            self._live[job.id] = job
            kind = self._kinds.get(job.kind)
            if kind is None or (job.state == "running" and (not kind.resumes or job.attempt >= BEGUN_MOST)):
                await self._end(job, "failed", "interrupted", "the daemon ended while it was under way")
            elif job.state != "paused":
                job.state = "queued"
                await self._save(job)
                self._begin(job)

    async def close(self) -> None:
        """Stop without ending anything: what runs goes on with the next daemon."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._tell_later is not None:
            self._tell_later.cancel()

    async def create(self, kind: str, subject: str, params: Mapping[str, Any], actor: str) -> Job:
        """Queue one. Raises Conflict when the same kind of work is under way for this subject."""
        self._check_alone(kind, subject)
        job = Job(
            id="job-" + secrets.token_hex(8),
            kind=kind,
            subject=subject,
            params=dict(params),
            actor=actor,
            state="queued",
            created_at=self._clock.now(),
            pausable=self._kinds[kind].pausable,
            leaves=self._kinds[kind].discard is not None,
        )
        self._live[job.id] = job  # before anything is waited for: the same again finds it
        try:
            await self._insert(job)
        except BaseException:
            del self._live[job.id]
            raise
        self._begin(job)
        self._tell()
        return job

    async def act(self, job_id: str, action: str) -> Job:
        """Pause, resume or cancel. Raises NotFound, Conflict."""
        job = await self.get(job_id)
        if action not in job.actions:
            raise Conflict(
                f"a job that is {job.state} cannot be told to {action}", hint="Look at it again.", code="job_state"
            )
        if action == "resume":
            if self._live.get(job.id) is not job:  # it failed; somebody may have begun it anew by now, or resumed it
                self._check_alone(job.kind, job.subject)
            job.attempt, job.state = 0, "queued"
            job.code = job.cause = ""
            job.ended_at = None
            self._live[job.id] = job
            await self._save(job)
            self._begin(job)
        else:
            await self._stop(job, "paused" if action == "pause" else "cancelled")
        self._tell()
        return job

    def _check_alone(self, kind: str, subject: str) -> None:
        if any(job.kind == kind and job.subject == subject for job in self._live.values()):
            raise Conflict("this is under way already", hint="Wait for it, or cancel it.", code="job_exists")

    async def _stop(self, job: Job, state: State) -> None:
        task = self._tasks.get(job.id)
        if task is not None:
            self._wishes[job.id] = state
            task.cancel()
            await asyncio.wait({task})
            if self._wishes.get(job.id) != state:
                return  # it was heard; what somebody wished since is theirs to see to
            del self._wishes[job.id]
        # It had not begun, or had failed: there was nobody to end it.
        if job.state in UNFINISHED or (job.state == "failed" and state == "cancelled"):
            await self._end_as_wished(job, state)

    async def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        if job_id in self._live:
            return self._live[job_id]
        found = await self._read("id = ?", (job_id,))
        if not found:
            raise NotFound("there is no such job", hint="`croft jobs list` shows the last ones.")
        return self._live.get(job_id, found[0])  # somebody may have resumed it meanwhile

    async def all(self, limit: int = KEPT) -> list[Job]:
        """Unfinished ones first, then the newest."""
        rows = await self._read(
            "1 ORDER BY state IN ('queued', 'running', 'paused') DESC, created_at DESC, id LIMIT ?", (limit,)
        )
        return [self._live.get(job.id, job) for job in rows]

    def live(self) -> list[Job]:
        """Unfinished ones, the oldest first."""
        return sorted(self._live.values(), key=lambda job: (job.created_at, job.id))

    def picture(self) -> dict[str, Any]:
        """For pages: what is under way, and ``ended``, which grows with every end."""
        return {"jobs": [shown(job) for job in self.live()], "ended": self._ended}

    async def wait(self, job_id: str) -> Job:
        """Until it runs no more."""
        if (task := self._tasks.get(job_id)) is not None:
            await asyncio.wait({task})
        return await self.get(job_id)

    def _begin(self, job: Job) -> None:
        task = self._tasks[job.id] = asyncio.create_task(self._work(job), name=f"job {job.kind}")
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))

    async def _work(self, job: Job) -> None:
        kind = self._kinds[job.kind]
        try:
            async with self._lanes.setdefault(kind.lane, asyncio.Lock()):
                await self._run(job, kind)
        except asyncio.CancelledError:
            # Somebody paused or cancelled it; without a wish the daemon is ending, and the row stays as it is.
            if (wish := self._wishes.pop(job.id, None)) is not None:
                await self._end_as_wished(job, wish)
        except CroftError as error:
            log.warning("a job failed", extra={"kind": job.kind, "cause": error.message})
            await self._end(job, "failed", error.code, error.message)
        except Exception as error:
            # A fault of ours must not leave a job running for ever; people are told no more than that.
            log.error("a job failed", extra={"kind": job.kind}, exc_info=error)
            await self._end(job, "failed", "error", type(error).__name__)

    async def _run(self, job: Job, kind: Kind) -> None:
        job.state, job.attempt = "running", job.attempt + 1
        job.started_at = job.started_at or self._clock.now()
        await self._save(job)
        intent = await self._audit.note(kind.event, job.actor, subject=job.subject, attempt=job.attempt)
        saving = asyncio.create_task(self._keep_saving(job))
        result = "failed"
        try:
            job.result = await kind.run(Running(job, self._tell))
            result = "done"
        except asyncio.CancelledError:
            result = str(self._wishes.get(job.id, "interrupted"))
            raise
        finally:
            saving.cancel()
            await self._audit.note("outcome", job.actor, intent, result=result)
        await self._end(job, "done")

    async def _keep_saving(self, job: Job) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            await self._save(job)

    async def _end_as_wished(self, job: Job, wish: State) -> None:
        await self._end(job, wish)
        discard = self._kinds[job.kind].discard
        if wish == "cancelled" and discard is not None:
            await discard(job.params)

    async def _end(self, job: Job, state: State, code: str = "", cause: str = "") -> None:
        job.state, job.code, job.cause, job.speed = state, code, cause, 0.0
        if state != "paused":
            job.ended_at = self._clock.now()
            self._live.pop(job.id, None)
        await self._save(job)
        self._ended += 1
        self._tell()

    def _tell(self) -> None:
        """An event now, or in a moment if there was one just now: a download reports a hundred times a second."""
        if self._tell_later is not None:
            return
        loop = asyncio.get_running_loop()
        wait = self._told_at + TELL_SECONDS - loop.time()
        if wait <= 0:
            self._tell_now()
        else:
            self._tell_later = loop.call_later(wait, self._tell_now)

    def _tell_now(self) -> None:
        self._tell_later = None
        self._told_at = asyncio.get_running_loop().time()
        self._bus.publish("jobs", {}, keep=False)

    async def _insert(self, job: Job) -> None:
        async with self._db.transaction() as tx:
            await tx.execute(
                "INSERT INTO jobs (id, kind, subject, params, actor, state, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (job.id, job.kind, job.subject, json.dumps(job.params), job.actor, job.state, job.created_at),
            )
            await tx.execute(
                "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE state IN ('done', 'failed', 'cancelled') "
                "ORDER BY created_at DESC LIMIT -1 OFFSET ?)",
                (KEPT,),
            )

    async def _save(self, job: Job) -> None:
        await self._db.execute(
            "UPDATE jobs SET state = ?, phase = ?, current = ?, total = ?, attempt = ?, code = ?, cause = ?, result = ?, "
            "started_at = ?, ended_at = ? WHERE id = ?",
            (
                *(job.state, job.phase, job.current, job.total, job.attempt, job.code, job.cause[:500]),
                *(json.dumps(job.result), job.started_at, job.ended_at, job.id),
            ),
        )

    async def _read(self, where: str, values: Iterable[Any] = ()) -> list[Job]:
        rows = await self._db.rows(f"SELECT * FROM jobs WHERE {where}", tuple(values))  # noqa: S608 - our own words
        return [self._job(row) for row in rows]

    def _job(self, row: Row) -> Job:
        fields = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a sqlite3.Row iterates over its values
        fields["params"], fields["result"] = json.loads(row["params"]), json.loads(row["result"])
        kind = self._kinds.get(row["kind"])
        return Job(
            **fields,
            pausable=kind is not None and kind.pausable,
            leaves=kind is not None and kind.discard is not None,
        )


def shown(job: Job) -> dict[str, Any]:
    """A job as programs and pages get it; who asked for it and with what stays in the row."""
    return {
        "id": job.id,
        "kind": job.kind,
        "subject": job.subject,
        "state": job.state,
        "phase": job.phase,
        "current": job.current,
        "total": job.total,
        "speed": round(job.speed, 1),
        "left": None if (left := job.left) is None else round(left),
        "attempt": job.attempt,
        "code": job.code,
        "cause": job.cause,
        "result": dict(job.result),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "actions": job.actions,
    }


async def told(database: Database, person: str) -> list[dict[str, Any]]:
    """The jobs a person began. ``person`` is a user id."""
    rows = await database.rows(
        "SELECT kind, subject, state, created_at, ended_at FROM jobs WHERE actor = ? ORDER BY created_at", (person,)
    )
    return [dict(row) for row in rows]


async def forget(tx: Any, person: str) -> None:
    """Drop what a person had done, in the transaction that removes them; what is under way goes on."""
    await tx.execute("DELETE FROM jobs WHERE actor = ? AND state IN ('done', 'failed', 'cancelled')", (person,))
