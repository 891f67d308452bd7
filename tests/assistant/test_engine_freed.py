"""Freeing the engine from what nobody waits for, while somebody else asks."""

from __future__ import annotations

import asyncio
import contextlib
import math
from pathlib import Path

import pytest

from appliance.assistant import choice, local_engine
from appliance.assistant.choice import Choice
from appliance.assistant.engine import EngineState
from appliance.assistant.local_engine import LocalEngine, Look, Place


class Runs:
    """A service that runs, and works on for whoever has gone."""

    def __init__(self) -> None:
        self.runs = 1
        self.answers = asyncio.Event()
        self.answers.set()

    def look(self) -> Look:
        return Look(EngineState.READY, since=math.inf)

    async def ready(self, seconds: float) -> None:
        await self.answers.wait()

    async def renewed(self, seconds: float) -> None:
        self.runs += 1

    async def working(self) -> bool:
        return True

    def opened(self) -> None:
        pass

    def closed(self) -> None:
        pass


@pytest.fixture
def models(tmp_path: Path) -> Path:
    choice.write(tmp_path, Choice("m", "m.gguf", 512))
    (tmp_path / "m.gguf").write_bytes(b"GGUF and more")
    return tmp_path


@pytest.mark.parametrize("moment", ["before it is told", "while it is told"])
async def test_nobody_is_served_by_an_engine_that_is_told_to_let_go(
    models: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """AI-13: it lets go of all it works on, so whoever asks meanwhile waits for it to be over, and keeps their answer."""
    monkeypatch.setattr(local_engine, "FREE_SECONDS", 0.0)
    service, reached, on = Runs(), asyncio.Event(), asyncio.Event()
    gone = served = over = False

    async def place() -> Place:
        if gone and moment == "before it is told" and not reached.is_set():
            reached.set()
            await on.wait()
        return Place("http://engine/v1")

    async def ask_idle(place: Place, model: str) -> None:
        return None

    async def let_go(place: Place, model: str) -> bool:
        nonlocal over
        reached.set()
        await on.wait()
        assert not served
        over = True
        return False

    engine = LocalEngine(service, models, place, ask_idle, let_go)
    with contextlib.suppress(ConnectionError):
        async with engine.hold("a question"):
            gone = True
            raise ConnectionError
    await asyncio.wait_for(reached.wait(), 10)

    async def ask() -> None:
        nonlocal served
        async with engine.hold("the next question"):
            served = True
            assert over
            assert service.runs == 2

    asking = asyncio.create_task(ask())
    await asyncio.wait({asking}, timeout=0.3)
    on.set()
    await asyncio.wait_for(asking, 10)


async def test_whoever_is_served_by_then_keeps_their_engine(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AI-13: they came while it was asked whether it still works."""
    monkeypatch.setattr(local_engine, "FREE_SECONDS", 0.3)
    service, asked, told = Runs(), asyncio.Event(), []

    async def place() -> Place:
        return Place("http://engine/v1")

    async def ask_idle(place: Place, model: str) -> None:
        asked.set()
        await asyncio.Event().wait()

    async def let_go(place: Place, model: str) -> bool:
        told.append(model)
        return True

    engine = LocalEngine(service, models, place, ask_idle, let_go)
    with contextlib.suppress(ConnectionError):
        async with engine.hold("a question"):
            service.answers.clear()
            raise ConnectionError
    await asyncio.wait_for(asked.wait(), 10)

    async def ask() -> None:
        async with engine.hold("the next question"):
            await asyncio.sleep(0.1)
            assert (told, service.runs) == ([], 1)

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0.6)  # by then it was given up
    service.answers.set()
    await asyncio.wait_for(asking, 10)
