"""The edge behind which services really run: containers or processes. Both runtimes are written against
this page.

Rule: a runtime does what it is told, once. It never restarts, retries or decides anything about a service
by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from appliance.errors import Unavailable
from appliance.services.model import LogLine, Observed, Progress, ServiceName, Supply


class RuntimeGone(Unavailable):
    """Broker or Docker engine do not answer. Says nothing about the services themselves: they may well be
    running."""

    code = "runtime_gone"


class StartFailed(Unavailable):
    """The service could not be started. ``problem`` is a problem code when the cause is a known one, else
    empty."""

    code = "start_failed"

    def __init__(self, message: str, *, problem: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.problem = problem


class Runtime(Protocol):
    """Every method may raise RuntimeGone; none blocks the event loop."""

    async def open(self, changed: Callable[[], None]) -> None:
        """Connect. ``changed`` is called on the event loop whenever something may have changed: an exit, a
        start, or the connection coming back. It may be called too often, never too rarely while connected.
        The runtime reconnects by itself; open() returns even when nothing answers yet."""

    async def close(self) -> None:
        """Let go of the connection. The services keep running."""

    async def observe(self) -> tuple[Observed, ...]:
        """Every known service exactly once, read afresh."""

    async def start(self, service: ServiceName, model_mb: int | None, *, safe: bool = False) -> None:
        """Start it (creating its container where there is none) with its share of the machine: see :meth:`share`. Returns
        once it is started, not once it is ready. Starting a running service does nothing. Raises StartFailed, NoRoom."""

    async def share(self, model_mb: int | None) -> None:
        """Have the limits of what runs be those of a machine whose model in use needs ``model_mb`` MiB (0: not known; None:
        there is none), as far as what runs can give back."""

    async def stop(self, service: ServiceName, grace: float) -> None:
        """TERM, and KILL after ``grace`` seconds; returns when it has ended. Stopping a stopped one does
        nothing."""

    async def pull(self, service: ServiceName, report: Callable[[Progress], None]) -> None:
        """Fetch its image, reporting bytes. Raises StartFailed with the reason; leaves the old image in
        place then."""

    async def supply(self, service: ServiceName) -> Supply:
        """Where another version of it would come from than the one in use."""

    async def logs(self, service: ServiceName, lines: int) -> list[LogLine]:
        """The last ``lines`` lines, oldest first; empty when it never wrote any."""

    def follow(self, service: ServiceName, lines: int) -> AsyncIterator[LogLine]:
        """The last ``lines`` lines and then each new one, across restarts and rotations, until closed."""
