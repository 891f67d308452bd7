"""Talking with the assistant in a browser: asking, reading as it comes, stopping, coming back, other versions."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import expect
from support.chats import Place, ask, over
from support.scripted_engine import Fail, Say, Stall
from support.waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

ANSWER = "Here is **how**:\n\n```python\ndef f(x):\n    return x  # عدد\n```\n\nThat is all."


async def test_a_question_is_answered_as_it_comes(place: Place) -> None:
    """The question stands at once, the answer grows, code keeps its language; the conversation gets a name and an address."""
    place.engine.script(Say(ANSWER, rate=40))
    page = await place.visit()
    turn = await ask(page, "How do I write f?")
    await expect(page.locator(".turn.asked .said")).to_have_text("How do I write f?")
    await expect(turn.locator(".prose").first).to_contain_text("Here is")
    await over(turn)
    await expect(turn.locator(".prose strong")).to_have_text("how")
    await expect(turn.locator(".code figcaption")).to_contain_text("python")
    assert await turn.locator(".code").get_attribute("data-code") == "def f(x):\n    return x  # عدد"
    await expect(turn.locator("[data-field=facts]")).to_contain_text("tokens")
    await expect(page.locator("[data-stop]")).to_be_hidden()
    assert re.search(r"/assistant/chat-\w+$", page.url)
    await expect(page.locator(".thread a[aria-current]")).to_have_count(1)


async def test_finished_blocks_are_not_built_again(place: Place) -> None:
    """What one reads, or has marked, stays the same element while more comes."""
    place.engine.script(Say("First.\n\nSecond.\n\n"), Say("Third and more words.", rate=20))
    page = await place.named()
    turn = await ask(page, "Three paragraphs")
    await expect(turn.locator(".prose").nth(1)).to_have_text("Second.")
    await turn.locator(".prose").first.evaluate("block => { block.dataset.mine = 'yes'; }")
    await over(turn)
    await expect(turn.locator(".prose").first).to_have_attribute("data-mine", "yes")
    await expect(turn.locator(".prose").nth(2)).to_have_text("Third and more words.")


async def test_stop_frees_the_engine(place: Place) -> None:
    """AI-13: the same button that sends stops; the engine is idle within two seconds, what had come stays."""
    place.engine.script(Say("Words that came. "), Stall())
    page = await place.named()
    turn = await ask(page, "Go on for ever")
    await expect(turn.locator(".prose")).to_contain_text("Words that came.")
    await page.locator("[data-stop]").click()
    await over(turn, "stopped")
    await until(lambda: place.engine.busy == 0, "the engine works on nothing", 2)
    await expect(turn.locator("[data-field=facts]")).to_contain_text("Stopped")
    await expect(page.locator("[data-send]")).to_be_visible()


async def test_an_answer_goes_on_over_a_reload_and_on_another_device(place: Place) -> None:
    """Reloading in the middle loses nothing, twice nothing; a second browser sees the same words come."""
    text = " ".join(f"word{number}" for number in range(60))
    place.engine.script(Say(text, rate=30))
    page = await place.named()
    turn = await ask(page, "Sixty words")
    await expect(turn.locator(".prose")).to_contain_text("word5")
    other = await place.visit(page.url.removeprefix(place.booth.address), lang="ar")
    await page.reload()
    for tab in (page, other):
        again = tab.locator(".turn.answer")
        await over(again)
        assert (await again.locator(".prose").inner_text()).strip() == text
    # The second device asks on; the first shows it without being touched.
    place.engine.script(Say("From there."))
    await ask(other, "And from here?")
    await expect(page.locator(".turn.answer").nth(1)).to_contain_text("From there.")
    await expect(page.locator(".turn.asked .said").nth(1)).to_have_text("And from here?")


async def test_a_question_waits_its_turn(place: Place) -> None:
    """Written while an answer runs, it goes when that is over; it can be taken back, and comes back when the answer is stopped."""
    place.engine.script(Say("slow " * 20, rate=20))
    place.engine.script(Say("The second answer."))
    page = await place.named()
    field = page.locator("[data-composer] textarea")
    await ask(page, "First")
    await field.fill("Second")
    await field.press("Enter")
    await expect(page.locator(".turn.answer").nth(1)).to_contain_text("The second answer.", timeout=20_000)
    await expect(page.locator(".turn.asked .said")).to_have_text(["First", "Second"])
    await over(page.locator(".turn.answer").nth(1))
    place.engine.script(Say("On and on. "), Stall())
    turn = await ask(page, "Third")
    await expect(turn).to_contain_text("On and on.")
    for text in ("Not this one", "Fourth"):
        await field.fill(text)
        await field.press("Enter")
    await expect(page.locator(".queued")).to_have_count(2)
    await page.locator(".queued").first.get_by_role("button").click()
    await page.locator("[data-stop]").click()
    await over(turn, "stopped")
    await expect(page.locator(".queued")).to_have_count(0)
    await expect(field).to_have_value("Fourth")


async def test_versions_of_answers_and_questions(place: Place) -> None:
    """Another answer, another question: nothing is lost, and one goes from one to the other."""
    page = await place.named()
    place.engine.script(Say("Answer one."))
    await over(await ask(page, "Question one"))
    place.engine.script(Say("Answer two."))
    await page.locator("[data-do=regenerate]").click()
    answer = page.locator(".turn.answer")
    await expect(answer).to_contain_text("Answer two.")
    await over(answer)
    await expect(answer.locator(".versions")).to_contain_text("2 of 2")
    await answer.get_by_role("button", name="Version before").click()
    await expect(answer).to_contain_text("Answer one.")
    place.engine.script(Say("Answer three."))
    await page.locator(".turn.asked").hover()
    await page.locator("[data-do=edit]").click()
    await page.locator(".edit-said textarea").fill("Question two")
    await page.locator(".edit-said textarea").press("Control+Enter")
    await expect(answer).to_contain_text("Answer three.")
    await expect(page.locator(".turn.asked .said")).to_have_text("Question two")
    await expect(page.locator(".turn.asked .versions")).to_contain_text("2 of 2")


async def test_what_went_along_goes_along_again_unless_it_is_taken_away(place: Place) -> None:
    """PRV-3: a question in other words shows what goes along with it, and each piece can be left out."""
    store, made = await place.store(), await place.conversation(title="A name")
    chips = [{"kind": "file", "path": f"{name}.py", "text": f"{name} = 1"} for name in ("one", "two")]
    asked = await store.add(made, None, "user", "What is it?", context=chips)
    await store.add(made, asked.id, "assistant", "It is.")
    page = await place.visit(f"/assistant/{made.id}")
    place.engine.script(Say("Again."))
    await page.locator(".turn.asked").hover()
    await page.locator("[data-do=edit]").click()
    await expect(page.locator(".edit-said .chip")).to_have_count(2)
    await page.locator(".edit-said").get_by_role("button", name="Leave it out").first.click()
    await page.locator(".edit-said textarea").press("Control+Enter")
    await expect(page.locator(".turn.answer")).to_contain_text("Again.")
    await expect(page.locator(".turn.asked .chip")).to_have_text("two.py")
    assert "two = 1" in place.engine.chats[-1].said
    assert "one = 1" not in place.engine.chats[-1].said


async def test_a_question_to_begin_with_is_sent_by_the_person(place: Place) -> None:
    """It is only written down, with the tools that it needs turned on."""
    page, before = await place.visit(), len(place.engine.chats)
    await page.locator("[data-do=starter]").first.click()
    await expect(page.locator("[data-composer] textarea")).to_be_focused()
    await expect(page.locator("[data-composer] textarea")).to_have_value(
        "What does this project do, and how do its parts fit together?"
    )
    await expect(page.locator("[data-tools]")).to_have_attribute("aria-pressed", "true")
    assert len(place.engine.chats) == before
    await page.locator("[data-tools]").click()  # the browser remembers it, and the next test is the same browser


async def test_what_goes_wrong_is_said_and_nothing_is_lost(place: Place) -> None:
    """An engine that fails leaves a sentence and the question; one can ask again."""
    place.engine.script(Fail())
    page = await place.named()
    turn = await ask(page, "Will this work?")
    await over(turn, "failed")
    await expect(turn.locator("[data-field=fault]")).to_be_visible()
    await expect(page.locator(".turn.asked .said")).to_have_text("Will this work?")
    place.engine.script(Say("Now it does."))
    await turn.get_by_role("button", name="Try again").click()
    await expect(page.locator(".turn.answer")).to_contain_text("Now it does.")


async def test_the_estimate_comes_while_typing_and_a_draft_stays(place: Place) -> None:
    """What a question would cost stands beside it; reloading loses nothing of what was written."""
    page = await place.named()
    await page.locator("[data-composer] textarea").fill("How many tokens is this question?")
    await expect(page.locator("#estimate")).to_contain_text("tokens")
    await page.reload()
    await expect(page.locator("[data-composer] textarea")).to_have_value("How many tokens is this question?")


async def test_a_draft_goes_with_who_signs_out(place: Place) -> None:
    """PRV-4: whoever signs in next in this tab does not find it."""
    page = await place.named(lang="ar")  # a browser that no other test here goes on with
    await page.locator("[data-composer] textarea").fill("What nobody else should read")
    await page.locator("form[action='/sign-out']").first.evaluate("form => form.requestSubmit()")
    await page.wait_for_url("**/sign-in**")
    kept = await page.evaluate("Object.entries(sessionStorage).flat().join(' ')")
    assert "nobody else" not in kept


async def test_without_scripts_one_reads_and_asks(place: Place) -> None:
    """A plain form asks; the page shows the answer as far as it is and comes again while it runs."""
    place.engine.script(Say("Plain **answer**."))
    found = await place.conversation("Old question", "Old *answer*.")
    page = await place.visit()
    cookies = await page.context.cookies()
    await page.close()
    context = await place.booth.browser.new_context(java_script_enabled=False)
    await context.add_cookies(cookies)  # type: ignore[arg-type]
    plain = await context.new_page()
    await plain.goto(f"{place.booth.address}/assistant/{found.id}")
    await expect(plain.locator(".turn.answer em")).to_have_text("answer")
    await plain.locator("[data-composer] textarea").fill("And now?")
    await plain.locator("[data-send]").click()
    await expect(plain.locator(".turn.answer strong")).to_have_text("answer", timeout=15_000)
    assert plain.url.endswith(found.id)
    await context.close()
