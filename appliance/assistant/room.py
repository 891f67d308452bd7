"""The assistant's parts, each built when it is first asked for, its imports off the event loop.

Rule: importing this module brings in nothing heavy, and an appliance whose assistant nobody uses carries none of it (F1). A part
is built once; whoever asks meanwhile waits for the same one.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
# Seconds a thread may hold the interpreter while another waits; the second is Python's own.
GIVING_WAY, AS_EVER = 0.0005, 0.005


class Late(Generic[T]):
    """A part that is not there before :meth:`get`. ``module`` is imported in a thread, then ``build`` is called with it."""

    def __init__(self, module: str, build: Callable[[ModuleType], Awaitable[T]]) -> None:
        self._module = module
        self._build = build
        self._turn = asyncio.Lock()
        self._made: T | None = None

    @property
    def made(self) -> T | None:
        """The part, if somebody has asked for it."""
        return self._made

    async def get(self) -> T:
        """The part; raises what building raised, and the next one who asks tries again."""
        if self._made is None:
            async with self._turn:
                if self._made is None:
                    with _giving_way():
                        self._made = await self._build(await asyncio.to_thread(importlib.import_module, self._module))
        return self._made


@contextmanager
def _giving_way() -> Iterator[None]:
    """Have threads that import leave the event loop its turns: they give way after half a millisecond and not after five, and the
    collector does not stop everybody for 30 ms to look through what is never garbage (as in appliance.lean), now or later."""
    gc.disable()
    sys.setswitchinterval(GIVING_WAY)
    try:
        yield
    finally:
        sys.setswitchinterval(AS_EVER)
        gc.freeze()
        gc.enable()


Part = Late[Any]
