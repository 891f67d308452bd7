"""One whole appliance with an editor open in a browser, for every test of this folder that wants it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser
from support.accounts import throwaway_accounts
from support.appliance import Appliance
from support.browser import chromium, editor_frame, person, sign_in
from support.editor import Seat
from support.waiting import poll


@pytest.fixture(scope="module")
def appliance() -> Iterator[Appliance]:
    with throwaway_accounts("i") as accounts:
        made = Appliance(accounts)
        try:
            yield made.start()
        finally:
            made.close()


@pytest.fixture(scope="module")
def browser(appliance: Appliance) -> Iterator[Browser]:
    with chromium(appliance.root_certificate) as running:
        yield running


@pytest.fixture(scope="module")
def seat(appliance: Appliance, browser: Browser) -> Iterator[Seat]:
    context = person(browser)
    page = context.new_page()
    sign_in(page, appliance.croft("login-link")["url"])
    page.goto(f"{appliance.url}/workspace")
    made = Seat(appliance, page, editor_frame(page))
    poll(made.window_is_there, "the extension has greeted", 40)
    yield made
    context.close()
