"""Handlers by name: a page of `webui/handlers/` is imported when somebody first asks for one of its addresses.

Rule: the route table names every handler, and a test looks each one up; what nobody visits costs an idle daemon nothing (F1, F2).
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Awaitable, Callable
from types import ModuleType

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def imported(name: str) -> ModuleType:
    """The module of that name; who asks first waits for its import in a thread, everybody else does not."""
    module = sys.modules.get(name)
    if module is None or module.__spec__ is None or getattr(module.__spec__, "_initializing", False):
        module = await asyncio.to_thread(importlib.import_module, name)
    return module


class Area:
    """Stands for ``webui.handlers.NAME`` in the route table; its attributes are the handlers."""

    def __init__(self, name: str) -> None:
        self._module = f"webui.handlers.{name}"

    def __getattr__(self, name: str) -> Handler:
        where = self._module

        async def handler(request: web.Request) -> web.StreamResponse:
            answer: web.StreamResponse = await getattr(await imported(where), name)(request)
            return answer

        handler.__name__, handler.__qualname__, handler.__module__ = name, name, where
        return handler

    def load(self) -> ModuleType:
        """The module itself, imported now."""
        return importlib.import_module(self._module)
