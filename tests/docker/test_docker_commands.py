"""Commands in the docker runtime: in the IDE's container, joined, approved, bounded and ended like anywhere else."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import docker
import pytest
from support.commands import room_in
from support.processes import alive

from appliance.broker.client import BrokerClient, BrokerError
from appliance.commands.model import Limits
from appliance.commands.output import saved
from appliance.commands.runs import NotStarted, Order, Runs
from appliance.errors import Unavailable


@pytest.fixture
async def runs(broker, tmp_path: Path) -> AsyncIterator[Runs]:
    made = Runs(BrokerClient(broker.paths.socket("broker")), tmp_path / "runs")

    async def nobody(alive: object, ended: object) -> None:
        """Nothing was left by an earlier daemon."""

    task = asyncio.create_task(made.run(nobody))
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def order(*stages: tuple[str, ...], **more: object) -> Order:
    return Order(f"run-{os.urandom(8).hex()}", stages, "", {}, Limits(seconds=20), **more)


async def said(runs: Runs, folder: Path, wanted: Order) -> tuple[str, int | None]:
    live = await runs.start(wanted)
    outcome = await asyncio.wait_for(live.over, 30)
    frames = [frame.data async for some in saved(folder / wanted.id, 0) for frame in some]
    return b"".join(frames).decode(), outcome.exit_code


async def test_commands_run_in_the_container_and_end_there(runs: Runs, broker, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    with pytest.raises(Unavailable) as caught:
        await runs.start(order(("true",)))
    assert caught.value.code == "ide_stopped"
    broker.up("ide")
    name, _ = await said(runs, folder, order(("cat", "/proc/sys/kernel/hostname")))
    assert name.strip() != socket.gethostname()
    joined, status = await said(
        runs, folder, order(("sh", "-c", "echo b; echo a"), ("sort",), ("sh", "-c", "cat; exit 3"))
    )
    assert (joined, status) == ("a\nb\n", 3)

    seen = await runs.fingerprint(["sh"], "")
    assert own("/bin/sh") not in seen["programs"][0], "the container's own program"
    assert (await said(runs, folder, order(("sh", "-c", "echo ok"), expected=seen)))[0] == "ok\n"
    with pytest.raises(NotStarted) as refused:
        await runs.start(order(("sh", "-c", "echo ok"), expected=seen | {"folder": "1-1"}))
    assert refused.value.code == "changed"

    mark = f"45{os.getpid()}"
    wanted = order(("sh", "-c", f"setsid sleep {mark} & exec sleep {mark}"))
    live = await runs.start(wanted)
    async with asyncio.timeout(10):
        while count(mark) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await runs.kill(wanted.id)
    outcome = await asyncio.wait_for(live.over, 5)
    assert (outcome.cause, count(mark)) == ("killed", 0)


async def test_an_approval_is_not_for_a_container_of_another_image(broker, engine: docker.DockerClient) -> None:
    """POL-10, DECIDED 26: the image was rebuilt between what was shown and the run; the programs are the same files."""
    broker.up("ide")
    first = engine.containers.get("croft-ide")
    other = first.commit("croft-test/ide", "rebuilt", changes="LABEL rebuilt=yes")
    try:
        async with room_in(broker) as room:
            shown = await room.propose("sh", "-c", "echo ok")
            assert (await room.approve(shown, wait=20))["run"]["state"] == "done"
            waiting, seen = await room.propose("sh", "-c", "touch ran"), await look(broker)
            assert seen["image"] == first.image.id
            broker.call("stop", service="ide")
            # Stopped while it still starts, it ends by the signal, which is "failed".
            broker.poll(lambda: broker.row("ide")["state"] in ("stopped", "failed"), "the IDE to stop", 30)
            other.tag("croft/ide", "pin")
            broker.up("ide")
            assert await look(broker) == seen | {"image": other.id}
            assert (await room.approve(waiting, status=409))["error"]["code"] == "changed"
            assert (await room.over(waiting["id"]))["state"] == "expired"
        with pytest.raises(BrokerError) as refused:
            broker.call("spawn", argv=["sh", "-c", "touch ran"], expected=seen)
        assert refused.value.code == "changed"
        assert not (broker.paths.workspace / "ran").exists()
    finally:
        engine.containers.get("croft-ide").remove(force=True)
        engine.images.get(first.image.id).tag("croft/ide", "pin")
        engine.images.remove(other.id, force=True)


async def look(broker) -> dict[str, object]:
    reply = await asyncio.to_thread(broker.call, "fingerprint", programs=["sh"])
    with os.fdopen(reply.fds[0], "rb") as pipe:
        return json.loads(await asyncio.to_thread(pipe.read))


def own(path: str) -> str:
    """Device and inode of a program of the host."""
    found = Path(path).stat()
    return f"{found.st_dev:x}-{found.st_ino:x}"


def count(mark: str) -> int:
    """How many processes sleep for ``mark`` seconds, seen from the host."""
    return alive(f"sleep\0{mark}\0").count(f"sleep\0{mark}\0")
