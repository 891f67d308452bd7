"""From a decision to the end of the run: announced, started, followed, closed.

Rules: one transaction uses up what allows a run, announces it and writes its row, before anything starts (LOG-2). Every
announced run is closed, by us or by the next daemon; none is started twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec.structs import replace

from appliance.audit import AuditUnavailable
from appliance.commands.history import Outcome, Run, State
from appliance.commands.leases import Leases
from appliance.commands.limits import LimitReached, RateLimits
from appliance.commands.model import Judgement
from appliance.commands.records import Records, decided, ended, said
from appliance.commands.runs import Live, Order, Runs, Work
from appliance.errors import Conflict, CroftError

log = logging.getLogger(__name__)

AGAIN_SECONDS = 5.0


class Starter:
    """The runs this daemon has started or found, by id."""

    def __init__(
        self,
        records: Records,
        limits: RateLimits,
        leases: Leases,
        runs: Runs,
        verbs: Callable[[tuple[str, ...]], Work],
    ) -> None:
        self._records, self._limits, self._leases, self._runs, self._verbs = records, limits, leases, runs, verbs
        self.active: dict[str, Run] = {}
        self._ends: dict[str, asyncio.Future[Run]] = {}
        self._cancelled: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(
        self,
        run: Run,
        judgement: Judgement,
        taken: Mapping[str, Any],
        *,
        expected: Mapping[str, Any] | None = None,
        was: State | None = None,
        also: Callable[[Any], Awaitable[None]] | None = None,
    ) -> Run:
        """One transaction uses up what allows it and announces it; then it starts. Raises CroftError when nothing began.

        Not to be cancelled: what was just being written may stand as running until the next daemon closes it.
        """
        work = self._verbs(run.stages[0]) if run.scope == "host" else None
        run = replace(run, state=State.RUNNING, started_at=self._records.clock.now(), stages=executed(judgement))
        self._reserve(run)
        started = run

        async def announce(tx: Any) -> Run:
            if also is not None:
                await also(tx)
            intent = await self._records.audit.append(tx, "command.run", started.asker.auditor, **said(started))
            announced = replace(started, intent=intent)
            await self._record_start(tx, announced, was)
            await self._limits.save(tx, taken)
            return announced

        try:
            run = await self._records.write(announce)
        except BaseException:
            self._release(run)
            raise
        self.active[run.id] = run
        try:
            live = await self._launch(run, judgement, expected, work)
        except CroftError as error:
            return await self._close(run, Outcome(cause="not_started", message=f"{error.message}"))
        except BaseException:
            self._aside(self._never_started(run))
            raise
        self._aside(self._see(run, live))
        self._records.tell(run)
        return run

    async def _record_start(self, tx: Any, run: Run, was: State | None) -> None:
        if was is None:
            await self._records.history.add(tx, run)
        elif not await self._records.history.change(tx, run, was):
            raise decided()
        if run.lease and was is None and not await self._leases.use(tx, run.lease):
            raise Conflict("the lease has just run out", hint="Ask for the command again.", code="lease_over")

    async def _launch(
        self, run: Run, judgement: Judgement, expected: Mapping[str, Any] | None, work: Work | None
    ) -> Live:
        if work is not None:
            return self._runs.carry_out(run.id, judgement.limits, work)
        order = Order(run.id, run.stages, run.cwd, judgement.env, judgement.limits, run.view, expected)
        return await self._runs.start(order)

    def _reserve(self, run: Run) -> None:
        """A place among the runs of this rule and asker. Raises LimitReached, or Conflict when it is being started already."""
        if run.id in self.active:
            raise decided()
        rivals = [
            one for one in self.active.values() if one.rule == run.rule and one.asker.account == run.asker.account
        ]
        if len(rivals) >= run.limits.parallel:
            raise LimitReached("rate_parallel", 2.0)
        self.active[run.id] = run
        self._ends[run.id] = asyncio.get_running_loop().create_future()

    def _release(self, run: Run) -> None:
        self.active.pop(run.id, None)
        if end := self._ends.pop(run.id, None):
            end.set_result(run)

    async def _see(self, run: Run, live: Live) -> None:
        await self._close(run, await live.over)

    async def _never_started(self, run: Run) -> None:
        """Whoever asked went away while it was being started: end what there may be.

        A broker that answers nothing reads the order to end it later, or is looked through once it is reached again.
        """
        with contextlib.suppress(CroftError):
            await self._runs.kill(run.id)
        await self._close(run, Outcome(cause="lost"))

    async def _close(self, run: Run, outcome: Outcome) -> Run:
        """Record how it ended. A disk that does not take it is tried again until it does: the row would read as running."""
        state = ended_as(outcome, cancelled=run.id in self._cancelled)
        kept = self._records.history.output(run.id)
        size = kept.stat().st_size if outcome.stdout_bytes + outcome.stderr_bytes and kept.exists() else 0
        closed = replace(run, state=state, outcome=outcome, ended_at=self._records.clock.now(), kept=size)
        self.active[run.id] = closed

        async def record(tx: Any) -> None:
            await self._records.history.change(tx, closed, State.RUNNING)
            await self._records.audit.append(tx, "outcome", run.asker.auditor, run.intent, **ended(closed))

        while True:
            try:
                await self._records.write(record)
                break
            except AuditUnavailable as error:
                log.error("cannot record how a run ended; it is tried again", exc_info=error)
                await asyncio.sleep(AGAIN_SECONDS)
        self._cancelled.discard(run.id)
        self._release(closed)
        self._records.tell(closed)
        return closed

    async def recover(self, alive: set[str], ended: Mapping[str, Mapping[str, Any]]) -> None:
        """What an earlier daemon left running: seen to its end, or closed as interrupted. Nothing runs again (R1)."""
        for run in await self._records.history.in_state(State.RUNNING):
            if run.id in self.active:
                continue
            self.active[run.id], self._ends[run.id] = run, asyncio.get_running_loop().create_future()
            if run.id in alive or run.id in ended:
                live = self._runs.adopt(run.id)
                if run.id in ended:
                    live.exited(ended[run.id])
                self._aside(self._see(run, live))
            else:
                self._aside(self._interrupted(run))

    async def _interrupted(self, run: Run) -> None:
        await self._close(run, Outcome(cause="lost", output_lost=True))

    async def cancel(self, run: Run) -> None:
        """End everything of a run. Raises CroftError."""
        self._cancelled.add(run.id)
        await self._runs.kill(run.id)

    async def wait(self, run_id: str, seconds: float) -> Run | None:
        """The run once it is over, or as it stands after ``seconds``; None when it is not under way."""
        end = self._ends.get(run_id)
        if end is None:
            return None
        await asyncio.wait({end}, timeout=seconds)
        return end.result() if end.done() else self.active[run_id]

    def stop(self) -> None:
        """Follow the runs no longer; the next daemon does."""
        for task in self._tasks:
            task.cancel()

    def _aside(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("following a run failed", exc_info=error)


def ended_as(outcome: Outcome, *, cancelled: bool) -> State:
    """The state that a run ends in."""
    if outcome.cause == "not_started":
        return State.FAILED
    if cancelled and outcome.cause == "killed":
        return State.CANCELLED
    if outcome.cause in ("timeout", "oom", "killed"):
        return State.KILLED
    if outcome.cause in ("lost", "stopped") or (outcome.exit_code is None and outcome.signal is None):
        return State.INTERRUPTED
    return State.DONE if outcome.exit_code == 0 else State.FAILED


def executed(judgement: Judgement) -> tuple[tuple[str, ...], ...]:
    return tuple(stage.argv for stage in judgement.stages)
