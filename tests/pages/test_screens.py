"""Bad days, the editor's host and the widths between, on the preview: what the real application shows seldom or not at all.

Every page as it usually is: test_every_page.py. The pictures go to tests/.artifacts/screens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

# Buttons that something else lies upon: a person would press the other thing.
COVERED = """() => [...document.querySelectorAll('main button, main a.button')].filter((item) => {
  const box = item.getBoundingClientRect(), x = box.left + box.width / 2, y = box.top + box.height / 2;
  if (!box.width || x < 0 || y < 0 || x > innerWidth || y > innerHeight) return false;
  const top = document.elementFromPoint(x, y);
  return top && !item.contains(top) && !top.contains(item) && top.closest('main');
}).map((item) => `covered: ${item.textContent.trim()}`)"""
SCREENS = Path(__file__).parents[1] / ".artifacts" / "screens"
WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
IDE_PAGES = {"wake": "/wake", "broken": "/broken", "refused": "/editor"}
TROUBLED = {"home-trouble": "/", "machine-trouble": "/machine"}

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]


@pytest.mark.parametrize("lang", ["en", "ar"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", ["wide", "phone"])
async def test_bad_days_hold_up(
    browser: Browser, stage: Any, watch: Any, axe: str, lang: str, theme: str, size: str
) -> None:
    """WEB-3, WEB-4: no violation, no script from data, nothing from outside; axe finds nothing; no page is too wide."""
    phone = size == "phone"
    # axe takes most of the time: half of the combinations hold every theme, language and size at least once.
    axe = axe if (theme == "dark") == (lang == "ar") else ""
    context = await watch.context(
        browser,
        stage.base,
        stage.ide,
        viewport=PHONE if phone else WIDE,
        has_touch=phone,
        is_mobile=phone,
        locale=lang,
        reduced_motion="reduce",
    )
    page = await context.new_page()
    try:
        tour = [(name, stage.ide + path) for name, path in IDE_PAGES.items()]
        tour += [(name, stage.base + path) for name, path in TROUBLED.items()]
        faults = []
        for name, address in tour:
            if name in TROUBLED:
                stage.trouble()
            faults += await look(page, f"{address}?lang={lang}&theme={theme}", f"{name}.{lang}.{theme}.{size}", axe)
        assert faults == []
    finally:
        stage.push("drop", None)
        await context.close()


@pytest.mark.parametrize("width", [320, 560, 800, 1040, 1280])
async def test_widths_between(page: Page, stage: Any, width: int) -> None:
    """Reflow down to 320 px (a 1280 px window at 400 %; WCAG 1.4.10) and at every step of the frame."""
    await page.set_viewport_size({"width": width, "height": 700})
    stage.trouble()
    faults = []
    for path in ("/", "/machine", "/machine/logs/ide", "/sessions", "/workspace", "/sign-in", "/sign-in/setup"):
        name = path.strip("/").replace("/", "-") or "home"
        faults += await look(page, f"{stage.base}{path}?lang=en", f"{name}.{width}", "")
    assert faults == []


async def look(page: Page, address: str, name: str, axe: str) -> list[str]:
    """Photograph one page and say what is wrong with it."""
    await page.goto(address, wait_until="load")
    if "/logs" in address:
        await page.wait_for_selector(".live[data-live=on]")
    SCREENS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=SCREENS / f"{name}.png")
    faults = ["a script from data ran"] if await page.evaluate("window.pwned") else []
    overflow = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if overflow > 0:
        faults.append(f"{overflow} px too wide")
    faults += await page.evaluate(COVERED)
    if "phone" in name:
        faults += await small_targets(page)
    if not axe:
        return [f"{name}: {fault}" for fault in faults]
    await page.evaluate(axe)
    found = await page.evaluate("axe.run({resultTypes: ['violations'], iframes: false})")
    faults += [f"{rule['id']}: {rule['nodes'][0]['html'][:160]}" for rule in found["violations"]]
    return [f"{name}: {fault}" for fault in faults]


async def small_targets(page: Page) -> list[str]:
    """Controls below 44 px on a phone; links within text are left out."""
    return await page.evaluate("""() =>
      [...document.querySelectorAll('.button, .place, .segments button, .input, .tabs a')]
        .filter((e) => e.checkVisibility()).map((e) => [e.getBoundingClientRect(), e.outerHTML.slice(0, 120)])
        .filter(([box]) => box.height < 43.5 || box.width < 43.5)
        .map(([box, html]) => `${box.width}x${box.height} ${html}`)""")
