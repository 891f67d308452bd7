"""What one does with an answer: code into the editor, into a file, through the policy; deciding what the assistant proposes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Page, expect
from support import screens
from support.chats import Place, ask, over
from support.editor import Line, connect
from support.scripted_engine import Call, Say

from appliance.assistant.engine import EngineState, EngineStatus

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

CODE = "Do this:\n\n```python\nprint('عدد')  # <b>\n```\n\n```sh\n$ cat note.txt\n```\n"
FILE = {
    "path": "src/a.py", "language": "python", "lines": 3, "dirty": False, "line": 1, "selected": 4, "errors": 1, "warnings": 0,
}  # fmt: skip


@asynccontextmanager
async def window(place: Place, asked: list[dict[str, Any]]) -> AsyncIterator[Line]:
    """A window of the editor, spoken by hand: a file with a selection is in front; ``asked`` collects what pages want of it."""

    def answers(ask: dict[str, Any]) -> dict[str, Any]:
        asked.append(ask)
        if ask["op"] == "context":
            chip = {"kind": "selection", "path": "src/a.py", "language": "python", "text": "x = 1", "truncated": False}
            return {"chips": [chip]}
        return {"path": "src/a.py", "line": 3} if ask["op"] == "insert" else {"line": ask.get("line", 1)}

    line = await connect(place.room.front.settings.paths.run / "editor/editor.sock")
    await line.greet()
    line.say(type="state", focused=True, file=FILE)
    task = asyncio.create_task(line.serve(answers))
    try:
        yield line
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        line.writer.close()


async def with_tools(place: Place, page: Page) -> None:
    tools = page.locator("[data-tools]")
    if await tools.get_attribute("aria-pressed") == "false":
        await tools.click()


def a_file(place: Place, name: str, text: str) -> None:
    path = place.room.workspace / name
    path.write_text(text)
    path.chmod(0o666)


async def test_code_goes_into_the_editor_when_a_window_is_open(place: Place) -> None:
    """Insert sends the code as the model wrote it; context is a chip that says its price, and goes only while it stands there."""
    page, asked = await place.named("How?", CODE), []
    insert = page.locator("[data-do=insert]").first
    await expect(insert).to_be_hidden()
    async with window(place, asked):
        await insert.click()
        await expect(page.locator("#toasts")).to_contain_text("Inserted")
        assert next(one for one in asked if one["op"] == "insert")["text"] == "print('عدد')  # <b>"
        for _ in range(2):
            await page.get_by_role("button", name="Send the selection along").click()
            await expect(page.locator(".composer .chip")).to_contain_text("src/a.py")
            await expect(page.locator(".composer .chip")).to_contain_text("token")
            if _ == 0:
                await page.get_by_role("button", name="Leave it out").click()
                await expect(page.locator(".composer .chip")).to_have_count(0)
        place.engine.script(Say("It sets x."))
        await over(await ask(page, "What does it do?"))
        assert "x = 1" in place.engine.chats[-1].said
        await expect(page.locator(".turn.asked").last.locator(".chip")).to_contain_text("src/a.py")
    await expect(insert).to_be_hidden()


async def test_code_becomes_a_file_only_as_a_difference_that_is_accepted(place: Place) -> None:
    """AI-1: saving shows what would change; nothing is on disk before Accept."""
    page = await place.named("How?", CODE)
    await page.locator("[data-do=save]").first.click()
    await page.locator("#save-as-path").fill("made.py")
    await page.keyboard.press("Enter")
    box = page.locator("[data-proposal][data-kind=write]")
    await expect(box.locator(".diff [data-sign=add]")).to_have_text("+print('عدد')  # <b>\n")
    assert not (place.room.workspace / "made.py").exists()
    await box.get_by_role("button", name="Accept").click()
    await expect(box).to_have_attribute("data-state", "accepted")
    assert "print('عدد')" in (place.room.workspace / "made.py").read_text()


async def test_a_shell_block_runs_through_the_policy(place: Place) -> None:
    """What the policy lets the assistant run writes below the block; what asks shows its card there, token by token, says where it
    comes from, and waits (AI-1, AI-4). A line that a model wrote stays the assistant's, whoever chose it."""
    a_file(place, "note.txt", "from the file\n")
    page = await place.named("How?", CODE, "And else?", "```bash\ncat note.txt\ntouch 'new file'\n```")
    await page.locator("[data-do=run]:visible").first.click()
    ran = page.locator("[data-picked=yes]").first
    await expect(ran.locator(".run-lines")).to_contain_text("from the file")
    await ran.get_by_role("button", name="Ask about this output").click()
    await expect(page.locator(".composer .chip")).to_contain_text("cat note.txt")
    await page.locator("[data-do=run]:visible").last.click()
    await page.locator(".shell-lines li").nth(1).get_by_role("button").click()
    card = page.locator("[data-approval]")
    await expect(card.locator(".words-of li code")).to_have_text(["touch", "new file"])
    await expect(card).to_contain_text("A line of the assistant’s answer that")
    assert not (place.room.workspace / "new file").exists()
    await card.get_by_role("button", name="Deny").click()
    await expect(page.locator("[data-picked=yes] .run-pill").last).to_have_text("Denied")


