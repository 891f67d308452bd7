"""How fast the model in use answers on this machine, measured in twenty seconds.

Rule: only what the engine really wrote counts, from its first word to its last; starting it and reading the question do not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from appliance.assistant.client import Piece, Question, connected
from appliance.assistant.engine import Engine
from appliance.errors import Unavailable

SECONDS = 20.0
MOST_TOKENS = 512
LEAST_TOKENS = 8  # fewer say nothing about speed
ASKED = "Write a short Python program that reads numbers from a file, one in a line, and prints their mean and median. Explain it."


async def measure(engine: Engine, report: Callable[[int, int], None], seconds: float = SECONDS) -> float:
    """Tokens a second. ``report`` is told how many there are. Raises Unavailable."""
    count, began, ended, usage = 0, 0.0, 0.0, None
    loop = asyncio.get_running_loop()
    async with engine.hold("measure") as upstream, connected(upstream) as client:
        question = Question([{"role": "user", "content": ASKED}], MOST_TOKENS, temperature=0.0)
        async with contextlib.aclosing(client.pieces(question)) as pieces:
            async for piece in pieces:
                if _written(piece):
                    ended = loop.time()
                    began = began or ended
                    count += 1
                    report(count, MOST_TOKENS)
                usage = piece.usage or usage
                if began and loop.time() - began > seconds:
                    break
    tokens = usage[1] if usage else count
    if tokens < LEAST_TOKENS or ended <= began:
        raise Unavailable("the model said too little to measure", hint="Try again.", code="too_little")
    # The first token was written when the clock began.
    return (tokens - 1) / (ended - began)


def _written(piece: Piece) -> bool:
    return bool(piece.text or piece.thinking or piece.calls)
