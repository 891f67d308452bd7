"""Putting the engine together for this machine: service `ai` as the broker runs it here, an endpoint elsewhere, and the choice.

Used by the daemon, and by the tests' front, alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from appliance.assistant.chosen_engine import ChosenEngine
from appliance.assistant.engine import Engine, EngineState, EngineStatus
from appliance.assistant.local_engine import LocalEngine, Look, Place
from appliance.broker import shares
from appliance.broker.client import BrokerError
from appliance.broker.client import call as broker_call
from appliance.errors import CroftError, Unavailable
from appliance.events import EventBus
from appliance.services.health import Answer, Probe, TcpProbe, UnixProbe
from appliance.services.manager import Services
from appliance.services.model import Progress, State, Want
from appliance.settings import Settings
from appliance.settings_desk import SettingsDesk

if TYPE_CHECKING:
    from appliance.assistant.workshop import Workshop

TOPIC = "assistant"
EGRESS_TRIES = 150  # 15 seconds; it takes some 300 ms
# Of a processor's time: a server that waits takes next to nothing, a model that answers all that others leave it.
WORKING, LOOK_SECONDS = 0.05, 0.15
_PHASES = {"pulling": "image", "extracting": "image", "loading": "model"}


def build_engine(settings: Settings, desk: SettingsDesk, services: Services, bus: EventBus, *, runtime: str) -> Engine:
    """The engine that the settings choose. ``runtime`` is the broker's word."""
    docker = runtime == "docker"
    teller = _Teller(bus)
    most = shares.most_for_the_engine(shares.measure(), docker=docker, ide_memory_mb=settings.ide_memory_mb)
    local = LocalEngine(
        ServiceEnd(services, most << 20, _processor_time(settings)),
        settings.paths.state / "models",
        place_of(settings, docker=docker),
        _idle_in_a_container if docker else _idle_on_a_socket,
        _let_go,
        teller.look,
    )

    def remote() -> Engine:
        from appliance.assistant.remote_engine import RemoteEngine

        return RemoteEngine(lambda: desk.current)

    engine = ChosenEngine(lambda: desk.current.ai_engine, local, remote)
    teller.status = engine.status

    def follow(before: Settings, after: Settings) -> None:
        from appliance.assistant.remote_engine import let_key_go

        let_key_go(before, after)
        services.rest_after("ai", after.ai_idle_minutes)
        teller.look()

    desk.on_change(follow)
    services.on_shown(teller.look)
    services.rest_after("ai", desk.current.ai_idle_minutes)
    return engine


def build_workshop(settings: Settings, services: Services) -> Workshop:
    """Where models are fetched into LocalAI and taken out of it; the Docker runtime's alone."""
    from appliance.assistant.workshop import Workshop

    path = settings.paths.socket("broker")

    async def let_out(seconds: int) -> None:
        try:
            await asyncio.to_thread(lambda: broker_call(path, "engine-egress", seconds=seconds))
            for _ in range(EGRESS_TRIES):
                if (await asyncio.to_thread(lambda: broker_call(path, "engine"))).data["egress"] == bool(seconds):
                    return
                await asyncio.sleep(0.1)
        except BrokerError as error:
            raise Unavailable(error.message) from error
        raise Unavailable("the engine's way out did not open or close in time")

    return Workshop(ServiceEnd(services, 0, _processor_time(settings)), place_of(settings, docker=True), let_out)


async def _idle_on_a_socket(place: Place, model: str) -> bool | None:
    from appliance.assistant.engine_http import idle_slots

    return await idle_slots(place, model)


async def _idle_in_a_container(place: Place, model: str) -> bool | None:
    from appliance.assistant.engine_http import idle_backend

    return await idle_backend(place, model)


async def _let_go(place: Place, model: str) -> bool:
    from appliance.assistant.engine_http import end_backend

    return await end_backend(place, model)


def _processor_time(settings: Settings) -> Callable[[], Awaitable[float]]:
    """What service `ai` has used of it since its start, in seconds; 0 where that is not known."""
    path = settings.paths.socket("broker")

    async def spent() -> float:
        try:
            rows = (await asyncio.to_thread(lambda: broker_call(path, "services"))).data["services"]
        except BrokerError as error:
            raise Unavailable(error.message) from error
        return sum(row["cpu_usec"] or 0 for row in rows if row["service"] == "ai") / 1e6

    return spent


