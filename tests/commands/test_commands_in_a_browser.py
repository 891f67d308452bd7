"""Commands as people meet them: real Chromium before the real application, over a broker that starts real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect
from support import screens
from support.appliance import free_port
from support.broker import Home
from support.commands import Room, forget, room_in
from support.processes import alive
from support.screens import Booth, Screen
from support.waiting import until

from appliance.clock import SystemClock
from appliance.commands.asker import Asker
from appliance.commands.model import Actor
from appliance.commands.runbooks import Book, Parameter
from webui.guard import COOKIE

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(shared_broker: Home) -> AsyncIterator[tuple[Room, Booth]]:
    """A room whose front stands behind TLS, and a browser before it."""
    shared_broker.configure(proxy__https_port=free_port())
    async with screens.chromium() as chromium:
        async for made in _open(shared_broker, chromium):
            yield made
    forget(shared_broker)


async def _open(broker: Home, chromium: Browser) -> AsyncIterator[tuple[Room, Booth]]:
    async with room_in(broker, clock=SystemClock()) as room, screens.booth_of(room.front, chromium) as booth:
        await room.front.policy_file.open()
        room.front.policy_file.current = room.front.policy
        yield room, booth


async def opened(booth: Booth, path: str, role: str = "operator", lang: str = "en") -> Page:
    return await booth.visit(Screen("", path, role=role), lang)


async def test_typing_shows_the_verdict_and_running_streams(place: tuple[Room, Booth]) -> None:
    """The verdict before Enter, output as it comes with its colours, the state and how it ended."""
    _, booth = place
    page = await opened(booth, "/commands")
    await page.fill("#line", "echo hello")
    await expect(page.locator("#verdict")).to_contain_text("Runs at once")
    await page.press("#line", "Escape")
    await page.press("#line", "Enter")
    live = page.locator("#live-runs .run").first
    await expect(live.locator(".run-lines li")).to_have_text("hello")
    await expect(live.locator(".run-pill")).to_have_text("Done")
    await page.fill("#line", "python3 -c x")
    await expect(page.locator("#verdict")).to_contain_text("Asks first")
    await page.fill("#line", "echo pass\u202eword")
    await expect(page.locator("#verdict")).to_contain_text("RIGHT-TO-LEFT OVERRIDE (U+202E)")
    await page.click("[data-clean]")
    await expect(page.locator("#line")).to_have_value("echo password")
    await expect(page.locator("#verdict")).to_contain_text("Runs at once")
    assert booth.told() == []
    await page.close()


async def test_output_is_followed_to_its_very_end(place: tuple[Room, Booth]) -> None:
    """Lines get their height when they come into sight; the last one is seen all the same."""
    _, booth = place
    page = await opened(booth, "/commands")
    await page.fill("#line", "seq 900")
    await page.press("#line", "Escape")
    await page.press("#line", "Enter")
    live = page.locator("#live-runs .run").first
    await expect(live.locator(".run-lines li")).to_have_count(900)
    await expect(live.locator(".run-pill")).to_have_text("Done")
    await page.wait_for_timeout(300)  # nothing moves any more
    left = "(list) => list.scrollHeight - list.scrollTop - list.clientHeight"
    assert await live.locator(".run-lines").evaluate(left) < 3
    await page.close()


async def test_completion_by_keyboard(place: tuple[Room, Booth]) -> None:
    """What the policy offers is taken by keys alone; Escape closes the list."""
    _, booth = place
    page = await opened(booth, "/commands")
    await page.type("#line", "slee")
    await expect(page.locator("#offers li")).to_have_count(1)
    await page.press("#line", "ArrowDown")
    await expect(page.locator("#offers li")).to_have_attribute("aria-selected", "true")
    await page.press("#line", "Enter")
    await expect(page.locator("#line")).to_have_value("sleep ")
    await page.close()


async def test_stop_ends_everything(place: tuple[Room, Booth]) -> None:
    """POL-12 from the page: what was started is gone."""
    _, booth = place
    page = await opened(booth, "/commands")
    await page.fill("#line", "sleep 4711")
    await page.press("#line", "Enter")
    live = page.locator("#live-runs .run").first
    await expect(live.locator(".run-pill")).to_have_text("Running")
    await until(lambda: bool(alive("4711")), "it sleeps")
    await live.get_by_role("button", name="Stop").click()
    await expect(live.locator(".run-pill")).to_have_text("Cancelled")
    await until(lambda: not alive("4711"), "nothing of it is left")
    await page.close()


async def test_a_second_device_decides_and_the_first_knows(place: tuple[Room, Booth]) -> None:
    """A viewer asks, an operator approves, an admin who looks on sees it at once (AI-4, POL-11)."""
    room, booth = place
    run = await room.propose("sh", "-c", "echo one; echo two >&2", who="viewer", why="for the tests")
    first, second = await opened(booth, "/commands/approvals", "admin"), await opened(booth, "/commands/approvals")
    asking = await opened(booth, f"/commands/{run['id']}", "viewer")
    card = second.locator(f"#ask-{run['id']}")
    await expect(card.locator(".words-of li")).to_have_text(["sh", "-c", "echo one; echo two >&2"])
    await expect(card).to_contain_text("for the tests")
    assert await asking.locator("[data-decide]").count() == 0
    assert await card.locator("button:focus, [autofocus], :checked").count() == 0
    await card.get_by_role("button", name="Approve once").click()
    await expect(first.locator(f"#ask-{run['id']}")).to_contain_text("Approved by operator")
    await expect(first.locator(f"#ask-{run['id']} [data-decide]")).to_have_count(0)
    await expect(asking.locator(".run-lines")).to_contain_text("two")
    await expect(asking.locator("li[data-stream=stderr]")).to_contain_text("two")
    assert (await room.over(run["id"]))["approved_by"] == "operator"
    for page in (first, second, asking):
        await page.close()


async def test_a_lease_counts_down_and_ends(place: tuple[Room, Booth]) -> None:
    """AI-5: the exact shape, visible with what is left of it, ended by hand."""
    room, booth = place
    room.front.policy = room.front.policy_file.current
    run = await room.propose("touch", "made-by-a-lease")
    assert run["leasable"], run
    page = await opened(booth, "/commands/approvals")
    card = page.locator(f"#ask-{run['id']}")
    await card.locator(".lease summary").click()
    await card.locator("[name=runs]").fill("2")
    await card.locator("[name=minutes]").fill("7")
    await card.get_by_role("button", name="Approve and lease").click()
    await expect(card).to_contain_text("Approved by operator")
    again = await room.propose("touch", "made-by-a-lease")
    assert again["lease"]
    await page.goto(f"{booth.address}/commands/approvals")
    row = page.locator("[data-lease]")
    await expect(row).to_contain_text("1 of 2 left")
    await expect(row).to_contain_text("6 min")
    await row.get_by_role("button").click()
    await expect(page.locator("[data-lease]")).to_have_count(0)
    assert (await room.propose("touch", "made-by-a-lease"))["state"] == "waiting"
    await page.close()


async def test_deciding_without_scripts(place: tuple[Room, Booth]) -> None:
    """The basics work without JavaScript: ask, approve with the hash that was shown, read what came of it."""
    room, booth = place
    context = await booth.browser.new_context(java_script_enabled=False)
    cookie = {"name": COOKIE, "value": room.cookies["operator"], "url": booth.address, "secure": True}
    await context.add_cookies([cookie | {"httpOnly": True, "sameSite": "Strict"}])  # type: ignore[arg-type]
    page = await context.new_page()
    await page.goto(f"{booth.address}/commands")
    await page.fill("#line", "sh -c 'echo plain'")
    await page.click("[name=do]")
    await expect(page.locator(".words-of").first).to_contain_text("echo plain")
    await page.get_by_role("button", name="Approve once").click()
    await until_done(room, page)
    await page.reload()
    await expect(page.locator(".run-lines li")).to_have_text("plain")
    await context.close()


async def test_a_rehearsal_is_looked_at_applied_and_taken_back(place: tuple[Room, Booth]) -> None:
    """Try first: nothing real changes until Apply; then exactly what was shown; Undo brings back what was there."""
    room, booth = place
    file, made = room.workspace / "notes.txt", room.workspace / "made.txt"
    room.broker.workspace_file("notes.txt", "one\ntwo\n", 0o644)
    page = await opened(booth, "/commands")
    await page.fill("#line", "sh -c 'echo three >> notes.txt; echo new > made.txt'")
    await page.get_by_role("button", name="Rehearse").click()
    await page.wait_for_url("**/commands/run-*")
    rows = page.locator(".changes li")
    await expect(rows).to_have_count(2)
    assert file.read_text() == "one\ntwo\n"
    assert not made.exists()
    notes = rows.filter(has_text="notes.txt")
    await notes.locator("summary").click()
    await expect(notes.locator("[data-sign=add]")).to_have_text("+three\n")
    assert await notes.locator("[data-sign=cut]").count() == 0
    await decide(page, "Apply")
    await expect(page.get_by_role("button", name="Undo")).to_be_visible()
    assert (file.read_text(), made.read_text()) == ("one\ntwo\nthree\n", "new\n")
    await decide(page, "Undo")
    await expect(page.get_by_role("button", name="Undo")).to_be_hidden()
    await until(lambda: file.read_text() == "one\ntwo\n", "it is as it was")
    assert not made.exists()
    assert booth.told() == []
    await page.close()


async def decide(page: Page, name: str) -> None:
    """Press a button and say yes to what it asks first."""
    await page.locator(".rehearsal").get_by_role("button", name=name).click()
    await page.get_by_role("dialog").get_by_role("button", name=name).click()


@pytest.mark.parametrize(("lang", "says"), [("en", "no git repository"), ("ar", "مستودع git")])
async def test_a_failed_run_says_why_and_offers_one_fix(place: tuple[Room, Booth], lang: str, says: str) -> None:
    """The fix is a proposal like any other: a person asks for it, the policy decides."""
    room, booth = place
    run = await room.shell("echo 'fatal: not a git repository (or any of the parent directories): .git' >&2; exit 128")
    page = await opened(booth, f"/commands/{run['id']}", lang=lang)
    why = page.locator(".why")
    await expect(why).to_contain_text(says)
    await expect(why.locator("form .run-line")).to_have_text("git init")
    await why.get_by_role("button").click()
    await page.wait_for_url(lambda url: url.rpartition("/")[2] not in ("commands", run["id"]))
    asked = (await room.ask("GET", f"/api/commands/{page.url.rpartition('/')[2]}"))["run"]
    assert (asked["typed"], asked["state"]) == ([["git", "init"]], "waiting")
    assert booth.told() == []
    await page.close()


async def until_done(room: Room, page: Page) -> None:
    await room.over(page.url.rpartition("/")[2])


async def put(page: Page, text: str) -> None:
    """Typing 80 KB letter by letter is the browser's work, not ours."""
    await page.locator(".policy-text").evaluate("(area, text) => { area.value = text; }", text)


