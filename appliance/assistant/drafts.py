"""Answers while they stream: what has come is on disk within a second, however many tokens a second come.

Rule: one synced write a second at most for each answer (a commit costs a disk flush, a token must not); after a crash all but the
last second is there.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from appliance.errors import CroftError

log = logging.getLogger(__name__)

SECONDS = 1.0
Steps = Sequence[Mapping[str, Any]]


class Draft:
    """One answer under way. ``save`` writes all of its text, and the steps that were taken for it."""

    def __init__(self, save: Callable[[str, Steps], Awaitable[None]], seconds: float = SECONDS) -> None:
        self._save = save
        self._seconds = seconds
        self._text: str = ""
        self._steps: Steps = ()
        self._unsaved = False
        self._task: asyncio.Task[None] | None = None

    def put(self, text: str, steps: Steps = ()) -> None:
        """Take what there is so far; returns at once. ``steps`` is looked at when it is saved."""
        self._text, self._steps, self._unsaved = text, steps, True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write(), name="draft of an answer")

    async def close(self) -> None:
        """Write nothing more; a write under way is let finish."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _write(self) -> None:
        while self._unsaved:
            await asyncio.sleep(self._seconds)
            self._unsaved = False
            try:
                await self._save(self._text, self._steps)
            except (CroftError, sqlite3.Error, OSError) as error:
                # It is still here: the end of the answer, or the next second, tries again.
                log.warning("cannot save an answer under way", exc_info=error)
                return
