"""A real broker in a folder of its own: as root with throwaway accounts, or as whoever runs the tests."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from support.broker import ROOT, Home, end_home, home_folder
from support.waiting import poll

from appliance.broker.client import BrokerClient
from appliance.broker.protocol import Object, Reply


@pytest.fixture(name="poll")
def poll_fixture() -> Callable[..., object]:
    return poll


@pytest.fixture
def home(names: dict[str, str]) -> Iterator[Home]:
    """A folder, configured but not started; whatever is started in it is stopped."""
    with home_folder(names) as made:
        yield made


@pytest.fixture
def person_home(names: dict[str, str]) -> Iterator[Home]:
    """The same as an ordinary person, who can change no user and write no cgroup."""
    folder = Path(tempfile.mkdtemp(prefix="croft-b-", dir="/tmp"))
    made = Home(folder, names, person=names["workspace"] if ROOT else None)
    made.configure()
    if ROOT:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, names["workspace"], names["workspace"])
    made.start()
    yield made
    end_home(made)


@pytest.fixture
def broker(home: Home) -> Home:
    """A running broker."""
    home.start()
    return home


@pytest.fixture
async def client(broker: Home) -> AsyncIterator[Connected]:
    connected = Connected(BrokerClient(broker.socket))
    await connected.client.connect()
    yield connected
    await connected.client.close()


class Connected:
    """A client that remembers events and can run something to its end."""

    def __init__(self, client: BrokerClient) -> None:
        self.client = client
        self.events: list[Object] = []
        client.on_event(self.events.append)

    async def call(self, op: str, **arguments: object) -> Reply:
        return await self.client.call(op, **arguments)

    async def event(self, seconds: float = 20.0, **wanted: object) -> Object:
        """The first event with these fields."""
        async with asyncio.timeout(seconds):
            while True:
                for event in self.events:
                    if wanted.items() <= event.items():
                        return event
                await asyncio.sleep(0.01)

    async def run(self, *argv: str, **more: object) -> tuple[Object, str, str]:
        """Spawn, read both pipes to their ends, and wait for the exit event."""
        words = {"argv": list(argv)} if argv else {}
        reply = await self.call("spawn", **words, **more)
        os.close(reply.fds[0])
        out, err = await asyncio.gather(*(asyncio.to_thread(_read, fd) for fd in reply.fds[1:3]))
        return await self.event(run=reply.data["run"]), out, err


def _read(fd: int) -> str:
    with os.fdopen(fd, "rb") as pipe:
        return pipe.read().decode("utf-8", "replace")
