"""How far one answer may go by itself: steps, tokens, seconds, and the same thing three times (AI-11).

Rule: time counts while the model works and while it has files looked at; not while a person thinks, nor while a command runs, which
has a limit of its own. What a person may use in a day is for
:mod:`appliance.assistant.quotas`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SAME_PROPOSAL = 3


@dataclass(frozen=True)
class Caps:
    """For one answer: tool calls, tokens the model may write in all and in one ``reply``, seconds of work."""

    steps: int = 12
    reply: int = 2048
    tokens: int = 8192
    seconds: float = 900.0


class CapReached(Exception):
    """The answer ends here; ``which`` is ``steps`` ``tokens`` ``seconds`` or ``loop``."""

    def __init__(self, which: str) -> None:
        super().__init__(which)
        self.which = which


class Meter:
    """What one answer has used of its caps."""

    def __init__(self, caps: Caps, clock: Callable[[], float] = time.monotonic) -> None:
        self._caps, self._clock = caps, clock
        self._calls: Counter[str] = Counter()
        self.steps = 0
        self.tokens = 0
        self._worked = 0.0

    @property
    def seconds_left(self) -> float:
        return self._caps.seconds - self._worked

    @property
    def tokens_left(self) -> int:
        return self._caps.tokens - self.tokens

    def step(self, tool: str, arguments: Mapping[str, Any]) -> int:
        """Count a tool call; its number, from 1. Raises CapReached."""
        self._calls[key := f"{tool} {json.dumps(arguments, sort_keys=True, default=str)}"] += 1
        if self._calls[key] >= SAME_PROPOSAL:
            raise CapReached("loop")
        if self.steps >= self._caps.steps:
            raise CapReached("steps")
        self.steps += 1
        return self.steps

    def check(self) -> None:
        """Raises CapReached when nothing is left for another request."""
        if self.tokens_left <= 0:
            raise CapReached("tokens")
        if self.seconds_left <= 0:
            raise CapReached("seconds")

    @contextmanager
    def working(self) -> Iterator[None]:
        """The time inside counts."""
        begin = self._clock()
        try:
            yield
        finally:
            self._worked += self._clock() - begin
