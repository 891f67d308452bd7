"""A front with a real mail server behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from support.folders import short_folder
from support.front import Front, front
from support.mailbox import PASSWORD, Mailbox, mailbox, toml
from support.waiting import until


@pytest.fixture(autouse=True)
async def settled() -> AsyncIterator[None]:
    """Let connections that were given up close before the event loop is gone."""
    yield
    me = psutil.Process()
    await until(
        lambda: not [one for one in me.net_connections("tcp4") if one.fd > 0 and one.raddr], "closed connections"
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        (made / "etc").mkdir()
        yield made


@pytest.fixture
def box(folder: Path) -> Iterator[Mailbox]:
    with mailbox(folder) as opened:
        yield opened


@pytest.fixture
async def door(folder: Path, box: Mailbox) -> AsyncIterator[Front]:
    """The web application with mail set up."""
    (folder / "etc/croft.toml").write_text(toml(box, folder))
    async with front(folder) as opened:
        await opened.mailer.set_password(PASSWORD)
        yield opened


@pytest.fixture
async def quiet(folder: Path) -> AsyncIterator[Front]:
    """The web application without mail."""
    async with front(folder) as opened:
        yield opened
