"""The engine of the process runtime: a real llama.cpp with a tiny model, started by the first question and stopped when idle."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector
from support.accounts import throwaway_accounts
from support.broker import Home, home_folder
from support.engine import EngineRoom, engine_room
from support.waiting import until

from appliance.assistant.engine import EngineState, NoEngine, Upstream
from appliance.errors import Unavailable


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with throwaway_accounts("e") as names, home_folder(names) as made:
        made.start()
        yield made


@pytest.fixture
async def room(home: Home) -> AsyncIterator[EngineRoom]:
    async with engine_room(home) as made:
        yield made


async def ask(upstream: Upstream, words: str = "hello", tokens: int = 4, **more: object) -> str:
    """One question, answered whole."""
    question = {"model": upstream.model, "messages": [{"role": "user", "content": words}], "max_tokens": tokens}
    async with (
        ClientSession(connector=UnixConnector(str(upstream.socket))) as client,
        client.post(f"{upstream.base}/chat/completions", json=question | more) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["choices"][0]["message"]["content"])


async def follow(upstream: Upstream, words: str, tokens: int) -> None:
    """The same, as it is said."""
    question = {"model": upstream.model, "messages": [{"role": "user", "content": words}], "max_tokens": tokens}
    async with (
        ClientSession(connector=UnixConnector(str(upstream.socket))) as client,
        client.post(
            f"{upstream.base}/chat/completions", json=question | {"stream": True, "ignore_eos": True}
        ) as answer,
    ):
        async for _line in answer.content:
            pass


async def test_the_first_question_starts_it_and_says_how_far_it_is(room: EngineRoom) -> None:
    room.choose()
    assert room.engine.status().state is EngineState.ASLEEP
    seen = []
    async with room.bus.subscribe({"assistant"}) as events:

        async def watch() -> None:
            async for event in events:
                seen.append(event.data["state"])

        watching = asyncio.create_task(watch())
        async with room.engine.hold("a question") as upstream:
            assert (upstream.model, upstream.context, upstream.remote) == ("tiny", 4096, False)
            assert await ask(upstream)
            status = room.engine.status()
            assert (status.state, status.holds, status.model) == (EngineState.READY, 1, "tiny")
        told = len(seen)
        for _ in range(3):
            async with room.engine.hold("another"):
                pass
        await asyncio.sleep(0.1)
        assert len(seen) == told, "questions to an engine that is ready are no news: they would drive out what is"
        watching.cancel()
    assert [state for n, state in enumerate(seen) if n == 0 or seen[n - 1] != state] == ["starting", "ready"]
    assert await room.engine.idle()


async def test_only_the_daemon_reaches_it_and_it_reaches_nobody(room: EngineRoom) -> None:
    """NET-2, NET-3: no port, no network, a socket that the workspace's account cannot even see."""
    room.choose()
    async with room.engine.hold("a question"):
        process = Path(f"/proc/{room.pid}")
        path = room.home.paths.socket("ai")
        assert path.stat().st_mode & 0o7777 == 0o660
        if room.home.switching:
            rows = (process / "net/dev").read_text().splitlines()
            assert [row.split(":")[0].strip() for row in rows if ":" in row] == ["lo"]
            assert path.parent.stat().st_mode & 0o7 == 0
            status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
            assert (int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"]) == (0, 0, "1")
            assert pwd.getpwuid(int(status["Uid"].split()[0])).pw_name == room.home.names["ai"]


async def test_it_is_stopped_when_nobody_asks_and_never_while_somebody_waits(room: EngineRoom) -> None:
    """AI-13: and who goes away in the middle frees it, which the engine itself says."""
    room.choose(context=65_536)
    async with room.engine.hold("a question") as upstream:
        pid = room.pid
        endless = asyncio.create_task(follow(upstream, "a long story", 60_000))
        await room.until_idle(False)
        room.clock.forward(3600)
        room.services.look()
        await room.settled()
        assert not await room.engine.idle()
        assert room.pid == pid
        endless.cancel()
        begun = time.monotonic()
        await room.until_idle(True)
        assert time.monotonic() - begun < 2
    room.clock.forward(14 * 60)
    room.services.look()
    await room.settled()
    assert room.pid == pid  # a minute before its time
    room.clock.forward(2 * 60)
    room.services.look()
    await until(lambda: room.engine.status().state is EngineState.ASLEEP, "it rests")
    assert room.pid is None


async def test_whoever_goes_before_the_end_of_an_unstreamed_answer_frees_it_too(room: EngineRoom) -> None:
    """AI-13: llama.cpp's server does not notice by itself, so the engine begins anew."""
    room.choose(context=65_536)

    async def impatient() -> None:
        async with room.engine.hold("a question") as upstream:
            await ask(upstream, "a long story", 60_000, ignore_eos=True)

    asking = asyncio.create_task(impatient())
    await until(lambda: room.engine.status().state is EngineState.READY, "the model is loaded")
    await room.until_idle(False)
    pid = room.pid
    asking.cancel()
    begun = time.monotonic()
    await until(lambda: room.pid != pid, "that run has ended")
    print(f"freed after {time.monotonic() - begun:.1f} s")
    assert await _held(room, 30)


async def test_the_time_until_it_rests_is_a_setting_that_counts_at_once(room: EngineRoom) -> None:
    room.choose()
    await room.desk.change({"ai.idle_minutes": "0"}, "test")
    async with room.engine.hold("a question"):
        pass
    room.clock.forward(7 * 86_400)
    room.services.look()
    await room.settled()
    assert room.pid  # 0 means never
    await room.desk.change({"ai.idle_minutes": "1"}, "test")
    await until(lambda: room.pid is None, "it rests")


async def test_a_question_after_it_was_killed_starts_it_again(room: EngineRoom) -> None:
    room.choose()
    async with room.engine.hold("a question") as upstream:
        assert await ask(upstream)
        killed = room.pid
        assert killed
        os.kill(killed, signal.SIGKILL)
        await until(lambda: room.engine.status().state is not EngineState.READY, "its end is seen")
    async with room.engine.hold("another", wait=30) as upstream:
        assert await ask(upstream)
        assert room.pid != killed


async def test_another_model_is_loaded_when_nobody_holds_the_first(room: EngineRoom) -> None:
    room.choose("first")
    async with room.engine.hold("one") as upstream:
        assert upstream.model == "first"
        await asyncio.sleep(0)  # the choice below is younger than the engine
        room.choose("second", context=2048)
        async with room.engine.hold("two") as beside:
            assert beside.model == "first"
            assert await ask(beside)
    async with room.engine.hold("three") as upstream:
        assert (upstream.model, upstream.context) == ("second", 2048)
        assert await ask(upstream)
    assert room.engine.status().model == "second"


@pytest.mark.parametrize("reason", ["no_model", "gone", "damaged", "too_small"])
async def test_what_cannot_be_served_is_said_at_once_and_nothing_is_started(room: EngineRoom, reason: str) -> None:
    file = room.choose()
    if reason == "no_model":
        room.choose_nothing()
    elif reason == "gone":
        file.unlink()
    elif reason == "damaged":
        file.write_bytes(b"<html>not a model</html>")
    else:
        with file.open("r+b") as sparse:
            sparse.truncate(1 << 40)
    expected = "no_model" if reason == "gone" else reason
    status = room.engine.status()
    assert (status.state, status.reason) == (EngineState.NONE, expected)
    with pytest.raises(NoEngine) as caught:
        async with room.engine.hold("a question"):
            pass
    assert (caught.value.reason, caught.value.code) == (expected, f"ai_{expected}")
    assert caught.value.hint
    assert room.pid is None
    file.unlink(missing_ok=True)


async def test_a_file_that_only_begins_like_a_model_is_given_up_and_another_choice_mends_it(room: EngineRoom) -> None:
    file = room.choose("broken")
    file.write_bytes(b"GGUF" + bytes(2000))
    holding = asyncio.create_task(_held(room, 60))
    while not holding.done():
        if room.services.view("ai").retry_at:
            room.clock.forward(1800)  # the waits between its tries
            room.services.look()
        await asyncio.sleep(0.05)
    with pytest.raises(Unavailable, match="given up"):
        await holding
    assert (room.engine.status().state, room.engine.status().reason) == (EngineState.FAILED, "failed")
    await until(lambda: "model_unusable" in {one.code for one in room.services.problems()}, "why is told")
    with pytest.raises(NoEngine):
        await _held(room, 5)
    room.choose("whole")
    assert await _held(room, 30)


async def test_one_that_a_person_stopped_stays_so_and_says_it(room: EngineRoom) -> None:
    room.choose()
    await room.services.stop("ai", "test")
    await until(lambda: room.engine.status().reason == "stopped", "it is told")
    with pytest.raises(NoEngine, match="was stopped"):
        await _held(room, 5)
    await room.services.start("ai", "test")
    assert await _held(room, 30)


async def _held(room: EngineRoom, wait: float) -> str:
    async with room.engine.hold("a question", wait=wait) as upstream:
        return await ask(upstream)
