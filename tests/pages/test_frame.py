"""What surrounds every page: the palette, the keys and their help, the phone's bar, and installing (UI.md, Frame)."""

from __future__ import annotations

import re
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect
from support import screens
from support.screens import Booth, Screen

from webui import filters, manifest, palette
from webui.assets import Assets
from webui.i18n import Catalogue, Translator

WEBUI = Path(__file__).parents[2] / "webui"
CATALOGUE = Catalogue.load(WEBUI / "locale", strict=True)
HOME = Screen("home", "/")

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]
in_module = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def booth() -> AsyncIterator[Booth]:
    async with screens.chromium() as browser, screens.booth(browser) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def home(booth: Booth) -> AsyncIterator[Page]:
    page = await booth.visit(HOME, "en")
    yield page
    await page.close()
    assert booth.told() == []


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_palette_reaches_every_page_and_action_of_a_role(role: str) -> None:
    """Nothing that a role may not open is offered, and everything it may open is, once."""
    t = Translator(CATALOGUE, "en")
    everywhere = {
        p.path for group in (filters.NAVIGATION, *filters.SECTIONS.values()) for p in group if role in p.roles
    }
    pages = palette.pages(filters.NAVIGATION, filters.SECTIONS, lambda name: name)
    assert sorted(entry["href"] for entry in pages(t, role)) == sorted(everywhere)
    found = palette.entries((pages, palette.services))(t, role)
    actions = {(entry["service"], entry["action"]) for entry in found if "service" in entry}
    offered = len(palette.SERVICE_NAMES) * len(palette.SERVICE_ACTIONS) if role != "viewer" else 0
    assert len(actions) == offered


def test_every_key_is_given_once() -> None:
    pressed = [row.press for row in palette.shortcuts(filters.NAVIGATION)("admin")]
    assert len(pressed) == len(set(pressed))
    assert [press for press in pressed if re.fullmatch(r"Mod\+K|/|\?|G [A-Z]", press)] == pressed


@in_module
async def test_the_help_names_keys_that_work(home: Page, booth: Booth) -> None:
    await home.keyboard.press("Shift+?")
    rows = home.locator("#keys [data-press]")
    paths = await rows.evaluate_all("rows => rows.map((row) => [row.dataset.press, row.dataset.does])")
    await home.goto(f"{booth.address}/sessions")
    for press, path in paths:
        if press.startswith("G "):
            await home.keyboard.press("g")
            await home.keyboard.press(press[-1].lower())
            await home.wait_for_url(f"{booth.address}{path}")
            await home.goto(f"{booth.address}/sessions")
    await home.keyboard.press("Control+k")
    await expect(home.locator("#palette")).to_be_visible()


@in_module
async def test_keys_leave_fields_alone(home: Page, booth: Booth) -> None:
    """Typing "g m ?" into a field types it."""
    await home.goto(f"{booth.address}/machine/logs/ide")
    await home.keyboard.press("/")
    field = home.locator("#log-find")
    await expect(field).to_be_focused()
    await home.keyboard.type("gm?/")
    await expect(field).to_have_value("gm?/")
    await expect(home.locator("#keys")).to_be_hidden()
    assert home.url.endswith("/machine/logs/ide")


@in_module
async def test_keys_of_the_editor_are_its_own(home: Page, booth: Booth) -> None:
    """While the editor's frame has the focus, none of ours does anything."""
    await home.goto(f"{booth.address}/workspace")
    await home.locator("iframe").focus()
    await home.keyboard.press("Control+k")
    await home.keyboard.press("?")
    await expect(home.locator("#palette")).to_be_hidden()
    await expect(home.locator("#keys")).to_be_hidden()


@in_module
async def test_palette_finds_pages_by_their_place_and_goes_there(home: Page) -> None:
    await home.keyboard.press("Control+k")
    await home.get_by_role("combobox").fill("sessions")
    await expect(home.get_by_role("option").first).to_contain_text("Sessions")
    await home.keyboard.press("Enter")
    await home.wait_for_url("**/sessions")


@in_module
async def test_phone_bar_has_five_places(booth: Booth) -> None:
    """Four pages and More, whose sheet holds every other page and the way to what is one's own."""
    page = await booth.visit(HOME, "ar")
    try:
        await page.set_viewport_size(screens.SIZES["phone"])
        shown = await page.locator(".rail .place").evaluate_all("all => all.filter((e) => e.checkVisibility()).length")
        rail = filters.places("admin")
        assert shown == min(4, len(rail)) + 1
        await page.locator(".person > summary").click()
        for place in rail[4:]:
            await expect(page.locator(f".menu a[href='{place.path}']")).to_be_visible()
        await page.screenshot(path=screens.PICTURES / "more.ar.light.phone.png")
    finally:
        await page.close()


