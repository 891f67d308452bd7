"""Work on LocalAI itself: fetching models into it and taking them out, in the Docker runtime.

Rule: the engine has a way out of its container only between the begin and the end of :meth:`Workshop.open` with ``fetching``. Were
the daemon to die meanwhile, the broker closes it when the time it was asked for is over (NET-3).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from appliance.assistant.local_engine import Place, Service
from appliance.errors import CroftError

log = logging.getLogger(__name__)

LEASE_SECONDS = 300
RENEW_SECONDS = 100.0
# What the daemon asks LocalAI for in here, by method and the beginning of the path.
ALLOWED = (("POST", "/models/apply"), ("GET", "/models/jobs/"), ("POST", "/models/delete/"), ("GET", "/v1/models"))


class Workshop:
    """``let_out`` asks the broker for a way out, for so many seconds; 0 closes it."""

    def __init__(
        self, service: Service, place: Callable[[], Awaitable[Place]], let_out: Callable[[int], Awaitable[None]]
    ) -> None:
        self._service, self._place, self._let_out = service, place, let_out

    @asynccontextmanager
    async def open(self, *, fetching: bool, wait: float = 900.0) -> AsyncIterator[Place]:
        """Have the engine run, chosen model or not, and not be stopped meanwhile. Raises Unavailable."""
        self._service.opened()
        try:
            await self._service.ready(wait)
            async with self._out() if fetching else contextlib.nullcontext():
                yield await self._place()
        finally:
            self._service.closed()

    @asynccontextmanager
    async def _out(self) -> AsyncIterator[None]:
        await self._let_out(LEASE_SECONDS)
        renewing = asyncio.create_task(self._renew(), name="engine egress")
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            try:
                await self._let_out(0)
            except CroftError as error:
                log.warning("the engine's way out closes by itself soon", extra={"cause": error.message})

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._let_out(LEASE_SECONDS)
            except CroftError as error:
                log.warning("cannot keep the engine's way out open", extra={"cause": error.message})
