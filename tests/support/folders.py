"""Folders with short names, and a front in one."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from support.front import Front, front


@contextmanager
def short_folder() -> Iterator[Path]:
    """Not pytest's: its length would not fit a socket's address."""
    with tempfile.TemporaryDirectory(prefix="croft-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@asynccontextmanager
async def fresh_front(**how: Any) -> AsyncIterator[Front]:
    """A front that nobody used before and nobody will again; ``how`` as :func:`front` takes it."""
    with short_folder() as folder:
        async with front(folder, **how) as made:
            yield made