async def test_the_policy_is_tried_and_changed(place: tuple[Room, Booth]) -> None:
    """A line is explained; a faulty text shows its line, keeps what was typed and changes nothing; a good one is kept as a version."""
    room, booth = place
    page = await opened(booth, "/policy", "admin")
    for session in room.front.sessions.of(None):
        session.proved = room.front.clock.uptime()
    text = await page.locator(".policy-text").input_value()
    await put(page, text + "\n[[rule]]\nid = 1\n")
    await page.get_by_role("button", name="Put in force").click()
    await expect(page.locator("[data-fault-line]")).to_contain_text("Line")
    assert "id = 1" in await page.locator(".policy-text").input_value()
    await put(page, text.replace('human = "ask"', 'human = "deny"', 1))
    await page.get_by_role("button", name="Show what would change").click()
    await expect(page.locator(".diff [data-sign=add]")).to_contain_text('human = "deny"')
    await page.get_by_role("button", name="Put in force").click()
    await expect(page.locator(".notice[data-kind=good]")).to_contain_text("The policy is in force.")
    assert 'human = "deny"' in room.front.policy_file.text
    await page.close()


async def test_a_runbook_takes_a_parameter_as_one_word(place: tuple[Room, Booth]) -> None:
    """What is typed into a parameter is one word, whatever it holds; what does not fit its type is marked and kept."""
    room, booth = place
    admin = (await screens.member(room.front, "admin")).id
    book = Book("say", "echo {words} end", {"en": "Say it"}, {}, (Parameter("words", "text", "Words"),), role="viewer")
    await room.front.runbooks.save(book, Asker(Actor.HUMAN, "admin", admin, "admin", session="s"))
    page = await opened(booth, "/commands/runbooks/say", "viewer")
    await page.get_by_label("Words").fill("-rf")
    await page.get_by_role("button", name="Run").click()
    await expect(page.locator("[aria-invalid=true]")).to_have_value("-rf")
    await page.get_by_label("Words").fill("a b; echo c | d")
    await page.get_by_role("button", name="Run").click()
    await page.wait_for_url("**/commands/run-*")
    run = await room.over(page.url.rpartition("/")[2])
    assert [argv[1:] for argv in run["stages"]] == [["a b; echo c | d", "end"]]
    await page.close()


