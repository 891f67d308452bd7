"""One broker, one engine and one browser for the pages of the assistant."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from support import screens
from support.appliance import free_port
from support.broker import Home
from support.chats import Place, place_in


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(shared_broker: Home) -> AsyncIterator[Place]:
    """The whole of it, for all tests of a page; each begins conversations of its own."""
    shared_broker.configure(proxy__https_port=free_port())
    async with screens.chromium() as chromium, place_in(shared_broker, chromium) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nothing_wrong(place: Place) -> AsyncIterator[None]:
    """WEB-3, WEB-4: whatever a test does, no page breaks its policy, fails or asks anything of the outside."""
    place.booth.told()
    yield
    await place.leave()
    # What a test made the server refuse, the browser reports as a resource.
    assert [fault for fault in place.booth.told() if not fault.startswith("Failed to load resource")] == []
