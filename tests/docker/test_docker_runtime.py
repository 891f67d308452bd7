"""The docker runtime as the daemon sees it: through the broker and the filtered socket, on a real engine."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from appliance.broker.client import BrokerClient
from appliance.broker.images import Held, Ledger, read_pins
from appliance.broker.shares import measure, plan
from appliance.services.docker_runtime import DockerRuntime
from appliance.services.model import Missing, Observed, State, Supply
from appliance.services.runtime import RuntimeGone, StartFailed

CHECKOUT = Path(__file__).resolve().parents[2]


async def eventually(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What ``condition`` (a function, async or not) says once it says something true."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found := await found if inspect.isawaitable(found) else found:
            return found
        assert time.monotonic() < deadline, f"nothing within {seconds} s"
        await asyncio.sleep(0.05)


class Watched:
    """A runtime and how often it said that something changed."""

    def __init__(self, runtime: DockerRuntime) -> None:
        self.runtime = runtime
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1

    async def one(self, service: str) -> Observed:
        return next(row for row in await self.runtime.observe() if row.service == service)

    async def until(self, service: str, holds: Callable[[Observed], bool], seconds: float = 30.0) -> Observed:
        async def look() -> Observed | None:
            with contextlib.suppress(RuntimeGone):
                return row if holds(row := await self.one(service)) else None
            return None

        return await eventually(look, seconds)


@pytest.fixture
async def watched(broker) -> AsyncIterator[Watched]:
    runtime = DockerRuntime(BrokerClient(broker.paths.socket("broker")), broker.paths.socket("docker"))
    made = Watched(runtime)
    await runtime.open(made.changed)
    await made.until("ide", lambda row: True)
    yield made
    await runtime.close()


async def test_start_observe_logs_stop(watched: Watched, broker) -> None:
    runtime = watched.runtime
    before = await watched.one("ide")
    assert (before.state, before.missing, before.run_id) == (State.ABSENT, Missing.CONTAINER, None)
    assert (await watched.one("ai")).missing is Missing.IMAGE
    await runtime.start("ide", None)
    first = await watched.one("ide")
    assert first.state is State.RUNNING
    assert first.memory_limit == plan(measure(), docker=True).shares["ide"].memory_mb << 20
    assert first.pid
    row = await watched.until("ide", lambda row: row.memory_bytes > 20 << 20 and row.cpu_usec > 100_000)
    assert row.run_id == first.run_id
    await runtime.start("ide", None)
    assert (await watched.one("ide")).run_id == first.run_id, "starting a running service does nothing"

    async def listening() -> bool:
        return any("HTTP server listening" in line.text for line in await runtime.logs("ide", 50))

    await eventually(listening)
    assert all(line.at for line in await runtime.logs("ide", 50))
    changes = watched.changes
    await runtime.stop("ide", 5)
    ended = await watched.one("ide")
    assert ended.state in (State.STOPPED, State.FAILED)
    assert ended.run_id == first.run_id
    assert not ended.oom_killed
    assert watched.changes > changes
    await runtime.stop("ide", 5)
    await runtime.start("ide", None)
    again = await watched.one("ide")
    assert again.run_id != first.run_id
    assert again.run_id.split("-")[0] == first.run_id.split("-")[0], "the same container, started again"


async def test_safe_mode_and_new_limits_make_it_afresh(watched: Watched, engine: docker.DockerClient) -> None:
    await watched.runtime.start("ide", None)
    words = engine.containers.get("croft-ide").attrs["Args"]
    assert "/tmp/no-extensions" not in words
    await watched.runtime.stop("ide", 5)
    await watched.runtime.start("ide", 3000, safe=True)
    made = engine.containers.get("croft-ide").attrs
    assert "/tmp/no-extensions" in made["Args"]
    share = plan(measure(), docker=True, model_mb=3000).shares["ide"]
    assert made["HostConfig"]["Memory"] == share.memory_mb << 20
    assert made["HostConfig"]["NanoCpus"] == round(share.cpus * 1e9)


async def test_where_another_version_comes_from(watched: Watched, broker, engine: docker.DockerClient) -> None:
    """DESIGN section 6, R6: what runs is left alone until the image that is held is another; the next start uses that."""
    runtime, ledger = watched.runtime, Ledger(broker.paths.programs / "docker/images.json")
    pin = read_pins(CHECKOUT / "compose/pins.toml")["ide"]

    def hold(number: str, version: str) -> None:
        engine.images.get(number).tag("croft/ide", "pin")
        ledger.record("ide", Held(number, pin.repository, version, ""))

    await runtime.start("ide", None)
    run = (await watched.one("ide")).run_id
    first = engine.containers.get("croft-ide")
    hold(first.image.id, "0.0.1")
    assert await runtime.supply("ide") is Supply.FETCH
    hold(first.image.id, pin.version)
    assert await runtime.supply("ide") is Supply.CURRENT
    other = first.commit("croft-test/ide", "other")
    try:
        hold(other.id, pin.version)
        broker.call("share")  # looks at the images
        await eventually(lambda: broker.call("image-status", service="ide").data["image"] == other.id)
        assert await runtime.supply("ide") is Supply.HELD
        assert (await watched.one("ide")).run_id == run
        await runtime.stop("ide", 5)
        await runtime.start("ide", None)
        assert engine.containers.get("croft-ide").image.id == other.id
        assert await runtime.supply("ide") is Supply.CURRENT
        await runtime.stop("ide", 5)
    finally:
        engine.containers.get("croft-ide").remove(force=True)
        engine.images.get(first.image.id).tag("croft/ide", "pin")
        engine.images.remove(other.id, force=True)


async def test_a_kill_from_outside_is_seen_at_once(watched: Watched, engine: docker.DockerClient) -> None:
    """R3: the planner learns of a crash by an event, not by polling."""
    await watched.runtime.start("proxy", None)
    changes = watched.changes
    engine.containers.get("croft-proxy").kill("KILL")
    await eventually(lambda: watched.changes > changes, 5)
    row = await watched.until("proxy", lambda row: row.state is not State.RUNNING)
    assert (row.state, row.signal) == (State.FAILED, 9)


async def test_following_a_log_outlives_a_restart(watched: Watched) -> None:
    await watched.runtime.start("ide", None)
    heard: list[str] = []

    async def listen() -> None:
        async for line in watched.runtime.follow("ide", 100):
            if "HTTP server listening" in line.text:
                heard.append(line.text)

    task = asyncio.create_task(listen())
    await eventually(lambda: len(heard) == 1)
    await watched.runtime.stop("ide", 5)
    await watched.runtime.start("ide", None)
    await eventually(lambda: len(heard) >= 2)
    assert len(heard) == 2, "no line is given twice"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_fails_says_so(watched: Watched) -> None:
    with pytest.raises(StartFailed) as missing:
        await watched.runtime.start("ai", None)
    assert missing.value.problem == "image_missing"
    with pytest.raises(StartFailed):
        await watched.runtime.start("ide", 1 << 30)
    assert await watched.runtime.logs("ai", 10) == []


async def test_the_brokers_end_is_told_and_its_return_is_found(watched: Watched, broker) -> None:
    """R1, R5: nothing is said of services while nobody can know; they are found again, untouched."""
    await watched.runtime.start("ide", None)
    row = await watched.one("ide")
    broker.kill()
    with pytest.raises(RuntimeGone):
        await watched.runtime.observe()
    broker.start()
    again = await watched.until("ide", lambda row: row.state is State.RUNNING)
    assert (again.run_id, again.pid) == (row.run_id, row.pid)
