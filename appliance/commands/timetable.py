"""When something runs by itself: every few hours, daily or weekly, all in UTC.

Rule: pure. What was missed while the machine was off runs once at most, and never piles up (R9).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from appliance.errors import Invalid
from appliance.messages import Message

HOURS_MOST = 168
_HOUR, _DAY = 3600.0, 86_400.0
_EVERY = re.compile(r"every ([0-9]{1,3})h")
_DAILY = re.compile(r"daily ([01][0-9]|2[0-3]):([0-5][0-9])")
_WEEKLY = re.compile(r"weekly ([1-7]) ([01][0-9]|2[0-3]):([0-5][0-9])")


class Timetable(Struct, frozen=True):
    """``text`` is how it is kept: ``every 6h``, ``daily 03:30``, ``weekly 1 03:30`` (1 is Monday, as in ISO 8601)."""

    text: str
    hours: int = 0
    weekday: int = 0
    hour: int = 0
    minute: int = 0

    @property
    def period(self) -> float:
        """Seconds between two runs."""
        return self.hours * _HOUR if self.hours else 7 * _DAY if self.weekday else _DAY

    def after(self, now: float) -> float:
        """The first moment after ``now`` (Unix seconds)."""
        if self.hours:
            return now + self.period
        here = datetime.fromtimestamp(now, UTC)
        at = here.replace(hour=self.hour, minute=self.minute, second=0, microsecond=0)
        if self.weekday:
            at += timedelta(days=self.weekday - at.isoweekday())
        while at <= here:
            at += timedelta(seconds=self.period)
        return at.timestamp()

    @property
    def words(self) -> Message:
        """It in words."""
        clock = f"{self.hour:02}:{self.minute:02}"
        if self.hours:
            return Message("timetable.every", {"n": self.hours})
        if self.weekday:
            return Message(f"timetable.weekly.{self.weekday}", {"clock": clock})
        return Message("timetable.daily", {"clock": clock})


def parse(text: str) -> Timetable | None:
    """The timetable that ``text`` says; None for "". Raises Invalid."""
    if not text:
        return None
    if (found := _EVERY.fullmatch(text)) and 1 <= int(found[1]) <= HOURS_MOST:
        return Timetable(text, hours=int(found[1]))
    if found := _DAILY.fullmatch(text):
        return Timetable(text, hour=int(found[1]), minute=int(found[2]))
    if found := _WEEKLY.fullmatch(text):
        return Timetable(text, weekday=int(found[1]), hour=int(found[2]), minute=int(found[3]))
    raise Invalid(
        "there is no such timetable",
        hint=f"Write every 6h (at most {HOURS_MOST}h), daily 03:30 or weekly 1 03:30 (1 is Monday), in UTC.",
        code="book_schedule",
    )
