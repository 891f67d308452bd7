"""What people do on the pages, in real Chromium: with scripts, without, and while the connection comes and goes."""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from appliance.services.model import Health, ServiceView, State, Want

MACHINE = {
    "cpu_percent": 3.0,
    "load": 0.1,
    "memory_used": 1288 << 20,
    "memory_total": 1998 << 20,
    "swap_used": 0,
    "swap_total": 2048 << 20,
    "disk_used": 9 << 30,
    "disk_total": 20 << 30,
    "uptime": 5.0,
}
SCREENS = Path(__file__).parents[1] / ".artifacts" / "screens"
PAGE_LIMIT = 100_000

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def shot(page: Page, name: str) -> None:
    SCREENS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=SCREENS / f"{name}.png")


async def test_services_change_while_one_looks(page: Page, stage: Any, services_event: Callable[[], Any]) -> None:
    """A new state reaches pill, words, buttons and the top line; what a service said stays text (WEB-4)."""
    await page.goto(stage.base)
    row = page.locator("[data-service=ide]")
    await expect(row.locator(".pill")).to_have_text("Running")
    await reader(page, stage)
    stage.trouble()
    stage.push("services", services_event())
    await expect(row.locator(".pill")).to_have_text("Given up")
    await expect(row.get_by_role("button", name="Start the IDE")).to_be_visible()
    await expect(row.get_by_role("button", name="Stop the IDE")).to_be_hidden()
    await expect(page.locator("#summary")).to_have_text("3 things need attention.")
    await expect(page.locator("#problems h3").first).to_contain_text("Port 443 is taken by")
    await expect(page.locator("#problems")).to_contain_text("<script>")
    await expect(page.locator("#problems .problem-service").nth(1)).to_have_text("IDE")
    await expect(page.locator("#problems .problem-action").nth(1)).to_have_attribute("href", "/machine/logs/ide")
    await expect(page.locator("#problems .problem-action").nth(2)).to_be_hidden()
    await expect(page.locator("[data-service=ai] progress")).to_have_js_property("value", 412 << 20)
    assert await page.evaluate("window.pwned") is None
    stage.services = [ServiceView("ide", State.STOPPED, 1.0, Health.UNKNOWN, Want.ON_DEMAND, actions=("start",))]
    stage.problems = []
    stage.push("services", services_event())
    await expect(row.locator(".pill")).to_have_text("Sleeping")
    await expect(page.locator("#problems")).to_be_hidden()


async def test_meters_follow_the_machine(page: Page, stage: Any) -> None:
    """The machine's figures come over the same stream, whether or not a service changes."""
    await page.goto(stage.base)
    memory = page.locator("[data-gauge=memory]")
    await expect(memory.locator("dd")).to_have_text("1.3 GB of 2.0 GB")
    await reader(page, stage)
    stage.push("telemetry", MACHINE | {"memory_used": MACHINE["memory_total"]})
    await expect(memory.locator("dd")).to_have_text("2.0 GB of 2.0 GB")
    await expect(memory.locator(".meter")).to_have_attribute("data-level", "bad")


async def test_charts_say_what_is_under_the_pointer(page: Page, stage: Any) -> None:
    """Read-outs by pointer and by arrow keys; a gap is said to be one; leaving brings the newest figure back."""
    await page.goto(stage.base)
    chart = page.locator("[data-chart=cpu]")
    lines, said = chart.locator(".lines"), chart.locator("[data-field=latest]")
    newest = await said.inner_text()
    box = await lines.bounding_box()
    assert box is not None

    async def point(share: float) -> None:
        await lines.hover(position={"x": box["width"] * share, "y": 20})

    await page.wait_for_function("() => document.querySelector('[data-chart=cpu]').dataset.begin")
    await point(0.1)
    await expect(said).to_have_text(re.compile(r"\d\d:\d\d: \d+%"))
    await point(0.42)
    await expect(said).to_have_text(re.compile("not known"))
    await page.mouse.move(0, 0)
    await expect(said).to_have_text(newest)
    await lines.focus()
    await page.keyboard.press("Home")
    await expect(page.locator("#announcer")).to_have_text(re.compile(r"\d\d:\d\d: 1%"))
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#announcer")).to_have_text(re.compile(r"\d\d:\d\d: 2%"))


