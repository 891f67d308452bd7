"""LocalAI as the engine of the process runtime: a stand-in with its outside, over the real llama.cpp, in the real broker's hands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector
from support.accounts import throwaway_accounts
from support.broker import Home, home_folder
from support.engine import engine_room
from support.tiny_model import tiny_model

from appliance.assistant.choice import Choice
from appliance.assistant.localai_child import environment, settings_of

STAND_IN = Path(__file__).parents[1] / "docker/images/engine.py"


@pytest.fixture
def home() -> Iterator[Home]:
    with throwaway_accounts("l") as names, home_folder(names) as made:
        program = made.folder / "local-ai"
        tiny_model(made.folder, 4096).chmod(0o644)
        program.write_text(
            f'#!/bin/sh\nexport TINY_MODEL={made.folder}/tiny.gguf\nexec {sys.executable} -I {STAND_IN} "$@"\n'
        )
        program.chmod(0o755)
        made.configure(paths__local_ai=str(program))
        made.start()
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
    assert {"WEBUI", "AGENTS", "ASSISTANT", "MCP"} <= {
        name.removeprefix("LOCALAI_DISABLE_") for name, value in told.items() if value == "true"
    }