@in_module
@pytest.mark.parametrize("lang", ["en", "ar"])
async def test_croft_can_be_installed(booth: Booth, lang: str) -> None:
    """Chromium finds nothing missing in the manifest, which speaks the reader's language; no service worker (WEB-18)."""
    page = await booth.visit(HOME, lang)
    try:
        session = await page.context.new_cdp_session(page)
        found = await session.send("Page.getAppManifest")
        assert found["errors"] == []
        assert f'"lang": "{lang}"' in found["data"]
        wrong = await session.send("Page.getInstallabilityErrors")
        assert [one["errorId"] for one in wrong["installabilityErrors"] if one["errorId"] != "in-incognito"] == []
        assert await page.evaluate("navigator.serviceWorker.getRegistrations().then((all) => all.length)") == 0
    finally:
        await page.close()


def test_icons_have_the_sizes_they_claim() -> None:
    """A PNG says its size in its first chunk (PNG 11.2.2)."""
    for name, sizes, _ in (*manifest.ICONS, ("icons/180.png", "180x180", "")):
        width, height = struct.unpack(">II", (WEBUI / "static" / name).read_bytes()[16:24])
        assert f"{width}x{height}" == sizes


def test_colours_outside_the_sheet_are_its_own() -> None:
    tokens = Assets(WEBUI / "static").text("tokens.css")
    ground = f"--ground: light-dark({manifest.GROUND['light']}, {manifest.GROUND['dark']});"
    assert ground in tokens
    assert f"--accent: light-dark({manifest.ACCENT}," in tokens


def test_what_every_page_wears_comes_in_one_sheet() -> None:
    """LOAD: a request costs a browser more than the bytes do; what is in the sheet is every line of those it names."""
    assets = Assets(WEBUI / "static")
    named = re.findall(r'@import "([a-z]+\.css)";', (WEBUI / "static/page.css").read_text("utf-8"))
    assert named == ["tokens.css", "base.css", "frame.css", "pieces.css", "rooms.css"]
    whole = assets.text("page.css")
    assert all(assets.text(name) in whole for name in named)
    assert "@import" not in whole
    shared = re.findall(
        r'rel="stylesheet" href="{{ asset\(([^)]+)\)', (WEBUI / "templates/document.html").read_text("utf-8")
    )
    assert shared == ["'page.css'"]


def test_what_every_page_runs_comes_in_one_script() -> None:
    """LOAD: the same of scripts; nobody gets a second copy of what is in it, with a state of its own."""
    folder = WEBUI / "static/js"
    assets = Assets(WEBUI / "static")
    named = re.findall(r'^export \* from "\./([a-z]+\.js)";$', (folder / "app.js").read_text("utf-8"), re.MULTILINE)
    assert named == ["text.js", "page.js", "live.js", "palette.js"]
    whole = assets.text("js/app.js")
    assert not re.search(r"^(import|export \*)", whole, re.MULTILINE)
    for name in named:
        own = re.sub(r"^import .*\n", "", (folder / name).read_text("utf-8"), flags=re.MULTILINE)
        assert own in whole
        with pytest.raises(KeyError):
            assets(f"js/{name}")
    for path in folder.glob("*.js"):
        if path.name not in named:
            asked = re.findall(r'(?:from |import\()"\./([a-z_]+\.js)"', assets.text(f"js/{path.name}"))
            assert all(assets(f"js/{name}") for name in asked)
    assert assets.imported("js/services.js") == ["js/app.js"]


@in_module
async def test_pages_bring_their_icons(home: Page) -> None:
    """LOAD: as a file of their own the icons came after everything else; what scripts put in their place still does."""
    assert await home.locator("svg.icon").count() > 10
    assert await home.locator("svg.icon:empty").count() == 0
    fetched = "performance.getEntriesByType('resource').filter((entry) => entry.name.includes('icons.svg')).length"
    assert await home.evaluate(fetched) == 0


def test_live_regions_are_polite() -> None:
    """Nothing interrupts who listens, but what they must act on: being signed out, and a fault they caused."""
    alerts = re.compile(r'aria-live="assertive"')
    assert [path.name for path in WEBUI.glob("templates/*.html") if alerts.search(path.read_text("utf-8"))] == []
