"""The one runner that makes the services be as wanted: observe, plan, apply, and again.

Invariants:

1. There is one runner, at most one step per service is under way, and nobody else begins steps.
2. No step is planned from a look at a service that began before the service's last step had ended.
3. Nothing is decided here; deciding is pure (history.py, plan.py).
4. A runtime that does not answer says nothing about the services: no failure is counted and no step begun.
5. The services outlive the runner: ending it stops none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from appliance.broker.shares import NoRoom
from appliance.clock import Clock
from appliance.services import history as memory
from appliance.services.health import Answer, Probe
from appliance.services.history import ENDED, History, Tuning
from appliance.services.model import (
    Desired,
    Observed,
    Park,
    Progress,
    PullImage,
    ServiceName,
    Start,
    Step,
    Stop,
    Wait,
    Want,
)
from appliance.services.model import Probe as ProbeStep
from appliance.services.plan import plan
from appliance.services.runtime import Runtime, RuntimeGone, StartFailed

log = logging.getLogger(__name__)

TAIL_LINES = 50  # of the log, kept with a failure (R3)
LOOK_ANYWAY = 60.0  # seconds; should an event ever get lost
LOOK_WATCHED = 5.0  # while somebody looks at the figures
OBSERVE_WITHIN = 15.0
HOLD = 5.0  # after a step that failed without being the service's fault
IN_VAIN = 1.0  # after a stop that stopped nothing
GONE_LONGEST = 30.0
DRAIN = 8.0


class Record(Struct):
    """All that is known of one service. Only the Reconciler writes it."""

    desired: Desired
    history: History = field(default_factory=History)
    seen: Observed | None = None
    progress: Progress | None = None
    answer: Answer | None = None
    tail: tuple[str, ...] = ()
    cpu_percent: float = 0.0
    looked_at: float = 0.0
    fetches: int = 0  # of an update that failed so far
    fetch_failure: str = ""

    @property
    def ready(self) -> bool:
        """Running, and its last probe passed."""
        return (
            self.seen is not None
            and self.seen.state not in ENDED
            and not self.history.over
            and self.history.healthy_since is not None
            and not self.history.missed
        )


class Reconciler:
    """Runs until cancelled. Every public method but run() and drain() returns at once."""

    def __init__(
        self,
        runtime: Runtime,
        probes: Mapping[ServiceName, Probe],
        model_mb: Callable[[], int | None],
        clock: Clock,
        desired: Mapping[ServiceName, Desired],
        *,
        jitter: Callable[[], float],
        changed: Callable[[], None],
        watched: Callable[[], bool],
        tuning: Tuning | None = None,
    ) -> None:
        """``model_mb``: what the model in use needs (see Runtime.share). ``jitter`` gives numbers in [0, 1). ``changed`` is called after
        anything may have changed. ``watched`` says whether somebody wants fresh figures."""
        self._runtime = runtime
        self._probes = probes
        self._model_mb = model_mb
        self._shared: tuple[object, ...] = ()  # what the machine was last shared out for
        self._clock = clock
        self._tuning = tuning or Tuning()
        self._jitter = jitter
        self._changed = changed
        self._watched = watched
        self.records: dict[ServiceName, Record] = {name: Record(one) for name, one in desired.items()}
        self.gone: str = ""  # problem code while the runtime does not answer
        self._gone_tries = 0
        self._steps: dict[ServiceName, tuple[Step, asyncio.Task[None]]] = {}
        self._held: dict[ServiceName, float] = {}
        self._stopped: dict[ServiceName, str] = {}  # runs that the runtime says it has ended
        self._asides: set[asyncio.Task[None]] = set()
        self._stirred = asyncio.Event()

    # What is wanted

    def want(self, service: ServiceName, want: Want, *, awake: bool = False) -> None:
        """A person's word: past failures are forgiven."""
        record = self.records[service]
        record.desired = replace(
            record.desired, want=want, awake=awake, generation=record.desired.generation + 1, fetch_at=None
        )
        self._held.pop(service, None)
        self.nudge()

    def wake(self, service: ServiceName) -> None:
        """Somebody needs an on-demand service. Does nothing to one that was stopped or is parked."""
        record = self.records[service]
        if not record.desired.awake or record.history.rested:
            record.desired = replace(record.desired, awake=True)
            record.history = memory.woken(record.history)
            self.nudge()

    def rest(self, service: ServiceName) -> None:
        """Nobody needs it any more."""
        record = self.records[service]
        if record.desired.awake:
            record.desired = replace(record.desired, awake=False)
            self.nudge()

    def restart(self, service: ServiceName, want: Want) -> None:
        """End the run that is on now, if there is one, and begin another; past failures are forgiven."""
        seen = self.records[service].seen
        self.want(service, want, awake=True)
        record = self.records[service]
        record.desired = replace(record.desired, replaced_run=seen.run_id if seen else None)

    def fetch(self, service: ServiceName) -> None:
        """Fetch its image while it runs on; then replace its run. What fails is tried again, a few times."""
        record = self.records[service]
        record.fetches, record.fetch_failure = 0, ""
        record.desired = replace(record.desired, fetch_at=self._clock.uptime())
        self.nudge()

    def nudge(self) -> None:
        """Look again now."""
        self._stirred.set()

    # The loop

    async def run(self) -> None:
        """Observe, plan, apply, wait; until cancelled."""
        while True:
            self._stirred.clear()
            deadline = await self._round()
            self._changed()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, deadline - self._clock.uptime())):
                    await self._stirred.wait()

    async def drain(self, within: float = DRAIN) -> None:
        """Let starts and stops under way end, for ``within`` seconds at most, and give up the rest (R27)."""
        for step, task in self._steps.values():
            if isinstance(step, PullImage | ProbeStep):
                task.cancel()
        tasks = {task for _step, task in self._steps.values()} | self._asides
        for aside in self._asides:
            aside.cancel()
        if not tasks:
            return
        _done, late = await asyncio.wait(tasks, timeout=within)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _round(self) -> float:
        """One look and what follows from it; returns when to look again (seconds of uptime)."""
        self._drop_needless_pulls()
        busy = frozenset(self._steps)
        try:
            async with asyncio.timeout(OBSERVE_WITHIN):
                rows = await self._runtime.observe()
                await self._share_out(rows)
        except (RuntimeGone, TimeoutError) as error:
            return self._lost(error)
        self._found()
        now = self._clock.uptime()
        for seen in rows:
            self._take_in(seen, now)
        return self._apply([seen for seen in rows if seen.service not in busy], now)

    async def _share_out(self, rows: Iterable[Observed]) -> None:
        """Have the limits follow whenever other services run than before, or for another model. What was refused may have room now."""
        model_mb = self._model_mb()
        now = (model_mb, *(seen.run_id for seen in rows if seen.state not in ENDED))
        if now != self._shared:
            await self._runtime.share(model_mb)
            self._shared = now
            for record in self.records.values():
                record.history = replace(record.history, refused=False)

    def _apply(self, rows: list[Observed], now: float) -> float:
        desired = {name: record.desired for name, record in self.records.items()}
        histories = {name: record.history for name, record in self.records.items()}
        look_again = now + (LOOK_WATCHED if self._watched() else LOOK_ANYWAY)
        for step in plan(rows, desired, histories, now, self._tuning):
            held = self._hold_in_vain(step, now) or self._held.get(step.service, 0.0)
            if isinstance(step, Wait):
                look_again = min(look_again, step.until)
            elif held > now:
                look_again = min(look_again, held)
            elif step.service not in self._steps:
                self._begin(step)
        return look_again

    def _hold_in_vain(self, step: Step, now: float) -> float:
        """Until when not to stop again what the runtime has just stopped and still shows; 0 where it is not that."""
        stopped, seen = self._stopped.pop(step.service, None), self.records[step.service].seen
        if not isinstance(step, Stop) or seen is None or stopped is None or stopped != seen.run_id:
            return 0.0
        log.warning("a service goes on after it was stopped", extra={"service": step.service})
        self._held[step.service] = now + IN_VAIN
        return now + IN_VAIN

    def _take_in(self, seen: Observed, now: float) -> None:
        record = self.records[seen.service]
        before = record.seen
        if before is None and seen.state not in ENDED and record.desired.want is Want.ON_DEMAND:
            record.desired = replace(record.desired, awake=True)  # adopted: it was in use before we came
        failures = record.history.failures
        record.history = memory.learn(record.history, seen, record.desired, now, self._jitter(), self._tuning)
        record.cpu_percent = _cpu_percent(before, seen, now - record.looked_at)
        record.seen, record.looked_at = seen, now
        if record.history.failures > failures:
            self._note_failure(seen.service, seen.detail or f"exit code {seen.exit_code}, signal {seen.signal}")
        if record.ready and not record.history.failures:
            record.tail = ()

    def _lost(self, error: Exception) -> float:
        if not self.gone:
            log.warning("runtime does not answer", extra={"cause": str(error) or "time limit"})
        self.gone = error.code if isinstance(error, RuntimeGone) else RuntimeGone.code
        self._gone_tries += 1
        delay: float = min(GONE_LONGEST, 0.5 * 2 ** min(self._gone_tries, 10)) * (1 - 0.2 * self._jitter())
        return self._clock.uptime() + delay

    def _found(self) -> None:
        if self.gone:
            log.info("runtime answers again")
        self.gone, self._gone_tries = "", 0

    # Steps

    def _begin(self, step: Step) -> None:
        """Begin applying one step; its end stirs the loop."""
        task = asyncio.create_task(self._execute(step), name=f"{type(step).__name__} {step.service}")
        self._steps[step.service] = (step, task)
        task.add_done_callback(lambda task: self._ended(step, task))

    def _ended(self, step: Step, task: asyncio.Task[None]) -> None:
        del self._steps[step.service]
        self.records[step.service].progress = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a step failed", exc_info=error, extra={"step": task.get_name()})
            self._held[step.service] = self._clock.uptime() + HOLD
        self._changed()
        self.nudge()

    async def _execute(self, step: Step) -> None:
        record = self.records[step.service]
        try:
            match step:
                case Start():
                    await self._start(record, step)
                case Stop():
                    await self._stop(record, step)
                case PullImage():
                    await self._pull(record, step.service)
                case ProbeStep():
                    await self._probe(record, step.service)
                case Park():
                    log.error("service parked", extra={"service": step.service, "reason": step.reason})
                    record.history = replace(record.history, parked=step.reason)
                case Wait():
                    raise AssertionError("waiting is the loop's work")
        except RuntimeGone as error:
            log.warning("cannot apply a step", extra={"service": step.service, "cause": error.message})
            self._held[step.service] = self._clock.uptime() + HOLD
        except NoRoom as error:
            log.warning("no room to start", extra={"service": step.service, "cause": error.message})
            record.history = memory.refused(record.history)
        except StartFailed as error:
            self._failed(record, step.service, error.problem or "start_failed", error.message)

    async def _start(self, record: Record, step: Start) -> None:
        log.info("starting", extra={"service": step.service, "safe": step.safe})
        record.history = memory.began(record.history, safe=step.safe)
        self._report(record, Progress("starting"))
        await self._runtime.start(step.service, self._model_mb(), safe=step.safe)

    async def _stop(self, record: Record, step: Stop) -> None:
        log.info("stopping", extra={"service": step.service, "why": step.why})
        record.history = memory.stopping(record.history)
        if step.why in ("unhealthy", "too_slow"):
            self._failed(record, step.service, step.why, record.answer.why if record.answer else "")
        await self._runtime.stop(step.service, step.grace)
        if record.seen is not None and record.seen.run_id is not None:
            self._stopped[step.service] = record.seen.run_id

    async def _pull(self, record: Record, service: ServiceName) -> None:
        update = record.desired.fetch_at is not None
        try:
            await self._runtime.pull(service, lambda progress: self._report(record, progress))
        except StartFailed as error:
            if not update:
                raise
            self._fetch_failed(record, service, error.message)
            return
        if update and record.desired.fetch_at is not None:  # and nobody has thought better of it
            log.info("updated", extra={"service": service})
            run = record.seen.run_id if record.seen and record.desired.running else None
            record.fetch_failure = ""
            record.desired = replace(record.desired, fetch_at=None, replaced_run=run)

    def _fetch_failed(self, record: Record, service: ServiceName, cause: str) -> None:
        """The image in use is untouched (R6)."""
        log.warning("cannot fetch an update", extra={"service": service, "cause": cause})
        record.fetches, record.fetch_failure = record.fetches + 1, cause
        delay = self._tuning.delay(record.fetches, self._jitter(), worked=False)
        again = self._clock.uptime() + delay if record.fetches < self._tuning.tries else None
        record.desired = replace(record.desired, fetch_at=again)

    async def _probe(self, record: Record, service: ServiceName) -> None:
        run_id = record.history.run_id
        probe = self._probes.get(service)
        answer = await probe() if probe else Answer(True)
        if not answer.healthy and record.history.healthy_since is not None:
            log.warning("probe missed", extra={"service": service, "cause": answer.why})
        record.answer = answer
        record.history = memory.probed(record.history, run_id, answer.healthy, self._clock.uptime())

    def _failed(self, record: Record, service: ServiceName, cause: str, detail: str) -> None:
        now = self._clock.uptime()
        record.history = memory.failed(record.history, cause, now, self._jitter(), self._tuning)
        self._note_failure(service, detail)

    def _report(self, record: Record, progress: Progress) -> None:
        record.progress = progress
        self._changed()

    def _note_failure(self, service: ServiceName, detail: str) -> None:
        history = self.records[service].history
        log.warning(
            "service failed",
            extra={"service": service, "cause": history.cause, "failures": history.failures, "detail": detail},
        )
        self._aside(self._keep_tail(service))

    async def _keep_tail(self, service: ServiceName) -> None:
        try:
            lines = await self._runtime.logs(service, TAIL_LINES)
        except RuntimeGone:
            return  # the failure is still shown, without its last words
        self.records[service].tail = tuple(line.text for line in lines)
        self._changed()

    def _aside(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    def _drop_needless_pulls(self) -> None:
        for service, (step, task) in self._steps.items():
            desired = self.records[service].desired
            if isinstance(step, PullImage) and not desired.running and desired.fetch_at is None:
                task.cancel()


def _cpu_percent(before: Observed | None, seen: Observed, elapsed: float) -> float:
    """Percent of one processor since the last look; 0 where two looks at the same run are not at hand."""
    if before is None or before.run_id != seen.run_id or elapsed <= 0:
        return 0.0
    return max(0.0, (seen.cpu_usec - before.cpu_usec) / 1e6 / elapsed * 100)