async def test_the_assistant_proposes_and_a_person_decides(place: Place) -> None:
    """AI-1, AI-4, AI-7: a difference, then a command with its card; what ran is told to the model, and the steps are listed."""
    a_file(place, "count.py", "a = 1\n")
    place.engine.script(Call("write_file", {"path": "count.py", "content": "a = 2\n"}), finish="tool_calls")
    place.engine.script(
        Call("propose_command", {"command": "python3 count.py \u202e--x", "why": "To see \u202eit."}),
        finish="tool_calls",
    )
    place.engine.script(
        Call("propose_command", {"command": "sh -c 'echo ran it'", "why": "To see it."}), finish="tool_calls"
    )
    place.engine.script(Say("It ran."))
    page = await place.named()
    await with_tools(place, page)
    turn = await ask(page, "Change it and run it")
    await expect(turn.locator(".working")).to_contain_text("Waits for your decision")
    await turn.locator("[data-kind=write]").get_by_role("button", name="Accept").click()
    card = turn.locator("[data-approval]")
    await expect(card.locator(".words-of li code")).to_have_text(["sh", "-c", "echo ran it"])
    await expect(card).to_contain_text("The assistant, for")
    await expect(card.locator(".said-why")).to_contain_text("To see it.")
    assert (place.room.workspace / "count.py").read_text() == "a = 2\n"
    await card.get_by_role("button", name="Approve once").click()
    await over(turn)
    await expect(turn.locator(".run-lines")).to_contain_text("ran it")
    assert "ran it" in place.engine.chats[-1].said
    await turn.locator(".steps summary").click()
    await expect(turn.locator(".steps li")).to_have_count(3)
    await expect(turn.locator(".steps li").first).to_contain_text("count.py")
    await page.reload()
    await expect(page.locator("[data-kind=write]")).to_have_attribute("data-state", "accepted")
    await expect(page.locator(".proposal-line, .run").first).to_be_visible()


async def test_a_hostile_answer_is_only_words(place: Place) -> None:
    """WEB-13, AI-9: while it comes and after a reload nothing of it runs, is asked for or leaves its place."""
    evil = f"{screens.EVIL}\n\n[x](javascript:window.pwned=1) ![i](https://evil.example/i.png)\n\n```html\n{screens.EVIL}\n```\n"
    place.engine.script(Say(evil, rate=60))
    page = await place.named()
    turn = await ask(page, screens.EVIL)
    await over(turn)
    for _ in range(2):
        assert await page.evaluate("window.pwned") is None
        assert (
            await page.locator(
                ".turns :is(img, script, iframe, form:not(.edit-said), [onerror], [href^='javascript' i])"
            ).count()
            == 0
        )
        await expect(page.locator(".turn.answer")).to_contain_text("<script>window.pwned=1</script>")
        await page.reload()


