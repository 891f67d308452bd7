"""Waiting for something to become true, with a deadline instead of a sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def poll(
    look: Callable[[], Found], what: str = "what the line above asks for", seconds: float = 15.0, pause: float = 0.05
) -> Found:
    """What ``look`` returns once that is true. Fails naming ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(pause)
    return found


async def until(look: Callable[[], Found], what: str, seconds: float = 15.0) -> Found:
    """The same inside an event loop."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.02)
    return found
