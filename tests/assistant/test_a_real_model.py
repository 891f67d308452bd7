"""A whole chat with a real llama.cpp over a tiny model: its words are noise, everything around them is as with a large one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.accounts import throwaway_accounts
from support.broker import Home, home_folder
from support.engine import EngineRoom, engine_room
from support.front import front
from support.talk import Talk

BRIEF = 120  # tokens


def brief(folder: Path) -> None:
    """Answers end soon: a busy machine says a word of noise in its own time."""
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/croft.toml").write_text(f"[ai]\nanswer_tokens = {BRIEF}\n")


@pytest.fixture(scope="module")
def real_home() -> Iterator[Home]:
    with throwaway_accounts("m") as names, home_folder(names) as made:
        made.start()
        yield made


@pytest.fixture
async def real(real_home: Home) -> AsyncIterator[EngineRoom]:
    async with engine_room(real_home) as made:
        made.choose()
        yield made


async def test_a_whole_chat(real: EngineRoom, tmp_path: Path) -> None:
    """The engine starts with the question and says so; words come; tokens are the engine's own count."""
    brief(tmp_path / "front")
    async with front(tmp_path / "front", engine=real.engine) as door:
        talk = Talk(door, (await door.sign_in_as("operator"))[1])
        conversation = await talk.begin()
        async with talk.reading(conversation) as reader:
            answer = await talk.ask(conversation, "hello")
            await reader.until(lambda now: any(s["phase"] == "engine" for s in now.named("status")), "it starts", 30)
            assert await reader.over(answer, 60) == "done", reader.usage
        usage = reader.usage[answer]
        assert usage["context"] == 4096
        assert usage["prompt_tokens"] > 20
        assert 0 < usage["completion_tokens"] <= BRIEF
        told = (await talk.messages(conversation))[-1]
        assert (told["state"], told["model"]) == ("done", "tiny")
        assert await real.engine.idle()


async def test_stop_is_seen_at_the_engine(real: EngineRoom, tmp_path: Path) -> None:
    """AI-13. Noise may end by itself at any moment: asked until an answer is long enough to be stopped."""
    async with front(tmp_path / "front", engine=real.engine) as door:
        talk = Talk(door, (await door.sign_in_as("operator"))[1])
        for attempt in range(20):
            if await stopped_in_the_middle(talk, real, f"run to the file and print it {attempt} "):
                return
    pytest.fail("no answer was long enough to be stopped")


async def stopped_in_the_middle(talk: Talk, real: EngineRoom, question: str) -> bool:
    conversation = await talk.begin()
    async with talk.reading(conversation) as reader:
        answer = await talk.ask(conversation, question * 60)
        await reader.until(lambda now: now.html(answer) or now.states.get(answer, "running") != "running", "a word", 60)
        begin = time.monotonic()
        done = await talk.stop(conversation)
        if not done["stopped"]:
            return False
        assert time.monotonic() - begin < 2
        assert done["freed"] is True
        assert await real.engine.idle()
        return await reader.over(answer) == "stopped"


async def test_tools_with_a_model_that_cannot(real: EngineRoom, tmp_path: Path) -> None:
    """Noise under a grammar is a choice in JSON: whatever it chooses, the answer ends and nothing breaks."""
    brief(tmp_path / "front")
    async with front(tmp_path / "front", engine=real.engine) as door:
        talk = Talk(door, (await door.sign_in_as("operator"))[1])
        conversation = await talk.begin()
        async with talk.reading(conversation) as reader:
            answer = await talk.ask(conversation, "hello", tools=True)
            await reader.until(
                lambda now: (
                    now.states.get(answer, "running") != "running"
                    or any(s["phase"] == "deciding" for s in now.named("status"))
                ),
                "an answer or a proposal",
                90,
            )
        assert reader.states[answer] in ("done", "running"), reader.usage
        await talk.stop(conversation)
        assert await real.engine.idle()
