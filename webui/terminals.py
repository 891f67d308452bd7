"""`/v1` for programs in the editor's terminals, on a socket of its own (appliance.assistant.door).

Rule: an application of its own with those four addresses and nothing else: what the workspace can reach here is what is added here.
It is built with the first connection.
"""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import TYPE_CHECKING

from aiohttp import web

from appliance.assistant.engine import Engine
from appliance.assistant.room import Late
from webui.routes import V1_MAX
from webui.streams import Streams

if TYPE_CHECKING:
    from appliance.assistant.quotas import Quotas

TAG = "workspace"  # everybody's: all members share one workspace and one account
DRAIN_SECONDS = 2.0


class Terminals:
    """What is behind the door v1.sock."""

    def __init__(self, engine: Engine, quotas: Late[Quotas], streams: Streams) -> None:
        self._engine = engine
        self._quotas = quotas
        self._streams = streams
        self._runner = Late("webui.handlers.v1", self._build)

    async def protocol(self) -> asyncio.Protocol:
        """One for a new connection."""
        server = (await self._runner.get()).server
        assert server is not None  # noqa: S101 - for the type checker: it is set up
        return server()

    async def close(self) -> None:
        if self._runner.made is not None:
            await self._runner.made.cleanup()

    async def _build(self, v1: ModuleType) -> web.AppRunner:
        app = web.Application(client_max_size=V1_MAX)
        v1.add_to(app, self._engine, self._quotas, self._streams, v1.Caller(v1.Client(TAG), TAG))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_SECONDS, handler_cancellation=True)
        await runner.setup()
        return runner
