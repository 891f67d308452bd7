"""What holds for every test: what the machine around the tests would otherwise decide, and the broker that many folders need.

Rule: a folder whose broker is another makes fixtures of the same names in its own conftest.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from support.accounts import throwaway_accounts
from support.broker import Home, home_folder

# Whoever starts the tests in the background of a shell has Ctrl-C ignored (POSIX 2.11), and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def names() -> Iterator[dict[str, str]]:
    """Accounts for the daemon, the workspace and the others, removed at the end."""
    with throwaway_accounts("t") as made:
        yield made


@pytest.fixture
def broker(names: dict[str, str]) -> Iterator[Home]:
    """A running broker of its own."""
    with home_folder(names) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def shared_broker(names: dict[str, str]) -> Iterator[Home]:
    """One running broker for the examples of a page that do not hurt it."""
    with home_folder(names) as made:
        made.start()
        yield made
