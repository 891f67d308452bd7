"""The real web application over a scripted engine, and OpenAI's own client in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from support.folders import fresh_front
from support.front import Front
from support.programs import Programs
from support.scripted_engine import OverHttp, ScriptedEngine, scripted_engine

KEY = "sk-the-engine-s-own-key"


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with scripted_engine(model="scripted-7b", key=KEY) as running:
        yield running


@pytest.fixture
async def door(engine: ScriptedEngine) -> AsyncIterator[Front]:
    async with fresh_front(engine=OverHttp(engine)) as opened:
        await opened.member("admin")
        yield opened


@pytest.fixture
async def programs(door: Front) -> AsyncIterator[Programs]:
    async with AsyncExitStack() as stack:
        yield Programs(door, stack)
