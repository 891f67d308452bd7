"""A broker for each page or each test, and a daemon's worth of commands beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from support.accounts import throwaway_accounts
from support.broker import Home, home_folder
from support.commands import Room, forget, room_in


@pytest.fixture(scope="session")
def names() -> Iterator[dict[str, str]]:
    with throwaway_accounts("c") as made:
        yield made


@pytest.fixture(scope="module")
def shared_broker(names: dict[str, str]) -> Iterator[Home]:
    """One broker for the examples of a page that do not hurt it."""
    with home_folder(names) as made:
        made.start()
        yield made


@pytest.fixture
def broker(names: dict[str, str]) -> Iterator[Home]:
    """A broker of its own."""
    with home_folder(names) as made:
        made.start()
        yield made


@pytest.fixture
async def room(shared_broker: Home) -> AsyncIterator[Room]:
    async with room_in(shared_broker) as made:
        yield made
    forget(shared_broker)
