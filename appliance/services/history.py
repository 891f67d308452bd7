"""What is remembered of one service between two looks at it: failures, probes, and when to try again.

Rule: pure. Every failure is counted once, a stop that was asked for is never one, and a wait never shrinks
while failures go on.

Figures: 10 s and 5 tries as in Home Assistant's watchdog; then doubling up to 30 minutes.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from appliance.services.model import Desired, Health, Observed, ServiceName, State, Want

ENDED = frozenset({State.ABSENT, State.STOPPED, State.FAILED})


class Tuning(Struct, frozen=True):
    """Every figure of supervision, in seconds unless said otherwise."""

    quick_retry: float = 1.0  # the first restart of something that had been working
    retry: float = 10.0
    tries: int = 5  # restarts at that pace
    longest_retry: float = 1800.0
    gives_up_after: int = 13  # failures: the first one that waits for the longest time is the last
    settled: float = 300.0  # healthy for so long, failures are forgotten
    missed_probes: int = 2  # misses in a row that mean "hung"
    probe_starting: float = 0.25
    probe_missed: float = 5.0
    probe_healthy: float = 30.0
    start_within: Mapping[ServiceName, float] = field(default_factory=lambda: {"proxy": 30.0, "ide": 90.0, "ai": 900.0})

    def delay(self, failures: int, jitter: float, *, worked: bool) -> float:
        """Seconds to wait after the n-th failure in a row; ``jitter`` in [0, 1) takes off up to a fifth."""
        if failures <= 1 and worked:
            return self.quick_retry
        if failures <= self.tries:
            return self.retry
        doubled = self.retry * 2.0 ** min(failures - self.tries, 32)
        return max(self.retry, min(self.longest_retry, doubled) * (1 - 0.2 * jitter))


class History(Struct, frozen=True):
    """The memory. Times are seconds of uptime."""

    generation: int = 0
    run_id: str | None = None
    seen_at: float = 0.0  # when this run was first seen
    begun: bool = False  # we started something that has not been seen yet
    over: bool = True  # the end of this run has been taken note of
    told_to_stop: bool = False
    rested: bool = False  # ended by itself, as it should when nobody uses it
    healthy_since: float | None = None
    probed_at: float | None = None
    missed: int = 0
    failures: int = 0
    cause: str = ""
    retry_at: float = 0.0
    parked: str = ""
    safe: bool = False
    refused: bool = False  # there was no room for it; whoever asks next tries again

    @property
    def health(self) -> Health:
        if self.missed:
            return Health.UNHEALTHY
        return Health.UNKNOWN if self.healthy_since is None else Health.HEALTHY


def learn(history: History, seen: Observed, desired: Desired, now: float, jitter: float, tuning: Tuning) -> History:
    """Take in one look at the service."""
    if desired.generation != history.generation:
        history = _forgive(history, desired.generation)
    if seen.run_id is not None and seen.run_id != history.run_id:
        history = _new_run(history, seen, now)
    if seen.state in ENDED and not history.over:
        return _ended(replace(history, over=True), seen, desired, now, jitter, tuning)
    since = history.healthy_since
    if since is not None and now - since >= tuning.settled and history.failures and not history.safe:
        # In safe mode they are kept: the next start would bring back what made the IDE fail.
        return replace(history, failures=0, cause="", retry_at=0.0)
    return history


def began(history: History, *, safe: bool) -> History:
    """We have told the runtime to start it."""
    return replace(history, begun=True, told_to_stop=False, rested=False, safe=safe, refused=False)


def refused(history: History) -> History:
    """It was not started because others hold what it needs. That is no failure of its own: it rests until somebody asks again."""
    return replace(history, begun=False, rested=True, refused=True)


def stopping(history: History) -> History:
    """We are about to tell the runtime to stop it."""
    return replace(history, told_to_stop=True)


def woken(history: History) -> History:
    """Somebody wants it again; failures stay counted, or reloading a page would be a way round the backoff."""
    return replace(history, rested=False, refused=False)


def failed(history: History, cause: str, now: float, jitter: float, tuning: Tuning) -> History:
    """Count one failure and set when to try again. ``cause`` is a problem code."""
    failures = history.failures + 1
    delay = tuning.delay(failures, jitter, worked=history.healthy_since is not None)
    return replace(
        history, failures=failures, cause=cause, retry_at=now + delay, healthy_since=None, missed=0, begun=False
    )


def probed(history: History, run_id: str | None, healthy: bool, now: float) -> History:
    """Take in the answer of a probe of ``run_id``; one that comes too late for its run is ignored."""
    if run_id != history.run_id or history.over:
        return history
    if healthy:
        since = now if history.healthy_since is None else history.healthy_since
        return replace(history, probed_at=now, healthy_since=since, missed=0)
    # Until the first answer it is still starting, which has a time limit of its own.
    missed = history.missed + 1 if history.healthy_since is not None else 0
    return replace(history, probed_at=now, missed=missed)


def _forgive(history: History, generation: int) -> History:
    return replace(
        history, generation=generation, failures=0, cause="", retry_at=0.0, parked="", rested=False, refused=False
    )


def _new_run(history: History, seen: Observed, now: float) -> History:
    # What had already ended when we first looked, and was not our start, is nobody's failure.
    over = seen.state in ENDED and not history.begun
    return replace(
        history, run_id=seen.run_id, seen_at=now, begun=False, over=over, healthy_since=None, probed_at=None, missed=0
    )


def _ended(history: History, seen: Observed, desired: Desired, now: float, jitter: float, tuning: Tuning) -> History:
    if history.told_to_stop or not desired.running:
        return replace(history, healthy_since=None, missed=0)
    if desired.want is Want.ON_DEMAND and seen.exit_code == 0 and not seen.signal:
        return replace(history, healthy_since=None, missed=0, rested=True)
    return failed(history, "out_of_memory" if seen.oom_killed else "exited", now, jitter, tuning)
