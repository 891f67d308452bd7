"""Rendering long texts in threads, one at a time of each person.

Why: all of the daemon shares a few threads. Who reads many long conversations at once would hold every one of them, and nobody could
sign in by passkey, read a log or ask for a page that looks at a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

from aiohttp import web

from webui import keys

T = TypeVar("T")


async def rendered(request: web.Request, owner: str, make: Callable[[], T]) -> T:
    """What ``make`` returns, when it is the turn of ``owner``. The turn ends with the thread: who hangs up frees none."""
    turns: WeakValueDictionary[str, asyncio.Lock] = request.app[keys.SHARED].setdefault(
        "renderings", WeakValueDictionary()
    )
    turn = turns.setdefault(owner, asyncio.Lock())
    await turn.acquire()
    making = asyncio.get_running_loop().run_in_executor(None, make)
    making.add_done_callback(lambda _: turn.release())
    return await asyncio.shield(making)
