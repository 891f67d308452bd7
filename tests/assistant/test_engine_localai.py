"""LocalAI as the engine of the process runtime: a stand-in with its outside, over the real llama.cpp, in the real broker's hands."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector
from support.accounts import throwaway_accounts
from support.broker import Home, home_folder
from support.engine import EngineRoom, engine_room
from support.tiny_model import tiny_model
from support.waiting import until

from appliance.assistant.choice import Choice
from appliance.assistant.engine import Upstream
from appliance.assistant.localai_child import environment, settings_of

STAND_IN = Path(__file__).parents[1] / "docker/images/engine.py"
OUTSIDE = Path(__file__).parents[1] / "support/localai.py"


@contextmanager
def home_with(program: Path, **environment: str) -> Iterator[Home]:
    """A home whose `local-ai` is ``program``."""
    with throwaway_accounts("l") as names, home_folder(names) as made:
        command = made.folder / "local-ai"
        tiny_model(made.folder, 4096).chmod(0o644)
        told = {"TINY_MODEL": f"{made.folder}/tiny.gguf"} | environment
        told_words = " ".join(f"{name}={value}" for name, value in told.items())
        command.write_text(f'#!/bin/sh\nexport {told_words}\nexec {sys.executable} -I {program} "$@"\n')
        command.chmod(0o755)
        made.configure(paths__local_ai=str(command))
        made.start()
        yield made


@pytest.fixture
def home() -> Iterator[Home]:
    with home_with(STAND_IN) as made:
        yield made


@pytest.fixture
def manner() -> str:
    return "hears"


@pytest.fixture
def other(manner: str) -> Iterator[Home]:
    """LocalAI's outside without llama.cpp in it: what it does when a client goes is the test's choice."""
    with home_with(OUTSIDE, LOCALAI_MANNER=manner) as made:
        yield made


async def test_it_answers_on_the_same_socket_and_only_there(home: Home) -> None:
    """NET-2, NET-3: what it opens besides is in a network that nobody else is in."""
    async with engine_room(home) as room:
        room.choose("chosen")
        async with room.engine.hold("a question", wait=60) as upstream:
            assert upstream.model == "chosen"
            question = {"model": upstream.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4000}
            async with ClientSession(connector=UnixConnector(str(upstream.socket))) as client:
                asked = question | {"stream": True, "ignore_eos": True}
                async with client.post(f"{upstream.base}/chat/completions", json=asked) as answer:
                    assert (await answer.content.readline()).startswith(b"data: ")
                    await room.until_idle(False)
                await room.until_idle(True)  # it noticed that nobody waits any more (AI-13)
            assert not home.switching or interfaces(room.pid) == ["lo"]
            assert "LocalAI serves chosen" in "".join(line.text for line in await room.services.logs("ai"))


@pytest.mark.parametrize("manner", ["hears", "deaf", "waits"])
async def test_whoever_goes_frees_it_whatever_localai_makes_of_that(other: Home, manner: str) -> None:
    """AI-13: versions differ in whether a closed connection ends the work of the backend. One that goes on is ended through
    /backend/shutdown, which LocalAI answers at once where it has itself noticed that nobody waits, and late where not; then the
    engine is killed. LocalAI says of llama.cpp's backend nowhere whether it works, so its processor time tells."""
    async with engine_room(other) as room:
        room.choose("chosen")
        await ask_and_go(room)
        pid, begun = room.pid, time.monotonic()
        while at_work(room):
            assert time.monotonic() - begun < 2
            await asyncio.sleep(0.02)
        await until(lambda: room.engine.status().holds == 0, "nobody holds it")
        if manner != "waits":
            await asyncio.sleep(1.0)  # it stays as it is
            assert room.pid == pid
        async with room.engine.hold("the next question", wait=60) as upstream:
            assert [line async for line in chat(upstream, 3)][-1] == b"data: [DONE]\n"
        said = "".join(line.text for line in await room.services.logs("ai"))
        assert ("model stopped" in said) is (manner == "deaf")
        assert said.count("model loaded") == (1 if manner == "hears" else 2)
        assert (room.pid == pid) is (manner != "waits")


async def ask_and_go(room: EngineRoom) -> None:
    """A question whose answer nobody waits for to its end."""
    with contextlib.suppress(Gone):
        async with room.engine.hold("a question", wait=60) as upstream, aclosing(chat(upstream, 5000)) as lines:
            assert (await anext(lines)).startswith(b"data: ")
            await room.until_idle(False)
            assert at_work(room) == 1
            raise Gone


class Gone(Exception):
    """Somebody's connection ended."""


async def chat(upstream: Upstream, tokens: int) -> AsyncGenerator[bytes, None]:
    question = {"model": upstream.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens}
    async with (
        ClientSession(connector=UnixConnector(str(upstream.socket))) as client,
        client.post(f"{upstream.base}/chat/completions", json=question | {"stream": True}) as answer,
    ):
        async for line in answer.content:
            if line.strip():
                yield line


def at_work(room: EngineRoom) -> int:
    """How many of the processes that stand for a model at work there are."""
    mark, found = f"at work on {room.models}".encode(), 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += mark in path.read_bytes()
    return found


def interfaces(pid: int | None) -> list[str]:
    rows = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
    return [row.split(":")[0].strip() for row in rows if ":" in row]


def test_what_localai_is_told_of_the_model() -> None:
    """A model's file that nothing names is not served, and every extra that listens or fetches is off (NET-3)."""
    assert settings_of(Choice("m", "m.gguf", 2048)) == {
        "name": "m",
        "backend": "cpu-llama-cpp",
        "context_size": 2048,
        "embeddings": True,
        "parameters": {"model": "m.gguf"},
    }
    told = environment(Path("/models"), "m", Path("/scratch/models.yaml"), 4711)
    assert told["LOCALAI_ADDRESS"] == "127.0.0.1:4711"
    assert {"WEBUI", "AGENTS", "ASSISTANT", "MCP", "GALLERY_ENDPOINT"} <= {
        name.removeprefix("LOCALAI_DISABLE_") for name, value in told.items() if value == "true"
    }
    for written in ("CONFIG_DIR", "DATA_PATH", "GENERATED_CONTENT_PATH", "UPLOAD_PATH"):
        assert told[f"LOCALAI_{written}"] == "/scratch", "it writes nowhere else"
    assert told["LOCALAI_AUTOLOAD_GALLERIES"] == "false"


def test_the_container_is_told_the_same() -> None:
    """NET-3: but for the gallery itself, out of which the daemon has models set up."""
    text = (Path(__file__).resolve().parents[2] / "compose/compose.yaml").read_text()
    container = dict(re.findall(r'(?m)^      (LOCALAI_\w+): "?([^"\s]*)', text))
    process = environment(Path("/models"), "m", Path("/tmp/models.yaml"), 8080)
    same = [name for name in process if re.search("DISABLE|AUTOLOAD_GALLERIES|ACTIVE|WARM", name)]
    own = {"LOCALAI_DISABLE_GALLERY_ENDPOINT"}
    assert {name: container.get(name) for name in same if name not in own} == {
        name: process[name] for name in same if name not in own
    }
    assert container["LOCALAI_DATA_PATH"].startswith("/tmp/"), "all else is read-only"
