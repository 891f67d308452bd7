"""When the figures say that the machine is in trouble. Pure; the words are in the table of known problems.

Rule: an alert comes when a limit has been passed for minutes, and goes when the figure is well below it again, so that it
does not flicker.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct, field

from appliance.telemetry.rollup import STEP, Row

OOM_REMEMBERED = 3600.0  # seconds for which the kernel's ending of a process is told
BACK = 0.8  # of a limit: below it the alert goes


class Alert(Struct, frozen=True):
    """A code of the table of known problems, with its parameters."""

    code: str
    params: Mapping[str, str | int | float] = field(default_factory=dict)


class Rule(Struct, frozen=True):
    """``series`` is at least ``limit`` on average over ``minutes``."""

    code: str
    series: str
    limit: float
    minutes: float


RULES = (
    Rule("memory_pressure", "pressure", 20.0, 2),
    Rule("swap_thrash", "swapping", 4 * 1024.0**2, 2),
    Rule("cpu_stolen", "steal", 20.0, 5),
)
MEMORY_LIMIT, MEMORY_MINUTES = 93.0, 5.0  # percent in use; where the kernel knows no pressure, this is all we have
WINDOW = int(max(MEMORY_MINUTES, *(rule.minutes for rule in RULES)) * 60 / STEP)


def alerts(
    rows: Sequence[Row], memory_total: float, before: Collection[str], oom_kills: Sequence[float], uptime: float
) -> list[Alert]:
    """What is wrong now. ``rows``: the newest last; ``before``: codes that were on; ``oom_kills``: uptimes of the last."""
    found = []
    for rule in RULES:
        mean = _mean(rows, rule.series, rule.minutes)
        if mean is not None and mean >= rule.limit * (BACK if rule.code in before else 1):
            found.append(Alert(rule.code, {"percent": round(mean)} if rule.limit < 100 else {}))
    used = _mean(rows, "memory", MEMORY_MINUTES)
    if used is not None and memory_total > 0 and not any(alert.code == "memory_pressure" for alert in found):
        percent = 100 * used / memory_total
        if percent >= (90.0 if "memory_low" in before else MEMORY_LIMIT):
            found.append(Alert("memory_low", {"percent": round(percent)}))
    recent = sum(1 for at in oom_kills if uptime - at < OOM_REMEMBERED)
    if recent:
        found.append(Alert("oom_kills", {"n": recent}))
    return found


def _mean(rows: Sequence[Row], series: str, minutes: float) -> float | None:
    """The mean over the last ``minutes``; None unless they are known nearly whole."""
    wanted = int(minutes * 60 / STEP)
    values = [row.values[series] for row in rows[-wanted:] if series in row.values]
    return math.fsum(values) / len(values) if len(values) >= wanted * 0.9 else None
