"""One running front for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.folders import fresh_front
from support.front import Front


@pytest.fixture
async def door() -> AsyncIterator[Front]:
    """The web application, listening."""
    async with fresh_front() as opened:
        yield opened
