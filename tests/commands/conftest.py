"""A broker for each page or each test, and a daemon's worth of commands beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.broker import Home
from support.commands import Room, forget, room_in


@pytest.fixture
async def room(shared_broker: Home) -> AsyncIterator[Room]:
    async with room_in(shared_broker) as made:
        yield made
    forget(shared_broker)
