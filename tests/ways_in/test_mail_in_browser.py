"""From the mail to the session in a real browser: the link in a new tab, the code in the old one, without scripts too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, Page
from support import screens
from support.mailbox import PASSWORD, Mailbox, code_in, link_in, toml
from support.screens import Booth

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

EMAIL = "operator@example.org"


@pytest.fixture
async def booth(folder: Path, box: Mailbox) -> AsyncIterator[Booth]:
    async with AsyncExitStack() as stack:
        browser = await stack.enter_async_context(screens.chromium())
        opened = await stack.enter_async_context(screens.booth(browser, toml(box, folder)))
        await opened.front.mailer.set_password(PASSWORD)
        for role in screens.PEOPLE:
            await screens.member(opened.front, role)
        yield opened


async def asking(booth: Booth, context: BrowserContext) -> Page:
    page = await context.new_page()
    page.set_default_timeout(20_000)
    await page.goto(f"{booth.address}/sign-in")
    await page.fill("input[name=email]", EMAIL)
    await page.get_by_role("button", name="Mail me a link").click()
    await page.wait_for_url("**/sign-in/code")
    return page


async def signed_in(booth: Booth, page: Page) -> bool:
    await page.wait_for_url(f"{booth.address}/")
    return await page.locator("nav.rail, .rail").count() > 0


async def test_link_and_code(booth: Booth, box: Mailbox) -> None:
    """The link works in a tab of the browser that asked; in another it says where to go, and the code works there."""
    context = await booth.browser.new_context(
        viewport={"width": 1280, "height": 800}, locale="en", reduced_motion="reduce"
    )
    page = await asking(booth, context)
    assert await screens.ask_axe(page, booth.axe) == []
    await screens.in_size(page, "code-asked", "phone")
    await screens.in_size(page, "code-asked", "wide")
    link = link_in(await box.letter(0))
    other = await booth.browser.new_context(locale="en", reduced_motion="reduce")
    stranger = await other.new_page()
    await stranger.goto(link)
    await stranger.get_by_role("button", name="Continue").click()
    await stranger.get_by_text("works only in the browser that asked for it").wait_for()
    tab = await context.new_page()
    await tab.goto(link)
    await tab.get_by_role("button", name="Continue").click()
    assert await signed_in(booth, tab)
    await context.close()
    await other.close()


@pytest.mark.parametrize("scripts", [True, False])
async def test_the_code_typed_where_one_asked(booth: Booth, box: Mailbox, scripts: bool) -> None:
    context = await booth.browser.new_context(java_script_enabled=scripts, locale="en", reduced_motion="reduce")
    page = await asking(booth, context)
    await page.fill("input[name=code]", "WRONG-ONE")
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_text("This code does not work").wait_for()
    assert await page.input_value("input[name=code]") == "WRONG-ONE", "nothing typed is lost"
    await page.fill("input[name=code]", code_in(await box.letter(0)).lower())
    await page.get_by_role("button", name="Sign in").click()
    assert await signed_in(booth, page)
    await context.close()


async def test_inviting_and_removing(booth: Booth, box: Mailbox) -> None:
    """An admin invites; the guest accepts what came by mail; the admin finds and removes them, asked by name first."""
    context = await booth.browser.new_context(
        viewport={"width": 1280, "height": 800}, locale="en", reduced_motion="reduce"
    )
    cookie = {
        "name": screens.COOKIE,
        "value": await screens.sign_in(booth.front, "admin"),
        "url": booth.address,
        "secure": True,
    }
    await context.add_cookies([cookie | {"httpOnly": True, "sameSite": "Strict"}])  # type: ignore[arg-type]
    page = await context.new_page()
    await page.goto(f"{booth.address}/people/invitations")
    await page.fill("input[name=email]", "guest@example.org")
    await page.get_by_role("button", name="Make the invitation").click()
    await page.get_by_text("is ready").wait_for()
    assert await screens.ask_axe(page, booth.axe) == []
    await screens.in_size(page, "invitation-made", "phone")
    await screens.in_size(page, "invitation-made", "wide")
    elsewhere = await booth.browser.new_context(locale="en", reduced_motion="reduce")
    guest = await elsewhere.new_page()
    await guest.goto(link_in(await box.letter(0)))
    await guest.fill("input[name=name]", "Zoë")
    await guest.get_by_role("button", name="Join").click()
    await guest.wait_for_url("**/account/start")
    await page.goto(f"{booth.address}/people")
    await page.fill("input[data-filter=members]", "zoë")
    assert await page.locator("#members tbody tr:visible").count() == 1
    await page.get_by_role("link", name="Zoë", exact=True).click()
    await page.get_by_role("button", name="Remove…").click()
    dialog = page.locator("#confirm")
    await dialog.get_by_text("Remove Zoë?").wait_for()
    await screens.in_theme(page, "light")
    await dialog.get_by_role("button", name="Remove Zoë").click()
    await page.wait_for_url("**/people?done=remove")
    assert "guest@example.org" not in await page.locator("#members").inner_text()
    await guest.goto(f"{booth.address}/account")
    assert "/sign-in" in guest.url, "signed out at once"
    await context.close()
    await elsewhere.close()
