"""A runtime that speaks the Runtime protocol and does as the test says, and Services over it with hands to
turn."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from appliance.broker.shares import NoRoom
from appliance.clock import ManualClock
from appliance.events import EventBus
from appliance.services.health import Answer
from appliance.services.history import ENDED
from appliance.services.manager import Services, Surroundings
from appliance.services.model import SERVICES, LogLine, Missing, Observed, State, Supply
from appliance.services.runtime import RuntimeGone, StartFailed


class ScriptedRuntime:
    """``behaviour`` of a service is runs, dies, refuses, no_room or slow_start; everything done to it is in
    ``done``."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.rows = {name: Observed(name, State.STOPPED) for name in SERVICES}
        self.rows["ai"] = Observed("ai", State.ABSENT, missing=Missing.PROGRAM)
        self.behaviour = dict.fromkeys(SERVICES, "runs")
        self.words = {name: [f"{name} says hello"] for name in SERVICES}
        self.done: list[tuple[str, str, float]] = []
        self.safe: list[bool] = []
        self.shared: list[int | None] = []
        self.supplies = Supply.CURRENT
        self.registry_down = False
        self.gone = False
        self.unending: set[str] = set()  # services that no stop ends
        self.looks = 0
        self.may_end = asyncio.Event()
        self.may_end.set()
        self._numbers = itertools.count(1)
        self._busy: set[str] = set()
        self._changed: Callable[[], None] = lambda: None

    def starts(self, service: str) -> list[float]:
        return [at for what, name, at in self.done if (what, name) == ("start", service)]

    def kill(self, service: str, **how: object) -> None:
        """It ends by itself."""
        how = how or {"signal": 9}
        state = State.STOPPED if how.get("exit_code") == 0 else State.FAILED
        self.rows[service] = replace(self.rows[service], state=state, since=self.clock.now(), **how)
        self._changed()

    def lose(self, gone: bool) -> None:
        self.gone = gone
        self._changed()

    async def open(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    async def close(self) -> None:
        self.done.append(("close", "", self.clock.uptime()))

    async def observe(self) -> tuple[Observed, ...]:
        self.looks += 1
        self._answer()
        await asyncio.sleep(0)
        return tuple(self.rows.values())

    async def share(self, model_mb: int | None) -> None:
        self._answer()
        self.shared.append(model_mb)

    async def start(self, service: str, model_mb: int | None, *, safe: bool = False) -> None:
        self._note("start", service)
        self.safe.append(safe)
        async with self._alone(service):
            await self.may_end.wait()
        behaviour = self.behaviour[service]
        if behaviour == "no_room":
            raise NoRoom("others hold it")
        if behaviour == "refuses":
            raise StartFailed("it will not start")
        run = Observed(service, State.RUNNING, self.clock.now(), f"run-{next(self._numbers)}", 1)
        self.rows[service] = run
        if behaviour == "dies":
            self.rows[service] = replace(run, state=State.FAILED, exit_code=1)
        self._changed()

    async def stop(self, service: str, grace: float) -> None:
        self._note("stop", service)
        async with self._alone(service):
            await self.may_end.wait()
        if self.rows[service].state not in ENDED and service not in self.unending:
            self.rows[service] = replace(self.rows[service], state=State.STOPPED, signal=15)
        self._changed()

    async def pull(self, service: str, report: Callable[..., None]) -> None:
        self._note("pull", service)
        async with self._alone(service):
            await self.may_end.wait()
        if self.registry_down:
            raise StartFailed("cannot pull: the <registry> is down", problem="pull_failed")
        if self.rows[service].state is State.ABSENT:
            self.rows[service] = replace(self.rows[service], missing=Missing.CONTAINER)

    async def supply(self, service: str) -> Supply:
        self._answer()
        return self.supplies

    async def logs(self, service: str, lines: int) -> list[LogLine]:
        self._answer()
        return [LogLine(text) for text in self.words[service][-lines:]]

    async def follow(self, service: str, lines: int) -> AsyncIterator[LogLine]:
        for line in await self.logs(service, lines):
            yield line

    def _answer(self) -> None:
        if self.gone:
            raise RuntimeGone("nobody answers")

    def _note(self, what: str, service: str) -> None:
        self._answer()
        self.done.append((what, service, self.clock.uptime()))

    def _alone(self, service: str) -> _Alone:
        return _Alone(self._busy, service)


class _Alone:
    """Fails the test if two steps of one service overlap (invariant 1 of the runner)."""

    def __init__(self, busy: set[str], service: str) -> None:
        self.busy, self.service = busy, service

    async def __aenter__(self) -> None:
        assert self.service not in self.busy, f"two steps at once for {self.service}"
        self.busy.add(self.service)

    async def __aexit__(self, *_: object) -> None:
        self.busy.discard(self.service)


class ScriptedProbe:
    """Answers as told; a hung service is one whose probe does not pass."""

    def __init__(self) -> None:
        self.answer = Answer(True)
        self.asked = 0

    async def __call__(self) -> Answer:
        self.asked += 1
        return self.answer


class MemoryStore:
    """A DesiredStore that outlives a Services, as a database would."""

    def __init__(self) -> None:
        self.wishes: dict[str, str] = {}
        self.actors: list[str] = []

    async def load(self) -> dict[str, str]:
        return dict(self.wishes)

    async def save(self, service: str, want: str, actor: str) -> None:
        self.wishes[service] = str(want)
        self.actors.append(actor)


class World:
    """Services over the scripted parts. Time stands still unless a test moves it."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.runtime = ScriptedRuntime(self.clock)
        self.probes = {"proxy": ScriptedProbe(), "ide": ScriptedProbe()}
        self.store = MemoryStore()
        self.bus = EventBus(self.clock)
        self.folder = folder
        self.terminals = 0
        self.model_mb: int | None = None
        self.runs = 0
        self.port_owner = ""
        self.task: asyncio.Task[None] | None = None

    async def _terminals(self) -> int:
        return self.terminals

    async def up(self) -> None:
        """Start a daemon's worth of Services (again)."""
        around = Surroundings(
            state=self.folder,
            idle_minutes={"ide": 30},
            terminals=self._terminals,
            active_runs=lambda: self.runs,
            port_owner=lambda port: self.port_owner,
        )
        self.services = Services(
            self.runtime,
            self.probes,
            lambda: self.model_mb,
            self.clock,
            self.bus,
            self.store,
            around,
            jitter=lambda: 0.0,
        )
        self.task = asyncio.create_task(self.services.run())

    async def down(self) -> float:
        """End it as SIGTERM does; returns how long that took in real seconds."""
        assert self.task is not None
        began = time.monotonic()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.task = None
        return time.monotonic() - began

    async def until(self, condition: Callable[[], bool], *, step: float = 0.0, within: float = 10.0) -> None:
        """Poll ``condition``; each time it does not hold, move the clock by ``step`` and let Services look."""
        deadline = time.monotonic() + within
        while not condition():
            assert self.task is not None
            if self.task.done():
                self.task.result()
            assert time.monotonic() < deadline, f"not within {within} s; done: {self.runtime.done}"
            self.clock.advance(step)
            if step:
                self.services.look()
            await asyncio.sleep(0.002)

    async def pass_time(self, seconds: float, step: float = 1.0) -> None:
        """Let time go by in small steps."""
        end = self.clock.uptime() + seconds
        await self.until(lambda: self.clock.uptime() >= end, step=step, within=30)

    def state(self, service: str) -> str:
        return str(self.services.view(service).state)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.up()
    yield world
    if world.task is not None:
        await world.down()
