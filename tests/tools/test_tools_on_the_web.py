"""The page, its forms, the API and the verb, over the real helper: what is under way, what failed, what is recorded."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from typing import IO, Any

import pytest
from support.folders import fresh_front
from support.front import Front
from support.waiting import until

from appliance.errors import Unavailable
from appliance.host.tools import FOLDER

pytestmark = pytest.mark.timeout(120)
HTML = {"Accept": "text/html"}


@pytest.fixture
async def door() -> AsyncIterator[Front]:
    async with fresh_front() as opened:
        yield opened


class Scripted:
    """A helper whose words the test says; looks are the real helper's."""

    def __init__(self, door: Front) -> None:
        self._door = door
        self._far: socket.socket | None = None
        door.toolbox._ask = self.ask

    async def ask(self, **words: str) -> socket.socket:
        if words["action"] == "list":
            return await self._door.ask_tools(**words)
        ours, self._far = socket.socketpair()
        return ours

    async def far(self) -> socket.socket:
        """The helper's end, once it was asked for."""
        return await until(lambda: self._far, "the helper to be asked")

    async def say(self, **row: Any) -> None:
        (await self.far()).send(json.dumps(row).encode() + b"\n")


async def test_install_use_and_remove_by_forms(door: Front) -> None:
    """Works without scripts, and both ends are in the audit log."""
    _, cookie = await door.sign_in_as("operator")
    async with door.ask("POST", "/machine/tools/deno/2/add", cookie, headers=HTML) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/machine/tools")
    await door.toolbox.wait()
    async with door.ask("GET", "/api/tools", cookie) as answer:
        rows = {(row["name"], row["series"]): row for row in (await answer.json())["tools"]}
    assert rows["deno", "2"]["version"].startswith("2.")
    assert rows["node", "24"]["version"] == ""
    async with door.ask("GET", "/machine/tools", cookie, headers=HTML) as answer:
        assert rows["deno", "2"]["version"] in await answer.text()
    async with door.ask("POST", "/machine/tools/deno/2/remove", cookie, headers=HTML) as answer:
        assert answer.status == 303
    await door.toolbox.wait()
    events = [record.event for record in await door.audit.records(limit=4)]
    assert events == ["outcome", "tool.remove", "outcome", "tool.add"]


async def test_php_comes_from_the_distribution_and_can_be_brought_up_to_date(door: Front) -> None:
    _, cookie = await door.sign_in_as("operator")
    async with door.ask("POST", "/api/tools/php/8/add", cookie) as answer:
        assert answer.status == 202
    await door.toolbox.wait()
    assert door.toolbox.problem is None
    async with door.ask("GET", "/api/tools", cookie) as answer:
        row = next(row for row in (await answer.json())["tools"] if row["name"] == "php")
    assert row["version"].startswith("8.")
    assert row["newer"], "only apt knows"
    async with door.ask("GET", "/machine/tools", cookie, headers=HTML) as answer:
        assert "Update PHP 8" in await answer.text()
    program = door.settings.paths.ide_home / FOLDER / "bin/php"
    before = program.resolve().stat().st_ino
    async with door.ask("POST", "/machine/tools/php/8/add", cookie, headers=HTML) as answer:
        assert answer.status == 303
    await door.toolbox.wait()
    assert door.toolbox.problem is None
    assert program.resolve().stat().st_ino == before, "the distribution has nothing newer"


async def test_a_container_that_does_not_run_is_said(door: Front) -> None:
    async def asleep(command: list[str]) -> IO[bytes]:
        raise Unavailable("the ide service was stopped", code="ide_stopped")

    door.toolbox._run = asleep
    _, cookie = await door.sign_in_as("operator")
    async with door.ask("POST", "/api/tools/php/8/add", cookie) as answer:
        assert answer.status == 202
    await door.toolbox.wait()
    async with door.ask("GET", "/machine/tools", cookie, headers=HTML) as answer:
        assert "Start the IDE, then try again" in await answer.text()


async def test_cancelling_leaves_nothing_of_what_apt_was_fetching(door: Front) -> None:
    _, cookie = await door.sign_in_as("operator")
    async with door.ask("POST", "/api/tools/php/8/add", cookie) as answer:
        assert answer.status == 202
    folder = door.settings.paths.ide_home / FOLDER
    await until((folder / ".apt").exists, "apt to be at work")
    async with door.ask("POST", "/api/tools/php/8/cancel", cookie) as answer:
        assert (await answer.json())["job"] is None
    await until(lambda: {path.name for path in folder.iterdir()} == {".lock"}, "the leftovers to go")


