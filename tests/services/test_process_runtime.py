"""The process runtime over a real broker that starts a real Caddy."""

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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from appliance.broker.client import BrokerClient
from appliance.services.model import Missing, Observed, State
from appliance.services.process_runtime import ProcessRuntime
from appliance.services.runtime import RuntimeGone, StartFailed
from appliance.settings import Paths

CHECKOUT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def accounts() -> Iterator[dict[str, str]]:
    """As root: accounts of our own, removed at the end; else everything is whoever runs the tests."""
    if os.geteuid() != 0:
        yield dict.fromkeys(("daemon", "workspace", "proxy", "ai"), pwd.getpwuid(os.geteuid()).pw_name)
        return
    number = os.getpid()
    made = {role: f"{role[:6]}-s{number}" for role in ("daemon", "workspace", "proxy", "ai")}
    web = f"{made['daemon']}-web"
    subprocess.run(["groupadd", "--system", web], check=True, capture_output=True)
    for role, name in made.items():
        groups = ["--groups", web] if role in ("daemon", "proxy") else []
        subprocess.run(
            ["useradd", "--system", "--user-group", "--no-create-home", *groups, name], check=True, capture_output=True
        )
    yield made
    for name in made.values():
        subprocess.run(["userdel", name], check=True, capture_output=True)
    for name in {web, *made.values()} & {group.gr_name for group in grp.getgrall()}:
        subprocess.run(["groupdel", name], check=True, capture_output=True)


class Home:
    """A folder with a broker in it that can be killed and started again."""

    def __init__(self, folder: Path, accounts: dict[str, str]) -> None:
        self.folder, self.paths, self.port = folder, Paths.under(folder), free_port()
        self.process: asyncio.subprocess.Process | None = None
        users = "".join(f'users.{role} = "{name}"\n' for role, name in accounts.items()) if os.geteuid() == 0 else ""
        self.paths.config.parent.mkdir(parents=True)
        self.paths.config.write_text(
            f'{users}runtime = "process"\nproxy.http_port = {free_port()}\n'
            f'proxy.https_port = {self.port}\nproxy.bind = "127.0.0.1"\n'
        )

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-m", "appliance.broker", "--home", str(self.folder), cwd=CHECKOUT
        )
        await until(lambda: asyncio.to_thread(self._answers))

    async def end(self, how: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(how)
            await self.process.wait()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            return probe.connect_ex(str(self.paths.socket("broker"))) == 0


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.02)


def new_folder() -> Path:
    """Short, because of socket paths, and open to the services' accounts."""
    folder = Path(tempfile.mkdtemp(prefix="croft-s-", dir="/tmp"))
    folder.chmod(0o755)
    return folder


@pytest.fixture
async def home(accounts: dict[str, str]) -> AsyncIterator[Home]:
    assert shutil.which("caddy"), "caddy is not installed (apt-get install caddy)"
    folder = await asyncio.to_thread(new_folder)
    made = Home(folder, accounts)
    await made.start()
    yield made
    await made.end(signal.SIGTERM)
    await asyncio.to_thread(shutil.rmtree, folder)


class Runtime(ProcessRuntime):
    """Counts what it is told."""

    changes = 0

    def note(self) -> None:
        self.changes += 1

    async def row(self, service: str) -> Observed:
        return next(one for one in await self.observe() if one.service == service)

    async def is_in(self, service: str, state: State) -> bool:
        with suppress(RuntimeGone):
            return (await self.row(service)).state is state
        return False


@pytest.fixture
async def runtime(home: Home) -> AsyncIterator[Runtime]:
    made = Runtime(BrokerClient(home.paths.socket("broker")))
    await made.open(made.note)
    await until(lambda: made.is_in("proxy", State.STOPPED))
    yield made
    await made.close()


