"""The assistant beside a broker that starts real processes and opens real files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.accounts import throwaway_accounts
from support.broker import Home, home_folder
from support.commands import Room, forget, room_in
from support.proposing import project_in
from support.scripted_engine import OverHttp, ScriptedEngine, scripted_engine
from support.talk import Talk

from appliance.assembly_assistant import build_conversations
from appliance.assistant.conversations import Conversations
from appliance.clock import ManualClock
from appliance.settings import Paths, load
from appliance.store import Store, open_store


@pytest.fixture(scope="module")
def hands() -> Iterator[Home]:
    """One broker for a page of tests."""
    with throwaway_accounts("a") as names, home_folder(names) as made:
        made.start()
        yield made


@pytest.fixture
def project(hands: Home) -> Iterator[Path]:
    """A small project in its workspace."""
    with project_in(hands) as made:
        yield made


@pytest.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[ScriptedEngine]:
    async with scripted_engine(socket=tmp_path / "engine.sock") as running:
        yield running


@pytest.fixture
async def shop(hands: Home, scripted: ScriptedEngine) -> AsyncIterator[Room]:
    """A daemon's worth of everything, with a model that calls tools."""
    async with room_in(hands, engine=OverHttp(scripted)) as made:
        yield made
    forget(hands)


@pytest.fixture
def worker(shop: Room) -> Talk:
    """An operator in it."""
    return Talk(shop.front, shop.cookies["operator"])


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(load(Paths.under(tmp_path)), ManualClock()) as opened:
        yield opened


@pytest.fixture
async def chats(store: Store) -> Conversations:
    return await build_conversations(store).get()