def place_of(settings: Settings, *, docker: bool) -> Callable[[], Awaitable[Place]]:
    """Where the engine listens in this runtime."""
    return _in_a_container(settings) if docker else _on_a_socket(settings)


def engine_probe(settings: Settings, *, docker: bool, in_use: Callable[[], bool]) -> Probe:
    """Asks the engine whether its model is loaded. One that answers somebody may be too busy to say so: it is not stopped for that."""
    find = place_of(settings, docker=docker)

    async def probe() -> Answer:
        try:
            place = await find()
        except CroftError as error:
            return Answer(False, error.message)
        if place.socket is not None:
            answer = await UnixProbe(place.socket, "/health", uid=engine_uid(settings))()
        else:
            host, port = place.address
            answer = await TcpProbe(host, port)()
        return Answer(True, answer.why) if answer.timed_out and in_use() else answer

    return probe


def engine_uid(settings: Settings) -> int:
    """Uid that must answer on the engine's socket: the owner of its folder, which only the broker makes."""
    return settings.paths.socket("ai").parent.stat().st_uid


def _on_a_socket(settings: Settings) -> Callable[[], Awaitable[Place]]:
    """In the process runtime the engine listens on a socket that only the daemon reaches."""
    place = Place("http://engine/v1", socket=settings.paths.socket("ai"))

    async def find() -> Place:
        return place

    return find


def _in_a_container(settings: Settings) -> Callable[[], Awaitable[Place]]:
    """In the Docker runtime it listens in a container; the broker knows where, and the key."""
    path = settings.paths.socket("broker")

    async def find() -> Place:
        told: Mapping[str, Any] = (await asyncio.to_thread(lambda: broker_call(path, "engine"))).data
        return Place(f"http://{told['address']}:{told['port']}/v1", told["key"])

    return find


class ServiceEnd:
    """Service `ai` as :class:`LocalEngine` sees it."""

    def __init__(self, services: Services, memory: int, processor: Callable[[], Awaitable[float]]) -> None:
        """``memory`` is what it may take, in bytes; ``processor`` tells the seconds it has used of that."""
        self._services, self._memory, self._processor = services, memory, processor

    def look(self) -> Look:
        """From what people see of it."""
        if self._services.lacks_program("ai"):
            return Look(EngineState.NONE, "no_engine")
        view = self._services.view("ai")
        look = Look(EngineState.ASLEEP, "", view.since, memory=view.memory_bytes, limit=self._memory)
        if self._services.is_ready("ai"):
            return replace(look, state=EngineState.READY)
        if view.parked:
            return replace(look, state=EngineState.FAILED, reason="failed")
        if view.want is Want.STOP:
            return replace(look, state=EngineState.NONE, reason="stopped")
        if view.state in (State.STARTING, State.RUNNING) or view.retry_at:
            now = view.progress or Progress("starting")
            phase = _PHASES.get(now.phase, "engine")
            return replace(look, state=EngineState.STARTING, phase=phase, current=now.current, total=now.total)
        return look

    async def ready(self, seconds: float) -> None:
        await self._services.ready("ai", seconds)

    async def renewed(self, seconds: float) -> None:
        await self._services.renewed("ai", seconds)

    async def working(self) -> bool:
        before, clock = await self._processor(), asyncio.get_running_loop()
        begun = clock.time()
        await asyncio.sleep(LOOK_SECONDS)
        return (await self._processor() - before) / (clock.time() - begun) > WORKING

    def opened(self) -> None:
        self._services.socket_opened("ai")

    def closed(self) -> None:
        self._services.socket_closed("ai")


class _Teller:
    """Publishes on topic ``assistant`` when the engine's status is another; how many ask it just now is none, for a busy one would
    push everything else out of what returning readers are told."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._told: EngineStatus | None = None
        self.status: Callable[[], EngineStatus] | None = None

    def look(self) -> None:
        """Something may have changed."""
        if self.status is not None and (now := replace(self.status(), holds=0)) != self._told:
            self._told = now
            self._bus.publish(TOPIC, {"state": str(now.state)})