async def test_a_service_is_started_watched_killed_and_stopped(home, runtime) -> None:
    await runtime.start("proxy", None)
    seen = await runtime.row("proxy")
    assert seen.state is State.RUNNING
    assert seen.pid is not None
    assert seen.run_id is not None
    assert abs(seen.since - time.time()) < 60
    await runtime.start("proxy", None)
    assert (await runtime.row("proxy")).run_id == seen.run_id
    changes = runtime.changes
    os.kill(seen.pid, signal.SIGKILL)
    await until(lambda: runtime.is_in("proxy", State.FAILED))
    assert runtime.changes > changes
    dead = await runtime.row("proxy")
    assert (dead.run_id, dead.signal, dead.oom_killed) == (seen.run_id, 9, False)
    await runtime.start("proxy", None)
    assert (await runtime.row("proxy")).run_id != seen.run_id
    await runtime.stop("proxy", 5)
    assert (await runtime.row("proxy")).state is State.STOPPED
    await runtime.stop("proxy", 5)


async def test_what_is_not_installed_is_absent_and_says_why_it_does_not_start(runtime) -> None:
    seen = await runtime.row("ide")
    assert (seen.state, seen.missing) == (State.ABSENT, Missing.PROGRAM)
    with pytest.raises(StartFailed, match="not installed"):
        await runtime.start("ide", None)


async def says(runtime: Runtime, words: str, service: str = "proxy") -> bool:
    return any(words in line.text for line in await runtime.logs(service, 100))


async def test_logs_are_read_and_followed(runtime) -> None:
    assert await runtime.logs("proxy", 10) == []
    await runtime.start("proxy", None)
    await until(lambda: says(runtime, "serving initial configuration"))
    async with aclosing(runtime.follow("proxy", 1)) as lines, asyncio.timeout(20):
        await anext(lines)
        await runtime.stop("proxy", 5)
        async for line in lines:
            if "shutting down" in line.text or "exiting" in line.text:
                break


async def test_a_broker_that_dies_takes_nothing_along_and_is_found_again(home, runtime) -> None:
    """R1, R5: silence is said to be silence, the run goes on, and its end is seen by the next broker."""
    await runtime.start("proxy", None)
    before = await runtime.row("proxy")
    changes = runtime.changes
    await home.end(signal.SIGKILL)
    with pytest.raises(RuntimeGone):
        await runtime.observe()
    os.kill(before.pid, 0)
    await home.start()
    await until(lambda: runtime.is_in("proxy", State.RUNNING))
    assert (await runtime.row("proxy")).run_id == before.run_id
    assert runtime.changes > changes
    os.kill(before.pid, signal.SIGKILL)  # no child of this broker, which learns of its end but not how
    await until(lambda: runtime.is_in("proxy", State.FAILED))
    assert (await runtime.row("proxy")).run_id == before.run_id


async def test_safe_mode_leaves_the_extensions_out(home, runtime) -> None:
    """R4. The program only says how it was called; that code-server obeys is shown elsewhere."""
    node = home.paths.programs / "ide/node/bin/node"
    node.parent.mkdir(parents=True)
    node.write_text('#!/bin/sh\necho "called with $*"\nexec sleep 1000\n')
    node.chmod(0o755)
    await until(lambda: runtime.is_in("ide", State.STOPPED))
    await runtime.start("ide", None, safe=True)
    await until(lambda: says(runtime, "/no-extensions ", "ide"))
    await runtime.stop("ide", 5)
    await runtime.start("ide", None)
    await until(lambda: says(runtime, "/extensions ", "ide"))
    await runtime.stop("ide", 0)


async def test_terminals_are_counted(runtime) -> None:
    assert await runtime.terminals() == 0


async def test_opening_before_there_is_a_broker_is_fine(tmp_path) -> None:
    """R25."""
    runtime = ProcessRuntime(BrokerClient(tmp_path / "none.sock"))
    await runtime.open(lambda: None)
    with pytest.raises(RuntimeGone):
        await runtime.observe()
    await runtime.close()
