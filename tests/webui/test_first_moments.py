"""The first moments of a start: what is not there yet is waited for, and never seen half-built."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from support.front import Front, front


@pytest_asyncio.fixture
async def door(tmp_path: Path) -> AsyncIterator[Front]:
    async with front(tmp_path) as opened:
        yield opened


async def test_people_wait_until_all_is_there_and_the_doors_are_open_meanwhile(door: Front) -> None:
    """F2: whoever is signed in gets the answer they would have got later; a stranger is refused at once (POL-2, AUTH-11)."""
    _, cookie = await door.sign_in_as("operator")
    door.started.clear()
    asked = asyncio.ensure_future(door.ask("GET", "/api/commands", cookie).__aenter__())
    for path, status in (("/healthz", 200), ("/sign-in", 200), ("/api/commands", 401)):
        async with door.ask("GET", path) as response:
            assert response.status == status, path
    assert not asked.done()
    door.started.set()
    response = await asyncio.wait_for(asked, 10)
    assert (response.status, await response.json()) == (200, {"runs": []})
    response.close()