async def test_colours_of_a_log_stay_and_times_filter(page: Page, stage: Any) -> None:
    """WEB-15: colours come from a closed list, as data; a stretch of time hides what is older."""
    now = time.time()
    stage.lines = [
        {"at": now - 4000, "level": "info", "text": "old"},
        {"at": now, "level": "info", "text": "ok red", "parts": [["ok ", ""], ["red", "red bold"]]},
    ]
    await page.goto(f"{stage.base}/machine/logs/ide")
    await expect(page.locator(".live")).to_have_text("Live")
    red = page.locator("[data-style~=red]")
    await expect(red).to_have_text("red")
    assert await red.evaluate("e => getComputedStyle(e).color") != await red.evaluate(
        "e => getComputedStyle(e.parentElement).color"
    )
    await page.locator("#log-since").select_option("1h")
    await expect(page.locator(".log-lines li").first).to_be_hidden()
    await expect(page.locator("#log-count")).to_have_text("1 line")


async def test_stopping_is_asked_and_starting_is_not(page: Page, stage: Any) -> None:
    await page.goto(stage.base)
    restart = page.get_by_role("button", name="Restart the IDE")
    await restart.click()
    dialog = page.locator("#confirm")
    await expect(dialog).to_contain_text("Restart the IDE?")
    await shot(page, "confirm.en")
    await dialog.get_by_role("button", name="Cancel").click()
    assert stage.sent == []
    await restart.click()
    await dialog.get_by_role("button", name="Restart the IDE").click()
    await expect(page.locator("#toasts")).to_contain_text("The IDE is restarting.")
    await shot(page, "toast.en")
    assert stage.sent == [("POST", "croft.localhost/api/services/ide/restart", {})]


async def test_keys_and_palette(page: Page, stage: Any) -> None:
    await page.goto(stage.base)
    await page.keyboard.press("Control+k")
    palette = page.get_by_role("combobox")
    await expect(palette).to_be_focused()
    await palette.fill("log of")
    await expect(page.get_by_role("option")).to_have_count(3)
    await shot(page, "palette.en")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/machine/logs/proxy")
    await page.goto(stage.base)
    await page.keyboard.press("Shift+?")
    await expect(page.locator("#keys")).to_be_visible()
    await shot(page, "keys.en")
    await page.keyboard.press("Escape")
    await page.keyboard.press("g")
    await page.keyboard.press("m")
    await page.wait_for_url("**/machine")
    await page.locator(".person summary").click()
    await shot(page, "menu.en")
    await page.keyboard.press("Escape")
    await expect(page.locator(".person .menu")).to_be_hidden()


async def test_a_lost_connection_is_said_and_mended(page: Page, stage: Any, watch: Any) -> None:
    """Stale data is marked; the retry needs nobody."""
    await page.goto(stage.base)
    await reader(page, stage)
    stage.down = True
    stage.push("drop", None)
    await expect(page.locator("#lost")).to_contain_text("The connection is lost", timeout=20_000)
    await expect(page.locator("body")).to_have_attribute("data-stale", "")
    await shot(page, "lost.en")
    stage.down = False
    await page.locator("#lost button").click()
    await expect(page.locator("#lost")).to_be_hidden()
    await expect(page.locator("body")).not_to_have_attribute("data-stale", "")
    watch.faults[:] = [fault for fault in watch.faults if "503" not in fault and "ERR_" not in fault]


async def test_log_follows_filters_and_names_what_is_unseen(page: Page, stage: Any) -> None:
    """WEB-15: a line is text; control and direction characters are spelt out; a filter hides, nothing else."""
    await page.goto(f"{stage.base}/machine/logs/ide")
    await expect(page.locator(".live")).to_have_text("Live")
    await reader(page, stage)
    stage.push("line", {"at": 1.0, "level": "error", "text": "<b>boom</b> \u202edlrow\u2066"})
    last = page.locator(".log-lines li").last
    await expect(last.locator(".words")).to_have_text("<b>boom</b> U+202EdlrowU+2066")
    # It follows with the next frame that is drawn.
    await page.wait_for_function(
        "() => (e => e.scrollHeight - e.scrollTop - e.clientHeight < 3)(document.querySelector('.log-lines'))",
        polling=50,
    )
    await page.locator("#log-find").fill("boom")
    await expect(page.locator("#log-count")).to_have_text("1 line")
    await page.locator("#log-find").fill("nothing like this")
    await expect(page.locator("#log-none")).to_be_visible()
    await page.locator("#log-find").fill("")
    await page.locator("#log-level").select_option("error")
    await expect(page.locator(".log-lines li[data-level=info]").first).to_be_hidden()
    await page.locator("#log-wrap").click()
    await expect(page.locator(".log-lines")).to_have_attribute("data-wrap", "off")
    await page.reload()
    await expect(page.locator(".log-lines")).to_have_attribute("data-wrap", "off")


