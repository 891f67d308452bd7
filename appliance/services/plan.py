"""What to do next: a pure function of what is seen, wanted and remembered.

Rule: no I/O, no clock, no surprise: the same input gives the same steps, at most one of them per service,
and nothing starts a service that a person stopped or that is parked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from appliance.services.history import ENDED, History, Tuning
from appliance.services.model import (
    SERVICES,
    Desired,
    Missing,
    Observed,
    Park,
    Probe,
    PullImage,
    ServiceName,
    Start,
    State,
    Step,
    Stop,
    Wait,
)

LOOK_AGAIN = 5.0  # seconds until a service that is being stopped is looked at again, events or not

# Without the proxy nobody reaches the button that would unpark it, so it is tried for ever.
NEVER_PARKED: frozenset[ServiceName] = frozenset({"proxy"})
HAS_SAFE_MODE: frozenset[ServiceName] = frozenset({"ide"})
# A model that does not fit will not fit the next time either (R13).
PARKED_WHEN_TOO_BIG: frozenset[ServiceName] = frozenset({"ai"})


def plan(
    observed: Iterable[Observed],
    desired: Mapping[ServiceName, Desired],
    histories: Mapping[ServiceName, History],
    now: float,
    tuning: Tuning,
) -> list[Step]:
    """The next step of each service, in the order of SERVICES; a service with nothing to do has none.

    ``now`` is seconds of uptime. The histories must have learnt from ``observed`` (history.learn).
    """
    seen = {one.service: one for one in observed}
    steps = (
        _next(seen[name], desired[name], histories[name], now, tuning)
        for name in SERVICES
        if name in seen and name in desired and name in histories
    )
    return [step for step in steps if step is not None]


def _next(seen: Observed, desired: Desired, history: History, now: float, tuning: Tuning) -> Step | None:
    if seen.state is State.STOPPING:
        return Wait(seen.service, now + LOOK_AGAIN, "stopping")
    if seen.state not in ENDED:
        if not desired.running or (seen.run_id is not None and seen.run_id == desired.replaced_run):
            return Stop(seen.service, "asked")
        return PullImage(seen.service) if _fetch_due(desired, now) else _watch(seen, history, now, tuning)
    if _fetch_due(desired, now) and seen.missing is not Missing.PROGRAM:
        return PullImage(seen.service)
    if not desired.running or history.rested or history.parked or seen.missing is Missing.PROGRAM:
        return None
    return _begin(seen, history, now, tuning)


def _fetch_due(desired: Desired, now: float) -> bool:
    return desired.fetch_at is not None and now >= desired.fetch_at


def _begin(seen: Observed, history: History, now: float, tuning: Tuning) -> Step:
    name = seen.service
    if history.cause == "out_of_memory" and name in PARKED_WHEN_TOO_BIG:
        return Park(name, "too_big")
    if history.failures >= tuning.gives_up_after and name not in NEVER_PARKED:
        return Park(name, "crash_loop")
    if now < history.retry_at:
        return Wait(name, history.retry_at, "backing_off")
    if seen.missing is Missing.IMAGE:
        return PullImage(name)
    return Start(name, safe=name in HAS_SAFE_MODE and history.failures >= tuning.tries)


def _watch(seen: Observed, history: History, now: float, tuning: Tuning) -> Step:
    name = seen.service
    if history.missed >= tuning.missed_probes:
        return Stop(name, "unhealthy")
    if history.healthy_since is None and now - history.seen_at >= tuning.start_within[name]:
        return Stop(name, "too_slow")
    if seen.outdated and history.healthy_since is not None:
        return Stop(name, "outdated")
    if history.probed_at is None:
        return Probe(name)
    due = history.probed_at + _probe_interval(history, tuning)
    return Probe(name) if now >= due else Wait(name, due, "probing")


def _probe_interval(history: History, tuning: Tuning) -> float:
    if history.healthy_since is None:
        # Eager at first; a model that loads for minutes is asked less and less often.
        asked_for = (history.probed_at or 0.0) - history.seen_at
        return min(max(tuning.probe_starting, asked_for / 10), tuning.probe_missed)
    return tuning.probe_missed if history.missed else tuning.probe_healthy
