"""Watching how services on demand are used, and putting them to sleep when they are not.

Rule: it decides nothing (idle.py does) and looks only when something has changed or a time has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from appliance.clock import Clock
from appliance.errors import Unavailable
from appliance.messages import Message
from appliance.services import idle
from appliance.services.model import ServiceName

log = logging.getLogger(__name__)


class _Used(Struct):
    last: float  # seconds of uptime
    sockets: int = 0
    because: Message | None = None


class Keeper:
    """Runs until cancelled; every other method returns at once."""

    def __init__(
        self,
        clock: Clock,
        idle_minutes: Mapping[ServiceName, int],
        active_runs: Callable[[], int],
        terminals: Callable[[], Awaitable[int]],
        *,
        awake: Callable[[ServiceName], bool],
        rest: Callable[[ServiceName], None],
    ) -> None:
        """``idle_minutes`` names the services to watch. Runs and terminals keep the IDE awake, nothing
        else."""
        self._clock = clock
        self._idle_minutes = dict(idle_minutes)
        self._active_runs = active_runs
        self._terminals = terminals
        self._awake = awake
        self._rest = rest
        self._used = {name: _Used(clock.uptime()) for name in idle_minutes}
        self._stirred = asyncio.Event()

    def use_minutes(self, service: ServiceName, minutes: int) -> None:
        """From now on, let a watched service rest after so many minutes."""
        self._idle_minutes[service] = minutes
        self._stirred.set()

    def touch(self, service: ServiceName) -> None:
        """It was used just now."""
        if (used := self._used.get(service)) is not None:
            used.last = self._clock.uptime()

    def opened(self, service: ServiceName) -> None:
        """A connection that counts as use began."""
        self._count(service, 1)

    def closed(self, service: ServiceName) -> None:
        """A connection that counted as use ended."""
        self._count(service, -1)

    def in_use(self, service: ServiceName) -> bool:
        """Whether a connection that counts as use is open."""
        used = self._used.get(service)
        return used is not None and used.sockets > 0

    def because(self, service: ServiceName) -> Message | None:
        """Why it is being kept awake."""
        used = self._used.get(service)
        return used.because if used else None

    def nudge(self) -> None:
        """Look again now."""
        self._stirred.set()

    async def run(self) -> None:
        """Look, wait, look again; until cancelled."""
        while True:
            self._stirred.clear()
            times = [await self._look(service) for service in self._used]
            look_again = min((one for one in times if one is not None), default=None)
            left = None if look_again is None else max(0.0, look_again - self._clock.uptime())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._stirred.wait()

    def _count(self, service: ServiceName, change: int) -> None:
        if (used := self._used.get(service)) is not None:
            used.sockets = max(0, used.sockets + change)
            used.last = self._clock.uptime()
            self._stirred.set()

    async def _look(self, service: ServiceName) -> float | None:
        """Put it to sleep if it is idle; returns when to look again (seconds of uptime), None: when
        stirred."""
        used, now = self._used[service], self._clock.uptime()
        if not self._awake(service):
            used.because = None
            return None
        minutes = self._idle_minutes[service]
        use = idle.Use(used.sockets, used.last)
        if service == "ide":
            use = replace(use, active_runs=self._active_runs())
        verdict = idle.judge(use, now, minutes, f"{service}.awake")
        if verdict.idle and service == "ide":  # asking the broker costs more than all the rest: last
            verdict = idle.judge(replace(use, terminals=await self._count_terminals()), now, minutes)
        used.because = verdict.because
        if verdict.idle and used.last <= now and not used.sockets:
            log.info("nobody uses it", extra={"service": service})
            self._rest(service)
        return verdict.look_again

    async def _count_terminals(self) -> int | None:
        try:
            return await self._terminals()
        except Unavailable as error:
            log.warning("cannot count terminals in use", extra={"cause": error.message})
            return None
