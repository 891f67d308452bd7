"""A real broker in a folder of its own: as root with throwaway accounts, or as whoever runs the tests."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from appliance.broker import fence
from appliance.broker.client import BrokerClient, call
from appliance.broker.protocol import Object, Reply
from appliance.settings import Paths

ROOT = os.geteuid() == 0


def poll(condition: Callable[[], object], seconds: float = 10.0, what: str = "the condition") -> object:
    """Wait until ``condition`` holds and return what it said."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not hold within {seconds} s"
        time.sleep(0.02)


@pytest.fixture(name="poll")
def poll_fixture() -> Callable[..., object]:
    return poll


@pytest.fixture(scope="session")
def names() -> Iterator[dict[str, str]]:
    """Accounts croft-tN and workspace-tN and the group croft-tN-web, removed at the end."""
    if not ROOT:
        person = pwd.getpwuid(os.geteuid()).pw_name
        yield {"daemon": person, "workspace": person, "proxy": person}
        return
    number = os.getpid()
    made = {"daemon": f"croft-t{number}", "workspace": f"workspace-t{number}", "proxy": f"proxy-t{number}"}
    web = f"{made['daemon']}-web"
    run = lambda *words: subprocess.run(words, check=True, capture_output=True)  # noqa: E731
    run("groupadd", "--system", web)
    for role, name in made.items():
        run(
            "useradd",
            "--system",
            "--user-group",
            "--no-create-home",
            "--shell",
            "/usr/sbin/nologin",
            *(["--groups", web] if role != "workspace" else []),
            name,
        )
    yield made
    for name in made.values():
        run("userdel", name)
        with_same_name = [group.gr_name for group in grp.getgrall() if group.gr_name == name]
        for group in with_same_name:
            run("groupdel", group)
    run("groupdel", web)


class Home:
    """One appliance's folder and the broker that runs in it."""

    def __init__(self, folder: Path, names: dict[str, str], person: str | None = None) -> None:
        self.person = person
        self.folder = folder
        self.paths = Paths.under(folder)
        self.names = names
        self.process: subprocess.Popen[bytes] | None = None
        self.settings: dict[str, str] = {}
        self.paths.config.parent.mkdir(parents=True)

    @property
    def socket(self) -> Path:
        return self.paths.socket("broker")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def switching(self) -> bool:
        return ROOT and self.person is None

    def configure(self, **lines: object) -> None:
        """Settings by dotted name with dots as ``__``."""
        rows: dict[str, object] = {f"users.{role}": name for role, name in self.names.items()} if self.switching else {}
        rows |= {"runtime": "process"} | {key.replace("__", "."): value for key, value in lines.items()}
        text = "".join(f"{key} = {_toml(value)}\n" for key, value in rows.items())
        self.paths.config.write_text(text)

    def start(self, inside: Callable[[], None] | None = None) -> None:
        """``inside`` is called in the child before it starts."""
        if not self.paths.config.exists():
            self.configure()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-m", "appliance.broker", "--home", str(self.folder)],
            cwd="/",
            user=self.person,
            group=self.person,
            extra_groups=[] if self.person else None,
            umask=0o077,
            preexec_fn=inside,
        )
        poll(self._answers, what="the broker")

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def call(self, op: str, **arguments: object) -> Reply:
        return call(self.socket, op, **arguments)

    def row(self, service: str) -> Object:
        return next(row for row in self.call("services").data["services"] if row["service"] == service)

    def cgroups(self) -> list[Path]:
        """The broker's own places in the cgroup trees."""
        name = f"croft-{bytes(self.paths.run).hex()[-32:]}"
        return [Path(folder, name) for folder, inner, _ in os.walk("/sys/fs/cgroup") if name in inner]

    def workspace_file(self, name: str, text: str = "", mode: int = 0o755) -> Path:
        """A file in the workspace that belongs to its user."""
        path = self.paths.workspace / name
        path.write_text(text)
        path.chmod(mode)
        self.give(path)
        return path

    def give(self, path: Path) -> None:
        if ROOT:
            shutil.chown(path, self.names["workspace"], self.names["workspace"])

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the broker ended with {self.process.returncode}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            return probe.connect_ex(str(self.socket)) == 0


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else f'"{value}"'


@pytest.fixture
def home(names: dict[str, str]) -> Iterator[Home]:
    """A folder, configured but not started; whatever is started in it is stopped."""
    made = _new(names)
    yield made
    _end(made)


@pytest.fixture(scope="module")
def shared_broker(names: dict[str, str]) -> Iterator[Home]:
    """One running broker for many examples."""
    made = _new(names)
    made.start()
    yield made
    _end(made)


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
    _end(made)


def _new(names: dict[str, str]) -> Home:
    folder = Path(tempfile.mkdtemp(prefix="croft-b-", dir="/tmp"))
    folder.chmod(0o755)
    return Home(folder, names)


def _end(home: Home) -> None:
    if home.process is not None and home.process.poll() is None:
        home.stop()
    if home.switching:
        fence.remove(pwd.getpwnam(home.names["workspace"]).pw_uid)  # so does one that was killed, its table
    for folder in home.cgroups():
        folder.rmdir()  # a broker that was killed leaves its empty ones
    shutil.rmtree(home.folder)


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