async def test_nothing_spins_where_there_is_nobody_to_answer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page, in either language, says why and what to do next; an admin is led there, others to an admin."""
    monkeypatch.setattr(place.over, "status", lambda: EngineStatus(EngineState.NONE, reason="no_model"))
    page = await place.visit(role="admin")
    await expect(page.locator(".empty a.button")).to_have_attribute("href", "/machine/models")
    page = await place.visit(role="viewer", lang="ar")
    await expect(page.locator(".empty")).to_contain_text("المشرفين")
    await expect(page.locator(".engine")).to_have_attribute("data-engine", "none")
    await expect(page.locator("progress:visible")).to_have_count(0)


async def test_where_text_leaves_the_machine_it_is_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """PRV-3: the mark stands at the question itself, with the host."""
    status = EngineStatus(EngineState.READY, remote=True, host="models.example.org", model="big", context=8192)
    monkeypatch.setattr(place.over, "status", lambda: status)
    page = await place.visit()
    await expect(page.locator(".engine[data-remote]")).to_contain_text("models.example.org")


async def test_by_keys_alone_and_in_arabic(place: Place) -> None:
    """N begins, Q writes, Enter sends, S stops; the palette leads here; paragraphs keep their own direction, code stays left to right."""
    place.engine.script(Say("مرحبًا.\n\nHello.\n\n```py\nx = 1  # عدد\n```\n"))
    page = await place.named(lang="ar")
    await page.keyboard.press("q")
    await page.keyboard.type("سؤال")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("second line")
    await page.keyboard.press("Enter")
    turn = page.locator(".turn.answer")
    await over(turn)
    assert await page.locator(".turn.asked .said").inner_text() == "سؤال\nsecond line"
    sides = await turn.locator(".prose p").evaluate_all("all => all.map((p) => getComputedStyle(p).direction)")
    assert sides == ["rtl", "ltr"]
    assert await turn.locator(".code pre").evaluate("pre => getComputedStyle(pre).direction") == "ltr"
    await page.locator("h1").click()
    await page.keyboard.press("n")
    await page.wait_for_url(re.compile(r"/assistant#new$"))
    await expect(page.locator("[data-composer] textarea")).to_be_focused()


async def test_naming_pinning_and_deleting(place: Place) -> None:
    """The menu of a conversation; what is deleted is gone from the list, and was asked about first."""
    page = await place.named("One", "Two")
    await page.locator("[data-options] summary").click()
    await page.locator("[data-option=rename]").click()
    await page.locator("#rename-to").fill("أسماء جديدة")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_have_text("أسماء جديدة")
    await page.locator("[data-options] summary").click()
    await page.locator("[data-option=pin]").click()
    await expect(page.locator(".thread a[aria-current] [title=Pinned]")).to_be_visible()
    await page.locator("input[type=search]").fill("اسماء")
    await expect(page.locator(".thread mark").first).to_have_text("أسماء")
    await page.keyboard.press("Control+k")
    await page.keyboard.type("اسماء")
    await expect(page.locator("#palette [role=option]").first).to_contain_text("أسماء جديدة")
    await page.keyboard.press("Escape")
    await page.locator("[data-options] summary").click()
    await page.locator("[data-option=delete]").click()
    await page.locator("#confirm [value=yes]").click()
    await page.wait_for_url(re.compile(r"/assistant$"))
    await expect(page.get_by_text("أسماء جديدة")).to_have_count(0)


async def test_the_panel_beside_the_editor(place: Place) -> None:
    """Brought when it is first opened, the same conversation as on its page; it stays open and where it was over a reload."""
    place.engine.script(Say("From the panel."))
    page = await place.visit("/workspace")
    await page.locator("#panel-toggle").click()
    turn = await ask(page, "Beside the editor")
    await expect(turn).to_contain_text("From the panel.")
    await over(turn)
    await page.reload()
    await expect(page.locator(".panel .turn.answer")).to_contain_text("From the panel.")
    await page.locator("#panel-threads").click()
    await expect(page.locator(".panel .thread").first).to_be_visible()
    await page.locator("#panel-new").click()
    await expect(page.locator(".panel .turn")).to_have_count(0)
