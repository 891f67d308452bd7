"""What a hostile model, file or question would try against the assistant itself: to be accepted unseen, to keep the machine busy, to
outlive the rights it was asked with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest
from support.broker import Home
from support.commands import Room
from support.scripted_engine import Call, Hold, Say, Script, ScriptedEngine, Stall
from support.talk import Talk
from support.waiting import until

from appliance.assistant import folding, owned
from appliance.assistant.live import Live
from appliance.assistant.messages import Message, Role, State
from appliance.assistant.proposals import MOST_DIFF, difference
from appliance.assistant.taint import tainted
from appliance.assistant.tools import MOST_CONTENT, Mistake
from appliance.commands import redact
from appliance.commands.hidden import hidden_in_text
from appliance.identity.users import Role as Rights
from webui.chat import diff_lines
from webui.markup import Streaming, render
from webui.markup.unseen import in_code

LENGTH = 40_000


def test_what_cannot_be_shown_whole_is_not_proposed() -> None:
    """AI-4: the end of a long file is where nobody looks; a difference is whole or there is none."""
    harmless = "x = 1  # nothing to see\n" * 4000
    with pytest.raises(Mistake, match=r"more of a\.py than can be shown"):
        difference("a.py", harmless, harmless.replace("1", "2") + "import os; os.system('evil')\n", new=False)
    with pytest.raises(Mistake, match="than can be shown"):
        difference("a.py", "", "\n" * MOST_CONTENT, new=True)
    end = "import os; os.system('evil')\n"
    shown = difference("a.py", "", ("y = 1\n" * 20_000) + end, new=True)
    assert len(shown) <= MOST_DIFF
    assert shown.endswith(f"+{end}")


@pytest.mark.parametrize("end", ["\r", "\u2028", "\x85", "\x0b", "\x1c"])
def test_what_ends_a_line_for_some_is_seen(end: str) -> None:
    """AI-4: a remark that ends earlier than it seems to; the page names the character, so it must get there."""
    diff = difference("a.js", "x()\n", f"x()\n// fine{end}evil()\n", new=False)
    assert diff_lines(diff)[-1] == ("add", f"+// fine{end}evil()")
    assert "No newline" not in diff
    assert hidden_in_text(diff_lines(diff)[-1][1])


def test_comparing_is_given_up_before_it_takes_long() -> None:
    """AI-11: lines made so that each matches many others."""
    old = "".join(f"{n % 97}\n" for n in range(20_000))
    began = time.process_time()
    with pytest.raises(Mistake):
        difference("a", old, "".join(f"{n * 31 % 97}\n" for n in range(20_000)), new=False)
    assert time.process_time() - began < 2


async def test_a_block_of_an_answer_is_saved_whole_or_not(worker: Talk, scripted: ScriptedEngine, hands: Home) -> None:
    """AI-4: the same holds for what a person saves from an answer."""
    scripted.script(Say("Take this."))
    conversation = await worker.begin()
    answer, _ = await worker.answer(conversation, "Write it")
    text = "line\n" * 60_000
    path = f"/api/conversations/{conversation}/proposals"
    told = await worker.call("POST", path, 400, message=answer, path="long.txt", text=text)
    assert "than can be shown" in told["error"]["message"]
    assert not (hands.paths.workspace / "long.txt").exists()


@pytest.mark.parametrize(
    "unit", ["+", "a+", "@+", ">", "> ", " ", "~", "`", "1.", "- ", "*", "-", "#", "|", "=", "_+/"]
)
def test_a_long_line_is_read_in_a_moment(unit: str) -> None:
    """WEB-13: of a question and of an answer as it comes; the daemon does nothing else meanwhile."""
    line = unit * (LENGTH // len(unit))
    began = time.process_time()
    render(f": {line} x")
    Streaming().feed(f"{line}é")
    assert time.process_time() - began < 4


def test_digits_in_code_are_read_in_a_moment() -> None:
    """WEB-13: one letter of another alphabet makes code be searched for words from right to left."""
    began = time.process_time()
    assert in_code("1" * LENGTH + "é").startswith("111")
    assert in_code("12.5 سطر") == "<bdi>12.5 سطر</bdi>"
    assert time.process_time() - began < 2


def test_a_file_of_beginnings_is_redacted_in_a_moment() -> None:
    """AI-7: reading a file must not stop the daemon; a whole key, an encrypted one and half a one are blanked still."""
    began = time.process_time()
    redact.body("-----BEGIN PRIVATE KEY-----" * 10_000)
    assert time.process_time() - began < 2
    head = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,A1\n\nhunter two"
    for end in ("\n-----END RSA PRIVATE KEY-----", ""):
        assert redact.body(f"a\n-----BEGIN RSA PRIVATE KEY-----\n{head}{end}") == f"a\n{redact.BLANK}"


@pytest.mark.parametrize("state", [State.INTERRUPTED, State.RUNNING])
def test_an_answer_whose_end_was_not_seen_taints(state: State) -> None:
    """AI-3: the daemon died over it, so which files it had read is known to nobody."""
    asked = Message("msg-1", "chat-1", None, Role.USER, "Look", State.DONE, 0.0)
    assert tainted([asked, Message("msg-2", "chat-1", "msg-1", Role.ASSISTANT, "The file says", state, 0.0)])
    assert not tainted([asked, Message("msg-2", "chat-1", "msg-1", Role.ASSISTANT, "Well", State.STOPPED, 0.0)])


async def test_what_was_proposed_is_told_and_goes(worker: Talk, shop: Room, scripted: ScriptedEngine) -> None:
    """PRV-4, PRV-6: a difference holds somebody's file; it is in the export, and gone with the conversation."""
    scripted.script(Say("Take this."))
    conversation = await worker.begin()
    answer, _ = await worker.answer(conversation, "Write it")
    path = f"/api/conversations/{conversation}/proposals"
    made = await worker.call("POST", path, 201, message=answer, path="own.txt", text="mine\n")
    database, person = shop.front.store.database, (await shop.front.member("operator")).id
    (told,) = [one for one in await owned.told(database, person) if one["id"] == conversation]
    assert [one["id"] for one in told["proposals"]] == [made["proposal"]["id"]]
    assert "+mine" in told["proposals"][0]["diff"]
    await worker.call("DELETE", f"/api/conversations/{conversation}", 200)
    assert await database.rows("SELECT 1 FROM proposals WHERE conversation = ?", (conversation,)) == []


