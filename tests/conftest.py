"""What holds for every test: what the machine around the tests would otherwise decide, and the broker and the whole appliance that
many folders need.

Rule: a folder whose broker is another makes fixtures of the same names in its own conftest.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from support.accounts import throwaway_accounts
from support.broker import Home, home_folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from support.appliance import Appliance
    from support.editor import Seat

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


@pytest.fixture(scope="module")
def appliance_settings() -> str:
    """What a page of tests adds to the settings of its appliance (TOML)."""
    return ""


@pytest.fixture(scope="module")
def appliance(appliance_settings: str) -> Iterator[Appliance]:
    """A whole appliance with real Caddy and code-server, for a page of tests."""
    from support.appliance import whole_appliance

    with whole_appliance(appliance_settings) as made:
        yield made


@pytest.fixture(scope="module")
def browser(appliance: Appliance) -> Iterator[Browser]:
    """A real Chromium that trusts that appliance."""
    from support.browser import chromium

    with chromium(appliance.root_certificate) as running:
        yield running


@pytest.fixture(scope="module")
def seat(appliance: Appliance, browser: Browser) -> Iterator[Seat]:
    """A person before the workspace page of it, the editor open."""
    from support.editor import seat_at

    with seat_at(appliance, browser) as made:
        yield made
