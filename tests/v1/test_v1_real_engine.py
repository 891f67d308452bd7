"""The real llama.cpp behind /v1, started as the appliance starts it, with a model of half a megabyte."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.folders import fresh_front
from support.programs import Programs
from support.tiny_model import tiny_model
from support.waiting import poll, until

from appliance.assistant import choice
from appliance.assistant.choice import Choice
from appliance.assistant.engine import EngineState, EngineStatus, Upstream

pytestmark = pytest.mark.timeout(180)
QUESTION: Any = [{"role": "user", "content": "hello"}]


class Running:
    """An `Engine` over a llama.cpp that is up."""

    def __init__(self, socket: Path) -> None:
        self.upstream = Upstream("http://engine/v1", "", "tiny", 2048, socket=socket)

    def status(self) -> EngineStatus:
        return EngineStatus(EngineState.READY, model="tiny", context=2048)

    @asynccontextmanager
    async def hold(self, purpose: str, *, wait: float = 900.0) -> AsyncIterator[Upstream]:
        yield self.upstream

    async def idle(self) -> bool:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.upstream.socket))) as web,
            web.get("http://engine/slots") as answer,
        ):
            return not any(slot["is_processing"] for slot in json.loads(await answer.read()))


@pytest.fixture(scope="module")
def llama() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="croft-llama-"))
    tiny_model(folder, 2048)
    choice.write(folder, Choice("tiny", "tiny.gguf", 2048))
    with (folder / "log").open("wb") as log:
        words = [sys.executable, "-m", "appliance.assistant.engine_child", str(folder), str(folder / "ai.sock")]
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        poll(lambda: b"serving tiny" in (folder / "log").read_bytes(), "the engine serves", 60)
        yield folder / "ai.sock"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


async def idle_within_two_seconds(engine: Running) -> None:
    began = time.monotonic()
    while not await engine.idle():
        assert time.monotonic() - began < 2
        await asyncio.sleep(0.02)


@asynccontextmanager
async def asked_by_programs(engine: Running) -> AsyncIterator[Programs]:
    """The web application before an engine, and the programs that ask it."""
    async with fresh_front(engine=engine) as door, AsyncExitStack() as stack:
        await door.member("admin")
        yield Programs(door, stack)


async def test_answers_usage_vectors_and_an_end_within_two_seconds(llama: Path) -> None:
    """AI-13, at the engine itself; the tokens that the quota counts are those the engine says it used."""
    engine = Running(llama)
    async with asked_by_programs(engine) as programs:
        client = await programs.client()
        said = await client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=8)
        assert said.usage is not None
        stream = await client.chat.completions.create(
            model="croft", messages=QUESTION, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        usage = chunks[-1].usage
        assert usage is not None
        assert 0 < usage.completion_tokens <= 8
        quotas = await programs.door.quotas.get()
        used = said.usage.total_tokens + usage.total_tokens
        await until(lambda: sum(row.tokens for row in quotas._rows.values()) == used, "both answers to be counted")
        (vector,) = (await client.embeddings.create(model="croft", input="hello", encoding_format="float")).data
        assert len(vector.embedding) == 64

        stream = await client.chat.completions.create(
            model="croft", messages=QUESTION, max_tokens=1900, stream=True, logit_bias={"2": -100}
        )
        await anext(aiter(stream))
        await stream.close()
        await idle_within_two_seconds(engine)


async def test_who_asks_for_a_whole_answer_and_goes_frees_the_engine_too(llama: Path) -> None:
    """AI-13: llama.cpp's server works on an unstreamed answer to its end, so it is never asked for one."""
    engine = Running(llama)
    async with asked_by_programs(engine) as programs:
        client = await programs.client()
        asking = asyncio.ensure_future(
            client.chat.completions.create(
                model="croft", messages=QUESTION, max_tokens=1900, logit_bias={"2": -100}, temperature=0
            )
        )
        while await engine.idle():  # noqa: ASYNC110 - another process is looked at
            await asyncio.sleep(0.02)
        assert not asking.done()
        asking.cancel()
        await idle_within_two_seconds(engine)


async def test_a_whole_answer_is_the_one_that_streams(llama: Path) -> None:
    """Folded here or by llama.cpp itself: the same text, probabilities, end and usage."""
    how: Any = {
        "messages": QUESTION,
        "max_tokens": 12,
        "temperature": 0,
        "seed": 1,
        "logprobs": True,
        "top_logprobs": 2,
    }
    # Letters: of the bytes of one that is not whole yet llama.cpp streams no probabilities.
    how["logit_bias"] = {str(token): 50 for token in range(70, 95)}
    engine = Running(llama)
    async with asked_by_programs(engine) as programs:
        client = await programs.client()
        ours = await client.chat.completions.create(model="croft", **how)
        connector = aiohttp.UnixConnector(str(llama))
        async with (
            aiohttp.ClientSession(connector=connector) as web,
            web.post("http://engine/v1/chat/completions", json={"model": "tiny", **how}) as answer,
        ):
            theirs = await answer.json()
        made = ours.model_dump()
        for name in ("content", "role"):
            assert made["choices"][0]["message"][name] == theirs["choices"][0]["message"][name]
        assert made["choices"][0]["finish_reason"] == theirs["choices"][0]["finish_reason"]
        assert len(made["choices"][0]["logprobs"]["content"]) == len(theirs["choices"][0]["logprobs"]["content"]) == 12
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert made["usage"][name] == theirs["usage"][name]
        assert (made["object"], made["model"]) == (theirs["object"], theirs["model"])
