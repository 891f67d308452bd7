"""The assistant as people use it beside the editor, on real parts: ask, stop, insert, run, propose, approve, come back."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect
from support.appliance import free_port
from support.editor import Seat
from support.journey import show_explorer
from support.scripted_engine import Call, Say, ScriptedEngine, engine_in_thread
from support.waiting import poll

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

COUNT = " ".join(f"word{n}" for n in range(400))
ADVICE = "Put this in:\n\n```python\nprint('inserted')\n```\n\nThen look:\n\n```sh\nwc -l greet.py\n```\n"


@pytest.fixture(scope="module")
def engine() -> Iterator[ScriptedEngine]:
    with engine_in_thread(free_port(), key="") as running:
        yield running


@pytest.fixture(scope="module")
def appliance_settings(engine: ScriptedEngine) -> str:
    return f'[ai]\nengine = "remote"\nurl = "{engine.base}"\nnetwork = "private"\nmodel = "{engine.model}"\ncontext = 4096\n'


def ask(page: Page, text: str) -> Locator:
    """Type a question into the panel and send it; the turn of the answer."""
    answers = page.locator(".panel .turn.answer")
    before = answers.count()
    page.locator(".panel [data-composer] textarea").fill(text)
    page.locator(".panel [data-composer] textarea").press("Enter")
    expect(answers).to_have_count(before + 1)
    return answers.nth(before)


def over(turn: Locator, state: str = "done") -> None:
    expect(turn).to_have_attribute("data-state", state, timeout=30_000)


def approve(seat: Seat, turn: Locator) -> None:
    """Press Approve on the card that waits in an answer, and see the run to its end: exit status 0."""
    turn.locator("[data-approval]").get_by_role("button", name="Approve once").click()
    expect(turn.locator("[data-run] .run-pill").last).to_have_attribute("data-run-state", "done", timeout=30_000)
    run = turn.locator(".card.run").last
    expect(run.locator(".run-said")).to_have_text("Ended without an error.")
    assert seat.ask("GET", f"/api/commands/{run.get_attribute('data-run')}")[1]["run"]["exit_code"] == 0


def test_from_a_question_to_a_command_that_ran_and_back(seat: Seat, engine: ScriptedEngine) -> None:
    """Issue 5; AI-1, AI-7, AI-13: one person, one browser, one conversation."""
    page, file = seat.page, seat.file("greet.py", "def greet():\n    return 'hello'\n")
    engine.script(Say(COUNT, 40))
    show_explorer(page, seat.frame, "greet.py")
    seat.frame.get_by_role("treeitem", name="greet.py").dblclick()
    poll(lambda: (front := seat.front()) and front["path"] == "greet.py", "the file is in front", 30)

    # What is open goes along, as a chip that says what it costs; the answer streams, and Stop frees the engine.
    page.locator("#panel-toggle").click()
    page.get_by_role("button", name="Send the open file along").click()
    chip = page.locator(".panel .composer .chip")
    expect(chip).to_contain_text("greet.py")
    expect(chip).to_contain_text("token")
    turn = ask(page, "What does it do?")
    expect(turn).to_contain_text("word3", timeout=30_000)
    assert turn.get_attribute("data-state") == "running"
    assert "return 'hello'" in engine.chats[0].said
    begun = time.monotonic()
    page.get_by_role("button", name="Stop").click()
    over(turn, "stopped")
    poll(lambda: engine.chats[0].gone, "the engine is let go", 2)
    assert time.monotonic() - begun < 2.5

    # Asked again; the code lands at the cursor and is saved.
    engine.script(Say(ADVICE, 60))
    turn = ask(page, "And how do I print?")
    over(turn)
    seat.frame.locator(".view-lines").first.click()
    page.keyboard.press("Control+End")
    poll(lambda: (front := seat.front()) and front["line"] == 3, "the cursor is at the end")
    turn.locator("[data-do=insert]").first.click()
    expect(seat.frame.locator(".view-lines").first).to_contain_text("inserted")
    seat.frame.locator(".view-lines").first.click()
    page.keyboard.press("Control+s")
    poll(lambda: file.read_text().endswith("print('inserted')"), "what was inserted is on disk", 30)

    # A line of the answer runs once a person approves it.
    turn.locator("[data-do=run]:visible").click()
    expect(turn.locator("[data-approval]")).to_contain_text("A line of the assistant’s answer that")
    approve(seat, turn)
    expect(turn.locator(".run-lines")).to_contain_text("2 greet.py")

    # The assistant proposes a command; what it wrote goes back to the model.
    engine.script(
        Call("propose_command", {"command": "tail -n 1 greet.py", "why": "To see its end."}), finish="tool_calls"
    )
    engine.script(Say("It prints at the end."))
    page.locator(".panel [data-tools]").click()
    turn = ask(page, "What does it end with?")
    card = turn.locator("[data-approval]")
    expect(card.locator(".words-of li code").first).to_contain_text("tail")
    expect(card.locator(".words-of li code").last).to_have_text("greet.py")
    expect(card).to_contain_text("had read text that others may have written")  # the file went along before
    approve(seat, turn)
    over(turn)
    expect(turn).to_contain_text("It prints at the end.")
    (told,) = (each["content"] for each in engine.chats[-1].body["messages"] if each["role"] == "tool")
    assert "exit status 0" in told
    assert "print('inserted')" in told

    # A reload in the middle of an answer: it went on meanwhile, and is taken up where it is.
    page.locator(".panel [data-tools]").click()
    engine.script(Say(COUNT, 80))
    turn = ask(page, "Count for me")
    expect(turn).to_contain_text("word9", timeout=30_000)
    page.reload()
    turn = page.locator(".panel .turn.answer").last
    expect(turn).to_contain_text("word9", timeout=30_000)
    assert turn.get_attribute("data-state") == "running"
    over(turn)
    assert turn.locator("[data-field=blocks]").inner_text().split() == COUNT.split()
    assert not engine.chats[-1].gone
