"""One running front for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.front import Front, front


@pytest.fixture
async def door() -> AsyncIterator[Front]:
    """The web application, listening."""
    # Not tmp_path: its length would not fit a socket's address.
    folder = Path(tempfile.mkdtemp(prefix="croft-"))
    try:
        async with front(folder) as opened:
            yield opened
    finally:
        shutil.rmtree(folder, ignore_errors=True)