async def test_progress_reaches_readers_and_one_change_at_a_time_is_made(door: Front) -> None:
    scripted = Scripted(door)
    _, cookie = await door.sign_in_as("operator")
    async with door.ask("POST", "/api/tools/go/1.27/add", cookie) as answer:
        assert answer.status == 202
    async with door.ask("POST", "/api/tools/node/24/add", cookie) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (409, "tool_busy")
    async with door.ask("GET", "/api/events?topics=tools", cookie) as stream:
        await scripted.say(event="progress", phase="fetching", current=5 << 20, total=10 << 20)
        async with asyncio.timeout(10):
            while b'"current": 5242880' not in (line := await stream.content.readline()).replace(b'":5', b'": 5'):
                assert line
    async with door.ask("GET", "/machine/tools", cookie, headers=HTML) as answer:
        page = await answer.text()
    assert 'value="5242880"' in page
    assert "/machine/tools/go/1.27/cancel" in page
    (await scripted.far()).close()
    await door.toolbox.wait()


async def test_cancelling_hangs_up_on_the_helper(door: Front) -> None:
    scripted = Scripted(door)
    _, cookie = await door.sign_in_as("operator")
    async with door.ask("POST", "/api/tools/go/1.27/add", cookie) as answer:
        assert answer.status == 202
    far = await scripted.far()
    async with door.ask("POST", "/api/tools/go/1.27/cancel", cookie) as answer:
        assert (await answer.json())["job"] is None
    assert far.recv(1) == b""
    assert [record.event for record in await door.audit.records(limit=2)] == ["outcome", "tool.add"]
    far.close()


async def test_a_failure_is_told_in_words_with_the_cause_behind(door: Front) -> None:
    """What uv said is text and nothing else."""
    scripted = Scripted(door)
    _, cookie = await door.sign_in_as("operator")
    async with door.ask("POST", "/api/tools/go/1.27/add", cookie) as answer:
        assert answer.status == 202
    await scripted.say(event="failed", code="altered", message="<script>alert(1)</script> \u202e")
    await door.toolbox.wait()
    async with door.ask("GET", "/machine/tools", cookie, headers=HTML) as answer:
        page = await answer.text()
    assert "What arrived is not what was pinned" in page
    assert "<script>alert(1)" not in page
    assert "\u202e" not in page
    (await scripted.far()).close()


@pytest.mark.parametrize(
    "said",
    [
        "not json",
        "[]",
        "{}",
        '{"event": "progress", "phase": "fetching"}',
        '{"event": "progress", "current": 1e400, "total": 0}',
        '{"event": "progress", "current": -1, "total": 0}',
        '{"event": "failed", "code": ["failed"], "message": "no"}',
        '{"event": "failed", "code": "failed", "message": {"a": 1}}',
        '{"event": "done", "tools": [1]}',
        "[" * 10_000,
    ],
)
@pytest.mark.parametrize("name", ["go", "php"])
async def test_words_that_are_not_a_helpers_are_an_error_and_no_fault(door: Front, said: str, name: str) -> None:
    """The container may write on the pipe of what runs in it (PHP's packages): the job ends, and its page says why."""
    scripted = Scripted(door)

    async def run(command: list[str]) -> IO[bytes]:
        return os.fdopen((await scripted.ask(action="add")).detach(), "rb", buffering=0)

    door.toolbox._run = run
    await door.toolbox.begin("add", name, "8" if name == "php" else "1.27", "console")
    (await scripted.far()).send(said.encode() + b"\n")
    await door.toolbox.wait()
    assert door.toolbox.job is None
    assert door.toolbox.problem is not None
    assert door.toolbox.problem["code"] == "unavailable"
    (await scripted.far()).close()


async def test_the_page_stands_without_a_broker(door: Front) -> None:
    async def gone(**words: str) -> socket.socket:
        raise Unavailable("cannot reach the broker")

    door.toolbox._ask = gone
    _, cookie = await door.sign_in_as("operator")
    async with door.ask("GET", "/machine/tools", cookie, headers=HTML) as answer:
        assert answer.status == 200
        assert "cannot reach the broker" in await answer.text()
