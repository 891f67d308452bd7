"""Is the IDE, or the engine, idle? Nobody connected for a while, nothing running, nothing in front in a terminal.

Rule: pure, and in doubt it is not idle: stopping the IDE under somebody's work is worse than some memory.
"""

from __future__ import annotations

from msgspec import Struct

from appliance.messages import Message

LOOK_AGAIN = 60.0  # seconds; for reasons that end without telling us


class Use(Struct, frozen=True):
    """How a service is being used. ``last_used`` is seconds of uptime; ``terminals`` counts those with a
    program in front, None if that is not known."""

    sockets: int
    last_used: float
    active_runs: int = 0
    terminals: int | None = 0


class Verdict(Struct, frozen=True):
    """``because`` says what keeps it awake; ``look_again`` is seconds of uptime, None if an event will
    tell."""

    idle: bool
    because: Message | None = None
    look_again: float | None = None


def judge(use: Use, now: float, idle_minutes: int, words: str = "ide.awake") -> Verdict:
    """Decide (DECIDED 14). ``idle_minutes`` 0 means never idle; ``words`` is where the catalogue has the reasons."""
    if idle_minutes == 0:
        return Verdict(False, Message(f"{words}.always"))
    if use.sockets:
        return Verdict(False, Message(f"{words}.window", {"n": use.sockets}))
    ends = use.last_used + idle_minutes * 60
    if now < ends:
        return Verdict(False, Message(f"{words}.recent", {"n": idle_minutes}), ends)
    if use.active_runs:
        return Verdict(False, Message("ide.awake.run", {"n": use.active_runs}), now + LOOK_AGAIN)
    if use.terminals is None:
        return Verdict(False, Message("ide.awake.unknown"), now + LOOK_AGAIN)
    if use.terminals:
        return Verdict(False, Message("ide.awake.terminal", {"n": use.terminals}), now + LOOK_AGAIN)
    return Verdict(True)
