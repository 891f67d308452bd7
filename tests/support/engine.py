"""A real engine: broker, supervision and llama.cpp over the tiny model, in either runtime, without proxy or editor."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from appliance.assembly import build_services
from appliance.assembly_engine import build_engine
from appliance.assistant import choice
from appliance.assistant.choice import Choice
from appliance.assistant.engine import Engine
from appliance.clock import SystemClock
from appliance.events import EventBus
from appliance.services.manager import Services
from appliance.services.wishes import Wishes
from appliance.settings import load
from appliance.settings_desk import SettingsDesk
from appliance.store import open_store
from support.tiny_model import tiny_model
from support.waiting import until


class ManyHours(SystemClock):
    """Time goes on as it does, and a test can let hours of it pass at once."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def forward(self, seconds: float) -> None:
        self._skipped += seconds

    def now(self) -> float:
        return super().now()

    def uptime(self) -> float:
        return super().uptime() + self._skipped


class EngineRoom:
    """What :func:`engine_room` gives."""

    def __init__(
        self, home: Any, desk: SettingsDesk, services: Services, engine: Engine, bus: EventBus, clock: ManyHours
    ) -> None:
        self.home, self.desk, self.services = home, desk, services
        self.engine, self.bus, self.clock = engine, bus, clock

    @property
    def models(self) -> Path:
        return self.home.paths.state / "models"

    def choose(self, name: str = "tiny", *, context: int = 4096, write: bool = True) -> Path:
        """Put a model there, as a download would, and choose it."""
        path = self.models / f"{name}.gguf"
        if write:
            tiny_model(self.models, context, name)
            path.chmod(0o640)
            if os.geteuid() == 0:
                shutil.chown(path, load(self.home.paths).users_daemon)
        choice.write(self.models, Choice(name, path.name, context))
        return path

    def choose_nothing(self) -> None:
        choice.write(self.models, None)

    async def settled(self) -> None:
        """Whatever follows from a look at the services has been done."""
        await asyncio.to_thread(lambda: [self.home.call("services") for _ in range(3)])

    async def until_idle(self, wanted: bool) -> None:
        """Wait until the engine itself says that it works on nothing, or on something."""
        deadline = time.monotonic() + 10
        while await self.engine.idle() is not wanted:
            assert time.monotonic() < deadline, "the engine does not come to that"
            await asyncio.sleep(0.02)

    @property
    def pid(self) -> int | None:
        pid = self.home.row("ai")["pid"]
        return int(pid) if pid else None


@asynccontextmanager
async def engine_room(home: Any, runtime: str = "process") -> AsyncIterator[EngineRoom]:
    """Everything up to the engine in ``home`` (of either runtime's tests), whose broker runs; without a model, and nothing runs at
    the end."""
    settings, clock = load(home.paths), ManyHours()
    async with open_store(settings, clock) as store:
        bus = EventBus(clock)
        desk = SettingsDesk(store.database, store.audit, clock, settings)
        for service, wish in (("proxy", "stop"), ("ide", "stop"), ("ai", "on_demand")):
            await Wishes(store.database, clock).save(service, wish, "test")
        services = build_services(settings, store, bus, {"runtime": runtime}, "", lambda: 0.0)
        engine = build_engine(settings, desk, services, bus, runtime=runtime)
        made = EngineRoom(home, desk, services, engine, bus, clock)
        made.choose_nothing()
        running = asyncio.create_task(services.run())
        try:
            await until(lambda: services.view("ai").actions, "the service is seen")
            yield made
        finally:
            await services.stop("ai", "test")
            await until(lambda: made.pid is None, "the engine has ended")
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
