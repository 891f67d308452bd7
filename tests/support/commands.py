"""Commands as people meet them: the real web application over a real broker that starts real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from appliance.clock import ManualClock
from appliance.commands.language import load
from appliance.control import Control, NotRunning
from support.broker import Home
from support.front import Front, front
from support.waiting import poll, until

# Rules for what tests start: shells too, which the packaged rules never let run at once.
POLICY = """
version = 1

[defaults]
human = "ask"
ai = "ask"
token = "ask"
auto = ["human", "token", "ai"]
limits = { seconds = 20, output_kb = 256, pids = 64, memory_mb = 128, parallel = 12 }
asked_limits = { seconds = 20, output_kb = 256, pids = 64, memory_mb = 128, parallel = 12 }
rate = { per_minute = 600, per_day = 10000 }

{quick}
[[rule]]
id = "cat"
bin = "cat"
exec = "/bin/cat"
args = ["path+"]
mode = "auto"

[[rule]]
id = "count"
bin = "wc"
exec = "/usr/bin/wc"
flags = ["-c", "-l"]
stdin = true
mode = "auto"

[[pipeline]]
id = "counted"
first = ["quick-yes", "quick-seq", "cat"]
then = ["count"]
max = 3
"""


CHECKOUT = Path(__file__).resolve().parents[2]

_QUICK = """
[[rule]]
id = "quick-{name}"
bin = "{name}"
exec = "/usr/bin/{name}"
flags = ["-n"]
args = ["word*"]
dashes = "none"
mode = "auto"
"""
QUICK = ("true", "false", "echo", "yes", "sleep", "seq")
POLICY = POLICY.replace("{quick}", "".join(_QUICK.replace("{name}", name) for name in QUICK))


class Room:
    """A front with commands that run. ``broker`` can be stopped and killed."""

    def __init__(self, made: Front, broker: Home, cookies: dict[str, str]) -> None:
        self.front, self.broker, self.cookies = made, broker, cookies

    @property
    def workspace(self) -> Path:
        return self.broker.paths.workspace

    async def ask(self, method: str, path: str, who: str = "operator", status: int | None = None, **how: Any) -> Any:
        """The JSON answer of a request as ``who``, after checking its status."""
        async with self.front.ask(method, path, self.cookies[who], **how) as response:
            body = await response.read()
            if status is not None:
                assert response.status == status, body
            return json.loads(body)

    async def propose(self, *argv: str, who: str = "operator", status: int | None = 201, **more: Any) -> dict[str, Any]:
        """The run that was asked for."""
        body = ({"argv": list(argv)} if argv else {}) | more
        return (await self.ask("POST", "/api/commands", who, status, json=body))["run"]

    async def approve(self, run: dict[str, Any], who: str = "operator", status: int | None = 200, **more: Any) -> Any:
        body = {"hash": run["hash"]} | more
        return await self.ask("POST", f"/api/commands/{run['id']}/approve", who, status, json=body)

    async def shell(self, script: str, *, wait: float = 20, **more: Any) -> dict[str, Any]:
        """A shell script, asked for and approved; the run as it stands after ``wait`` seconds."""
        run = await self.propose("sh", "-c", script, **more)
        return (await self.approve(run, wait=wait))["run"]

    async def over(self, run: str, who: str = "operator") -> dict[str, Any]:
        """The run once it is over."""
        found = await self.ask("GET", f"/api/commands/{run}", who, 200)
        for _ in range(20):
            if found["run"]["state"] not in ("waiting", "running"):
                break
            await self.front.commands.wait(run, 1)
            found = await self.ask("GET", f"/api/commands/{run}", who, 200)
        return found["run"]

    async def output(self, run: str, who: str = "operator", query: str = "") -> bytes:
        async with self.front.ask("GET", f"/api/commands/{run}/output{query}", self.cookies[who]) as response:
            assert response.status == 200
            return await response.read()

    def audit(self) -> Any:
        return self.front.audit.records(limit=1000)


@asynccontextmanager
async def room_in(broker: Home, policy: str = POLICY, clock: Any = None) -> AsyncIterator[Room]:
    """A daemon's worth of commands beside a running broker."""
    async with front(broker.folder, clock or ManualClock()) as made:
        made.policy = load(policy)
        await made.commands.load()
        task = asyncio.create_task(made.commands.run())
        cookies = {role: (await made.sign_in_as(role))[1] for role in ("viewer", "operator", "admin")}
        room = Room(made, broker, cookies)
        await until(lambda: made.commands.connected or task.done(), "the broker is reached")
        try:
            yield room
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Daemon:
    """A real daemon process beside a running broker; no proxy and no IDE."""

    def __init__(self, broker: Home, policy: str = POLICY) -> None:
        self.broker = broker
        self.control = Control(broker.paths.socket("control"))
        broker.paths.policy.mkdir(parents=True, exist_ok=True)
        (broker.paths.policy / "policy.toml").write_text(policy)
        self.start()

    @classmethod
    @contextmanager
    def beside(cls, broker: Home, policy: str = POLICY) -> Iterator[Daemon]:
        """A daemon beside ``broker``, which is started again with settings that leave the proxy out."""
        broker.stop()
        broker.configure(paths__caddy="/nonexistent/caddy", proxy__https_port=28443, proxy__http_port=28080)
        broker.start()
        made = cls(broker, policy)
        try:
            yield made
        finally:
            made.process.terminate()
            made.process.wait(20)

    def start(self) -> None:
        with (self.broker.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "appliance.daemon", "--home", str(self.broker.folder)],
                cwd=CHECKOUT, stdout=log, stderr=log,
            )  # fmt: skip
        poll(self._answers, "the daemon answers", 30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def run(self, run: str) -> dict[str, Any]:
        return self.control.call("GET", f"/api/commands/{run}")["run"]

    def shell(self, script: str) -> dict[str, Any]:
        run = self.control.call("POST", "/api/commands", {"argv": ["sh", "-c", script]})["run"]
        return self.control.call("POST", f"/api/commands/{run['id']}/approve", {"hash": run["hash"]})["run"]

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.broker.folder / "daemon.log").read_text()[-2000:]
        with contextlib.suppress(NotRunning):
            return bool(self.control.call("GET", "/healthz"))
        return False


def alive(mark: str) -> list[str]:
    """Command lines of live processes that hold ``mark``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if mark.encode() in line:
                found.append(line.decode("utf-8", "replace"))
    return found


def forget(broker: Home) -> None:
    """Remove what the daemon's half keeps, so that the next test begins with an empty history."""
    for path in broker.paths.state.glob("croft.*"):
        path.unlink()
    shutil.rmtree(broker.paths.state / "runs", ignore_errors=True)
    shutil.rmtree(broker.paths.keys, ignore_errors=True)
