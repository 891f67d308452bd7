"""The engine that the settings choose: the one on this machine, one elsewhere, or none.

Rule: it changes with the settings, at once, and only there; what is held goes on where it began. Text leaves the machine only where
an admin chose that (PRV-3).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from appliance.assistant.engine import Engine, EngineState, EngineStatus, NoEngine, Upstream


class ChosenEngine:
    """See :class:`~appliance.assistant.engine.Engine`. ``choice`` is the setting ai.engine as it counts now; ``remote`` makes the
    engine elsewhere, once it is chosen."""

    def __init__(self, choice: Callable[[], str], local: Engine, remote: Callable[[], Engine]) -> None:
        self._choice = choice
        self._remote = remote
        self._engines: dict[str, Engine] = {"local": local, "nobody": _NoEngine()}

    def status(self) -> EngineStatus:
        return self._engine.status()

    def hold(self, purpose: str, *, wait: float = 900.0) -> AbstractAsyncContextManager[Upstream]:
        return self._engine.hold(purpose, wait=wait)

    async def idle(self) -> bool:
        return await self._engine.idle()

    @property
    def _engine(self) -> Engine:
        choice = self._choice()
        if choice == "remote" and choice not in self._engines:
            self._engines[choice] = self._remote()
        return self._engines[choice]


class _NoEngine:
    """What there is when the assistant is turned off."""

    def status(self) -> EngineStatus:
        return EngineStatus(EngineState.NONE, reason="off")

    @asynccontextmanager
    async def hold(self, purpose: str, *, wait: float = 900.0) -> AsyncIterator[Upstream]:
        raise NoEngine("off", "the assistant is turned off", hint="An admin can turn it on in the settings.")
        yield  # a generator, though it never gets here

    async def idle(self) -> bool:
        return True
