"""The real web application over a scripted engine, and OpenAI's own client in front of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.front import Front, front
from support.programs import Programs
from support.scripted_engine import OverHttp, ScriptedEngine, scripted_engine

KEY = "sk-the-engine-s-own-key"


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with scripted_engine(model="scripted-7b", key=KEY) as running:
        yield running


@pytest.fixture
async def door(engine: ScriptedEngine) -> AsyncIterator[Front]:
    folder = Path(tempfile.mkdtemp(prefix="croft-"))  # not tmp_path: its length would not fit a socket's address
    try:
        async with front(folder, engine=OverHttp(engine)) as opened:
            await opened.member("admin")
            yield opened
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def programs(door: Front) -> AsyncIterator[Programs]:
    async with AsyncExitStack() as stack:
        yield Programs(door, stack)