async def test_workspace_hands_over_and_keeps_the_panel(page: Page, stage: Any) -> None:
    """DECIDED 16: the code goes by a form posted into the frame. The panel stays as it was left."""
    await page.goto(f"{stage.base}/workspace")
    await expect(page.frame_locator("iframe").locator("h1")).to_have_text("The editor does not know you")
    assert stage.sent == [("POST", "ide.croft.localhost/__croft/enter", {"code": "code-1", "next": "/?folder=/w"})]
    await expect(page.locator(".opening progress")).to_be_hidden()
    await reader(page, stage)
    stage.push("editor", {"windows": [], "asked": None})
    stage.push("editor", {"windows": [{"id": "w", "active_at": 1, "file": None}], "asked": None})
    await expect(page.locator(".opening")).to_be_hidden()
    stage.push("services", {"services": [{"name": "ide", "shown": "sleeping"}]})
    await expect(page.locator(".top .pill")).to_have_text("Sleeping")
    await page.get_by_role("button", name="Assistant", exact=True).click()
    await expect(page.locator("#assistant")).to_contain_text("No model is installed yet.")
    await page.locator(".grip").focus()
    before = (await page.locator("#assistant").bounding_box() or {})["width"]
    await page.keyboard.press("ArrowLeft")
    after = (await page.locator("#assistant").bounding_box() or {})["width"]
    assert after > before
    await page.reload()
    await expect(page.locator("#assistant")).to_be_visible()
    assert (await page.locator("#assistant").bounding_box() or {})["width"] == pytest.approx(after, abs=2)
    await shot(page, "workspace-panel.en")
    await page.get_by_role("button", name="Close the assistant").click()
    await expect(page.locator("#assistant")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_an_editor_that_has_drawn_nothing_yet_is_not_blank(page: Page, stage: Any, scheme: str) -> None:
    """Until the editor draws itself, its frame shows what goes on, on the page's own ground; then only the editor is seen."""
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    nothing = "<!doctype html><title>editor</title>"
    await page.route("**/__croft/enter", lambda route: route.fulfill(content_type="text/html", body=nothing))
    await page.goto(f"{stage.base}/workspace")
    await expect(page.locator(".opening progress")).to_be_hidden()
    await shot(page, f"workspace-opening.{scheme}")

    async def seen(words: str) -> bytes:
        await page.locator(".opening h2").evaluate(f"(title) => {{ title.style.visibility = '{words}'; }}")
        return await page.locator(".editor").screenshot()

    assert await seen("visible") != await seen("hidden")
    frame = page.frame(name="editor")
    assert frame is not None
    await frame.evaluate("document.body.style.background = 'teal'")
    assert await seen("visible") == await seen("hidden")


async def test_frame_may_not_navigate_the_page_away(page: Page, stage: Any, watch: Any) -> None:
    """WEB-10: the editor's frame cannot replace the page around it."""
    await page.goto(f"{stage.base}/workspace")
    frame = page.frame(name="editor")
    await expect(page.frame_locator("iframe").locator("h1")).to_be_visible()
    assert frame is not None
    script = "(() => { try { top.location = '/x'; return 'asked'; } catch (e) { return e.name; } })()"
    assert await frame.evaluate(script) in ("SecurityError", "asked")
    await expect(page.locator("#panel-toggle")).to_be_visible()
    assert page.url == f"{stage.base}/workspace"
    watch.faults[:] = [fault for fault in watch.faults if "top-level" not in fault and "Unsafe attempt" not in fault]


async def test_waking_goes_on_by_itself(page: Page, stage: Any) -> None:
    await page.goto(f"{stage.ide}/wake")
    stage.wake = {"phase": "extracting", "current": 10 << 20, "total": 20 << 20}
    await expect(page.locator("[data-name=pulling]")).to_have_attribute("data-phase", "done")
    await expect(page.locator("[data-field=amount]")).to_have_text("10 MB of 20 MB")
    stage.wake = {"phase": "ready"}
    await page.wait_for_url("**/editor?folder=/w")


async def test_ending_a_session(page: Page, stage: Any) -> None:
    await page.goto(f"{stage.base}/sessions")
    await page.locator("tr[data-session=s2]").get_by_role("button", name="End Safari on iOS").click()
    await expect(page.locator("tr[data-session=s2]")).to_have_count(0)
    assert stage.sent == [("DELETE", "croft.localhost/api/sessions/s2", {})]


async def test_viewers_are_offered_nothing_they_may_not_do(page: Page, stage: Any) -> None:
    stage.role = "viewer"
    await page.goto(f"{stage.base}/machine")
    await expect(page.locator(".service")).to_have_count(3)
    await expect(page.locator(".service-actions .button")).to_have_count(0)
    await expect(page.get_by_role("link", name="Workspace")).to_have_count(0)
    await page.goto(f"{stage.base}/sessions")
    await expect(page.get_by_role("heading", name="Other people")).to_have_count(0)


async def test_basics_work_without_scripts(browser: Browser, stage: Any) -> None:
    """Sign in, see the state, restart a service, open the editor, end a session, change the language: plain forms."""
    context = await browser.new_context(java_script_enabled=False, viewport={"width": 1200, "height": 800})
    page = await context.new_page()
    try:
        await page.goto(f"{stage.base}/sign-in/link")
        await page.get_by_label(re.compile("Stay signed in")).check()
        await page.get_by_role("button", name="Continue").click()
        await expect(page.locator("[data-service=ide] .pill")).to_have_text("Running")
        await page.get_by_role("button", name="Restart the IDE").click()
        await page.goto(f"{stage.base}/workspace")
        await page.get_by_role("button", name="Open the editor").click()
        await expect(page.frame_locator("iframe").locator("h1")).to_be_visible()
        await page.goto(f"{stage.base}/sessions")
        await page.get_by_role("button", name="End Safari on iOS").click()
        await page.goto(f"{stage.base}/sessions")
        await page.get_by_role("button", name="End all others").click()
        await page.goto(f"{stage.base}/machine")
        await page.locator(".person summary").click()
        await page.get_by_role("button", name="العربية").click()
        await expect(page.locator("h1")).to_have_text("الخادم")
        await expect(page.locator("#palette, #lost").first).to_be_hidden()
    finally:
        await context.close()
    assert [(path, form) for _, path, form in stage.sent] == [
        ("croft.localhost/sign-in/link", {"t": "lnk_1", "remember": "on"}),
        ("croft.localhost/machine/services/ide/restart", {}),
        ("ide.croft.localhost/__croft/enter", {"code": "code-1", "next": "/?folder=/w"}),
        ("croft.localhost/sessions/s2/end", {}),
        ("croft.localhost/sessions/end-others", {}),
        ("croft.localhost/preferences", {"next": "/machine", "lang": "ar"}),
    ]


async def test_choosing_a_language_keeps_a_links_token(page: Page, stage: Any) -> None:
    await page.goto(f"{stage.base}/sign-in/link")
    assert await page.locator("footer input[name=next]").first.input_value() == "/sign-in/link?t=lnk_1"


@pytest.mark.parametrize(
    "path", ["/", "/machine", "/machine/logs/ide", "/sessions", "/workspace", "/assistant", "/sign-in"]
)
async def test_pages_are_light(page: Page, stage: Any, path: str) -> None:
    """HTML, styles, scripts and icons of a page, compressed, stay under 100 kB."""
    sizes: list[int] = []

    async def weigh(response: Any) -> None:
        if response.request.resource_type in ("document", "stylesheet", "script", "image", "other"):
            sizes.append(len(gzip.compress(await response.body())))

    tasks: list[Any] = []
    page.on("response", lambda response: tasks.append(response) if "/api/" not in response.url else None)
    await page.goto(f"{stage.base}{path}", wait_until="load")
    for response in tasks:
        await weigh(response) if response.status == 200 else None
    assert 5_000 < sum(sizes) < PAGE_LIMIT


async def reader(page: Page, stage: Any) -> None:
    """Wait until the page's event stream is open."""
    for _ in range(200):
        if stage.readers:
            return
        await page.wait_for_timeout(25)
    raise AssertionError("the page opened no event stream")
