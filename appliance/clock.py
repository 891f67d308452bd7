"""Time as a thing that is passed in, so that tests turn the hands and a jump of the wall clock cannot extend anything."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Wall clock, seconds since the epoch."""

    def uptime(self) -> float:
        """Seconds since boot, counting suspend; never goes back (CLOCK_BOOTTIME)."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        return time.time()

    def uptime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class ManualClock:
    """A clock that tests set. Both hands move together unless one is moved alone."""

    def __init__(self, now: float = 1_800_000_000.0, uptime: float = 1000.0) -> None:
        self.wall = now
        self.boot = uptime

    def now(self) -> float:
        return self.wall

    def uptime(self) -> float:
        return self.boot

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds
