"""Answers while they stream: what has come is on disk within a second, however many tokens a second come.

Rule: one synced write a second at most for each answer (a commit costs a disk flush, a token must not); after a crash all but the
last second is there.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable

from appliance.errors import CroftError

log = logging.getLogger(__name__)

SECONDS = 1.0


class Draft:
    """One answer under way. ``save`` writes the whole text."""

    def __init__(self, save: Callable[[str], Awaitable[None]], seconds: float = SECONDS) -> None:
        self._save = save
        self._seconds = seconds
        self._text = self._saved = ""
        self._task: asyncio.Task[None] | None = None

    def put(self, text: str) -> None:
        """Take the text so far; returns at once."""
        self._text = text
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write(), name="draft of an answer")

    async def close(self) -> None:
        """Write nothing more; a write under way is let finish."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _write(self) -> None:
        while self._text != self._saved:
            await asyncio.sleep(self._seconds)
            text = self._text
            try:
                await self._save(text)
            except (CroftError, sqlite3.Error, OSError) as error:
                # The text is still here: the end of the answer, or the next second, tries again.
                log.warning("cannot save an answer under way", exc_info=error)
                return
            self._saved = text
