"""The extension's listener for programs in terminals, run by the editor's own Node as windows run it."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from support.appliance import ide_tree

HERE = Path(__file__).parents[2] / "webui/editor"
CODE = """
require(process.argv[1] + "/terminal.js").preset(process.argv[2], process.argv[3])
  .then(({ url, key }) => console.log(JSON.stringify({ url, key })));
"""


class Upstream:
    """What the daemon serves on v1.sock."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        self.hung_up = asyncio.Event()

    async def models(self, request: web.Request) -> web.Response:
        self.seen.append(dict(request.headers))
        return web.json_response({"object": "list"})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        assert await request.json() == {"stream": True}
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        try:
            await asyncio.Event().wait()
        finally:
            self.hung_up.set()
        return response


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[Upstream]:
    made, app = Upstream(), web.Application()
    app.router.add_get("/v1/models", made.models)
    app.router.add_post("/v1/chat/completions", made.chat)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "v1.sock")).start()
    yield made
    await runner.cleanup()


@asynccontextmanager
async def window(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """A window's process; (address, key) of what it sets in terminals."""
    words = ("-e", CODE, str(HERE), str(folder / "own"), str(folder / "v1.sock"))
    node = str(ide_tree() / "node/bin/node")
    process = await asyncio.create_subprocess_exec(node, *words, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        found = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        yield found["url"], found["key"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def get(url: str, key: str) -> int:
    async with aiohttp.ClientSession() as client, client.get(url, headers={"Authorization": f"Bearer {key}"}) as answer:
        return answer.status


async def test_the_key_lets_in_and_stays_here(tmp_path: Path, upstream: Upstream) -> None:
    async with window(tmp_path) as (url, key):
        assert await get(f"{url}/models", key) == 200
        assert "Authorization" not in upstream.seen[0]
        assert upstream.seen[0]["Host"] == "localhost"
        for wrong in ("", "x", key[:-1], f"{key}x"):
            assert await get(f"{url}/models", wrong) == 401
        assert await get(url.removesuffix("/v1") + "/api/me", key) == 404
        assert len(upstream.seen) == 1
        (kept,) = (tmp_path / "own").iterdir()
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600


async def test_words_come_as_they_are_said_and_hanging_up_stops_the_model(tmp_path: Path, upstream: Upstream) -> None:
    """AI-13"""
    async with window(tmp_path) as (url, key), aiohttp.ClientSession() as client:
        headers = {"Authorization": f"Bearer {key}"}
        async with client.post(f"{url}/chat/completions", json={"stream": True}, headers=headers) as answer:
            assert await asyncio.wait_for(answer.content.readline(), 5) == b"data: first\n"
            answer.close()
        await asyncio.wait_for(upstream.hung_up.wait(), 5)


async def test_while_the_daemon_is_away_the_refusal_is_one_that_clients_read(tmp_path: Path) -> None:
    async with window(tmp_path) as (url, key), aiohttp.ClientSession() as client:
        answer = await client.get(f"{url}/models", headers={"Authorization": f"Bearer {key}"})
        assert answer.status == 503
        assert (await answer.json())["error"]["code"] == "unavailable"


async def test_windows_share_an_address_and_one_takes_over_from_another(tmp_path: Path, upstream: Upstream) -> None:
    """A terminal outlives the window it was opened in."""
    async with AsyncExitStack() as stack:
        async with window(tmp_path) as first:
            assert await stack.enter_async_context(window(tmp_path)) == first
        assert await answers(*first, seconds=15)


async def answers(url: str, key: str, seconds: float) -> bool:
    """Whether it does within so many seconds."""
    for _ in range(round(seconds * 10)):
        try:
            return await get(f"{url}/models", key) == 200
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.1)
    return False
