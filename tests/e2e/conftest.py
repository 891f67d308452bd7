"""One whole appliance for the journeys of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser
from support.accounts import throwaway_accounts
from support.appliance import Appliance
from support.browser import chromium


@pytest.fixture(scope="module")
def appliance() -> Iterator[Appliance]:
    with throwaway_accounts("e") as accounts:
        made = Appliance(accounts)
        try:
            yield made.start()
        finally:
            made.close()


@pytest.fixture(scope="module")
def browser(appliance: Appliance) -> Iterator[Browser]:
    with chromium(appliance.root_certificate) as running:
        yield running
