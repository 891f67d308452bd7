"""Commands as people meet them: the real web application over a real broker that starts real processes."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from appliance.clock import ManualClock
from appliance.commands.language import load
from support.broker import Home
from support.daemon import POLICY
from support.front import Front, front
from support.waiting import until

TOUCH = """
[[rule]]
id = "touch"
bin = "touch"
exec = "/usr/bin/touch"
args = ["newpath+"]
mode = "ask"
effect = "write"
"""


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
async def room_in(broker: Home, policy: str = POLICY, clock: Any = None, engine: Any = None) -> AsyncIterator[Room]:
    """A daemon's worth of commands beside a running broker. ``engine`` answers in place of the one that the settings choose."""
    async with front(broker.folder, clock or ManualClock(), engine=engine) as made:
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


def forget(broker: Home) -> None:
    """Remove what the daemon's half keeps, so that the next test begins with an empty history."""
    for path in broker.paths.state.glob("croft.*"):
        path.unlink()
    shutil.rmtree(broker.paths.state / "runs", ignore_errors=True)
    shutil.rmtree(broker.paths.keys, ignore_errors=True)
    shutil.rmtree(broker.paths.policy, ignore_errors=True)