@pytest.mark.parametrize(
    ("lang", "words"),
    [("en", "1 command waits for a decision."), ("ar", "أمر واحد ينتظر قرارًا.")],
)
async def test_the_rail_says_how_much_waits_for_a_decision(place: tuple[Room, Booth], lang: str, words: str) -> None:
    """On every page, as it comes and goes; in words for those who listen, and not for those who may not decide."""
    room, booth = place
    booth.told()
    for left in (await room.ask("GET", "/api/approvals", "admin", 200))["runs"]:  # of the tests before
        await room.ask("POST", f"/api/commands/{left['id']}/deny", "admin", 200, json={})
    page, other = await opened(booth, "/account", lang=lang), await opened(booth, "/commands", "viewer", lang)
    badge, entry = page.locator(".rail .badge"), page.locator(".rail a[href='/commands']")
    await expect(badge).to_be_hidden()
    run = await room.propose("python3", "-c", f"pass  # {lang}")
    await expect(badge.locator("[aria-hidden]")).to_have_text("1")
    await expect(badge).to_be_visible()
    assert words in await entry.aria_snapshot()
    await expect(page.locator("#announcer")).to_have_text(words)
    reloaded = await opened(booth, "/account", lang=lang)  # the server says it too
    await expect(reloaded.locator(".rail .badge [aria-hidden]")).to_have_text("1")
    await expect(other.locator(".rail .badge")).to_have_count(0)
    await room.ask("POST", f"/api/commands/{run['id']}/deny", "operator", 200, json={})
    await expect(badge).to_be_hidden()
    assert booth.told() == []
    for each in (page, other, reloaded):
        await each.close()


async def test_one_stream_brings_all_topics_of_a_page(place: tuple[Room, Booth]) -> None:
    """However many scripts of a page follow something (DECIDED 19): the history its runs, the rail what waits."""
    _, booth = place
    page = await opened(booth, "/commands")
    asked: list[str] = []
    page.on("request", lambda request: "/api/events" in request.url and asked.append(request.url.partition("?")[2]))
    await page.reload(wait_until="load")
    await page.evaluate("new Promise((done) => setTimeout(() => setTimeout(done)))")
    assert [sorted(each.removeprefix("topics=").split(",")) for each in asked] == [["approvals", "runs"]]
    await page.close()