async def test_a_refused_question_leaves_nothing_behind(worker: Talk, scripted: ScriptedEngine) -> None:
    """Asking once more than may be under way, again and again, does not fill the conversation."""
    scripted.otherwise = lambda body: Script((Stall(),))
    busy = [await worker.begin() for _ in range(4)]
    for conversation in busy:
        await worker.ask(conversation, "Go")
    fifth = await worker.begin()
    for _ in range(2):
        await worker.call("POST", f"/api/conversations/{fifth}/messages", 409, text="And this")
    assert await worker.messages(fifth) == []
    for conversation in busy:
        await worker.stop(conversation)


@pytest.mark.parametrize("change", [{"suspended": True}, {"role": Rights.viewer}])
async def test_an_answer_loses_what_its_person_loses(
    worker: Talk, shop: Room, scripted: ScriptedEngine, hands: Home, change: dict[str, object]
) -> None:
    """AI-1, AUTH-10: it goes on when the page goes, and ends when its person is gone or may use no tools any more."""
    secret = hands.paths.workspace / "plan.txt"
    secret.write_text("the plan of others\n")
    gate = asyncio.Event()
    scripted.script(Hold(gate), Call("read_file", {"path": "plan.txt"}, "a"))
    scripted.script(Say("I could not."))
    conversation = await worker.begin()
    answer = await worker.ask(conversation, "Read the plan", tools=True)
    await until(lambda: scripted.chats, "the model is asked")
    user = await shop.front.member("operator")
    await shop.front.users.change(user, "test", **change)
    try:
        await until(lambda: scripted.chats[0].over, "the engine is let go")
        assert scripted.chats[0].gone
        gate.set()
        answers, store = await shop.front.answering.answers.get(), await shop.front.conversations.get()
        await until(lambda: not answers.running(conversation), "it is over")
        ended = await store.message(await store.get(user.id, conversation), answer)
        assert (ended.state, ended.usage["error"]["code"]) == ("failed", "let_go")
        assert len(scripted.chats) == 1
    finally:
        secret.unlink()
        await shop.front.users.change(user, "test", role=Rights.operator, suspended=False)


async def test_an_end_that_could_not_be_saved_reads_as_interrupted(
    worker: Talk, shop: Room, scripted: ScriptedEngine
) -> None:
    """A full disk: whoever comes back is not left waiting for an answer that nobody gives."""
    scripted.script(Say("Nearly done."))
    conversation = await worker.begin()
    answer, _ = await worker.answer(conversation, "Go")
    await shop.front.store.database.execute("UPDATE messages SET state = 'running' WHERE id = ?", (answer,))
    async with worker.reading(conversation) as reader:
        assert await reader.over(answer) == "interrupted"
        await reader.until(lambda now: "Nearly done." in now.html(answer), "what was saved is shown")


def test_words_without_end_are_not_kept() -> None:
    """WEB-16: what was folded once is remembered; thousands of words of a hundred thousand letters would fill the memory."""
    folding.folded.cache_clear()
    ((begin, end, word),) = folding.words("\u0628\u064e" * 50_000)
    assert (begin, end, len(word.base)) == (0, 100_000, 64)
    asked = folding.folded.cache_info().misses
    list(folding.words("\u0628\u064e" * 50_001))
    assert folding.folded.cache_info().misses == asked


async def test_who_reads_slowly_holds_no_copies() -> None:
    """WEB-16: hundreds of events may wait for a reader; they share the one text there is."""
    told: list[tuple[str, Mapping[str, Any]]] = []
    asked = Message("msg-2", "chat-1", "msg-1", Role.ASSISTANT, "", State.RUNNING, 0.0)
    live = Live(asked, Streaming(), lambda name, data: told.append((name, data)), lambda text, steps: None)
    live.put("one")
    live.put(" two")
    live.ended(asked)
    first, last = (data for name, data in told if name == "text")
    assert first["text"] is last["text"]
    assert dict(first) == {"message": "msg-2", "text": "one two"}
