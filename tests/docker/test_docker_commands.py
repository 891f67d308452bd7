"""Commands in the docker runtime: in the IDE's container, joined, approved, bounded and ended like anywhere else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.broker.client import BrokerClient
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


def own(path: str) -> str:
    """Device and inode of a program of the host."""
    found = Path(path).stat()
    return f"{found.st_dev:x}-{found.st_ino:x}"


def count(mark: str) -> int:
    """How many processes sleep for ``mark`` seconds, seen from the host."""
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found += (entry / "cmdline").read_bytes() == f"sleep\0{mark}\0".encode()
    return found
