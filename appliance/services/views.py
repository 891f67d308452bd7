"""From what is known of a service to what people are shown of it.

Rule: pure; a view holds nothing that a viewer may not see, and changes only when what it shows changes.
"""

from __future__ import annotations

from appliance.messages import Message
from appliance.services.history import ENDED
from appliance.services.model import Action, Health, Problem, Progress, ServiceView, State, Want
from appliance.services.reconcile import Record

MEMORY_STEP = 1 << 20  # bytes; finer figures would make every look a change
CPU_STEP = 0.5


def view(
    record: Record,
    problems: list[Problem],
    awake_because: Message | None,
    now: float,
    uptime: float,
) -> ServiceView:
    """``now`` is Unix seconds, ``uptime`` seconds of uptime, both of this moment."""
    desired, history, seen = record.desired, record.history, record.seen
    state = _state(record)
    name = desired.service
    up = state not in ENDED
    retry = history.retry_at if desired.running and not up and not history.parked else 0.0
    return ServiceView(
        name=name,
        state=state,
        since=seen.since if seen else 0.0,
        health=history.health if up else Health.UNKNOWN,
        want=desired.want,
        reason=_reason(record, state, problems, awake_because),
        memory_bytes=_step(seen.memory_bytes, MEMORY_STEP) if seen and up else 0,
        memory_limit=seen.memory_limit if seen else 0,
        cpu_percent=round(record.cpu_percent / CPU_STEP) * CPU_STEP if up else 0.0,
        parked=history.parked or None,
        retry_at=round(now + retry - uptime) if retry > uptime else None,
        safe=history.safe and up,
        updating=desired.fetch_at is not None,
        log_tail=record.tail,
        progress=_progress(record, state),
        actions=_actions(record, state),
    )


def _state(record: Record) -> State:
    if record.seen is None:
        return State.ABSENT
    state = record.seen.state
    if record.progress is not None and state in ENDED:
        return State.STARTING
    if state is State.RUNNING and record.history.healthy_since is None and not record.history.told_to_stop:
        return State.STARTING
    return state


def _reason(record: Record, state: State, problems: list[Problem], awake_because: Message | None) -> Message | None:
    """Why it is as it is, in one sentence; None where there is nothing to say."""
    if problems:
        return problems[0].title
    if state in ENDED and record.desired.want is Want.STOP:
        return Message("service.reason.stopped")
    if state is State.ABSENT and record.desired.service == "ai":
        return Message("service.reason.not_set_up")
    if state in ENDED and record.desired.want is Want.ON_DEMAND:
        return Message("service.reason.asleep")
    return awake_because if state is State.RUNNING else None


def _progress(record: Record, state: State) -> Progress | None:
    if record.progress is not None:
        return record.progress
    return Progress("loading") if state is State.STARTING else None


def _actions(record: Record, state: State) -> tuple[Action, ...]:
    if record.seen is None or (state is State.ABSENT and record.seen.missing == "program"):
        return ()
    if state in ENDED:
        return ("start",)
    if state is State.STOPPING:
        return ()
    # Without the proxy nobody could press Start.
    return ("restart",) if record.desired.service == "proxy" else ("restart", "stop")


def _step(value: int, step: int) -> int:
    return value // step * step
