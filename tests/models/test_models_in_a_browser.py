"""The page of models in a real browser: a download is begun, watched without reloading by hand, paused, and gone on with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Page, expect
from support import screens
from support.source import Source, Way

pytestmark = [pytest.mark.browser, pytest.mark.timeout(90)]


@pytest.fixture
async def booth(trusted: Source) -> AsyncIterator[screens.Booth]:
    async with screens.chromium() as browser, screens.booth(browser, f'[ai]\nmirror = "{trusted.base}"\n') as made:
        yield made


async def test_a_download_from_an_address(booth: screens.Booth, trusted: Source) -> None:
    trusted.usual = Way(rate=1 << 20)
    page: Page = await booth.visit(screens.Screen("models", "/machine/models"), "en")
    await page.get_by_label("Address").fill(trusted.url)
    await page.get_by_label("SHA-256").fill(trusted.sha256)
    await page.get_by_label("Name", exact=True).fill("tiny")
    await page.get_by_role("button", name="Download", exact=True).last.click()
    await page.wait_for_url("**/machine/models")
    bar = page.locator("[data-job] progress").first
    await expect(page.locator("[data-field=phase]").first).to_have_text("Downloading")
    first = await bar.evaluate("bar => bar.value")
    await page.wait_for_function("before => document.querySelector('[data-job] progress')?.value > before", arg=first)
    await expect(page.locator("[data-field=pace]").first).to_contain_text("a second")
    await page.get_by_role("button", name="Pause tiny").click()
    await expect(page.get_by_text("Paused")).to_be_visible()
    trusted.usual = Way()
    await page.get_by_role("button", name="Resume tiny").click()
    await expect(page.get_by_text("The assistant uses tiny.")).to_be_visible(timeout=30_000)
    await expect(page.locator("tr[data-model=tiny] .pill")).to_have_text("In use")
    await page.wait_for_load_state()
    await page.get_by_role("button", name="Delete tiny").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("Delete tiny?")
    await dialog.get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("The assistant has no model yet.")).to_be_visible()
    assert booth.told() == []


async def test_what_was_typed_is_kept_when_it_is_refused(booth: screens.Booth) -> None:
    page = await booth.visit(screens.Screen("models", "/machine/models"), "en")
    await page.get_by_label("Address").fill("https://10.1.2.3/model.gguf")
    await page.get_by_label("Name", exact=True).fill("mine")
    await page.get_by_role("button", name="Download", exact=True).last.click()
    await expect(page.get_by_role("alert")).to_contain_text("inside the own network")
    await expect(page.get_by_label("Name", exact=True)).to_have_value("mine")
