"""From readings every second to rows of ten seconds. Pure: time comes with each reading.

Rule: a row covers time in which we really looked. Sleep, a stalled process and a clock that was set end the row that is
open; what is missing stays missing and a jump of the clock is marked, never smoothed over (R9).
"""

from __future__ import annotations

from msgspec import Struct

from appliance.telemetry.series import Values

STEP = 10.0  # seconds of one row
STALL = 5.0  # seconds between readings after which nothing is known of the time between
JUMP = 2.0  # seconds between the clocks' advances that make a jump; slewing stays far below


class Row(Struct, frozen=True):
    """Means over ten seconds. ``at`` is Unix seconds of its beginning, ``jump`` what the clock was set by before it."""

    at: int
    values: Values
    jump: float | None = None


class Roller:
    """Give it every reading in turn; now and then it gives back a row."""

    def __init__(self) -> None:
        self._sums: Values = {}
        self._counts: dict[str, int] = {}
        self._begun = (0.0, 0.0)  # wall, uptime
        self._last: tuple[float, float] | None = None
        self._jump: float | None = None

    def add(self, now: float, uptime: float, values: Values) -> Row | None:
        """``values`` are of the time since the last reading; ``now`` and ``uptime`` of this moment."""
        if not self._joins(now, uptime):
            self._begin(now, uptime)
            return None
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        wall, up = self._begun
        if uptime - up < STEP - 0.01:  # timers come a hair early
            return None
        row = Row(int(wall), {name: total / self._counts[name] for name, total in self._sums.items()}, self._jump)
        self._begin(now, uptime)
        self._jump = None
        return row

    def _joins(self, now: float, uptime: float) -> bool:
        """Whether this reading continues the last one."""
        last, self._last = self._last, (now, uptime)
        if last is None:
            return False
        wall, up = last
        if abs(moved := (now - wall) - (uptime - up)) > JUMP:
            self._jump = (self._jump or 0.0) + moved
            return False
        return 0 <= uptime - up <= STALL

    def _begin(self, now: float, uptime: float) -> None:
        self._begun = (now, uptime)
        self._sums, self._counts = {}, {}
