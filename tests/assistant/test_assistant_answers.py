"""Answers over HTTP, with a scripted engine that speaks real HTTP: streaming, stopping, re-attaching, versions, the queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.front import Front, front
from support.scripted_engine import Fail, OverHttp, Say, ScriptedEngine, Stall, scripted_engine
from support.talk import Talk
from support.waiting import until


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[ScriptedEngine]:
    async with scripted_engine(socket=tmp_path / "engine.sock") as running:
        yield running


@pytest.fixture
async def door(tmp_path: Path, engine: ScriptedEngine) -> AsyncIterator[Front]:
    async with front(tmp_path / "home", engine=OverHttp(engine)) as made:
        yield made


@pytest.fixture
async def talk(door: Front) -> Talk:
    return Talk(door, (await door.sign_in_as("operator"))[1])


async def test_an_answer_streams_and_is_kept(talk: Talk, engine: ScriptedEngine) -> None:
    """The first words are seen long before the last, and the whole is there afterwards."""
    engine.script(Say("Hello **world**, here is some code:\n\n```python\nprint(1)\n```\n", 40), usage_tokens=(21, 9))
    conversation = await talk.begin()
    async with talk.reading(conversation) as reader:
        answer = await talk.ask(conversation, "Say hello")
        await reader.until(lambda now: "Hello" in now.html(answer), "the first word")
        assert reader.states[answer] == "running"
        assert await reader.over(answer) == "done"
    assert "<strong>world</strong>" in reader.html(answer)
    assert reader.usage[answer]["prompt_tokens"] == 21
    assert reader.usage[answer]["completion_tokens"] == 9
    asked, answered = await talk.messages(conversation)
    assert asked["text"] == "Say hello"
    assert answered["text"].startswith("Hello **world**")
    assert answered["state"] == "done"
    assert answered["model"] == "scripted"


async def test_what_the_engine_is_asked(talk: Talk, engine: ScriptedEngine) -> None:
    """The key, a short system prompt, the question; no tools unless asked for."""
    conversation = await talk.begin()
    await talk.answer(conversation, "What is a list?")
    asked = engine.chats[0]
    assert asked.headers["Authorization"] == "Bearer sk-scripted"
    assert [message["role"] for message in asked.body["messages"]] == ["system", "user"]
    assert asked.body["messages"][1]["content"] == "What is a list?"
    assert "tools" not in asked.body
    assert len(asked.body["messages"][0]["content"]) < 500


async def test_the_next_question_brings_the_conversation_along(talk: Talk, engine: ScriptedEngine) -> None:
    engine.script(Say("A list holds things."))
    conversation = await talk.begin()
    await talk.answer(conversation, "What is a list?")
    engine.script(Say("Yes."))
    await talk.answer(conversation, "Can it hold a list?")
    said = [message["content"] for message in engine.chats[-1].body["messages"]]
    assert said[1:] == ["What is a list?", "A list holds things.", "Can it hold a list?"]


async def test_stop_closes_the_connection_and_frees_the_engine(talk: Talk, engine: ScriptedEngine) -> None:
    """AI-13: two seconds from the button to an engine that works on nothing."""
    engine.script(Say("word " * 5000, 50))
    conversation = await talk.begin()
    async with talk.reading(conversation) as reader:
        answer = await talk.ask(conversation, "Go on and on")
        await reader.until(lambda now: "word" in now.html(answer), "the first word")
        begin = time.monotonic()
        assert await talk.stop(conversation) == {"stopped": True, "freed": True}
        assert time.monotonic() - begin < 2
        assert await reader.over(answer) == "stopped"
    assert engine.busy == 0
    assert engine.chats[0].gone
    assert (await talk.messages(conversation))[-1]["text"].startswith("word")
    assert (await talk.messages(conversation))[-1]["state"] == "stopped"


@pytest.mark.parametrize("script", [(Stall(),), (Say("a few words"), Stall())], ids=["before the first", "in between"])
async def test_stop_while_the_engine_says_nothing(talk: Talk, engine: ScriptedEngine, script: tuple[Say]) -> None:
    """AI-13: a silent engine is let go as well."""
    engine.script(*script)
    conversation = await talk.begin()
    answer = await talk.ask(conversation, "Well?")
    await until(lambda: engine.busy, "the engine was asked")
    assert await talk.stop(conversation) == {"stopped": True, "freed": True}
    assert engine.chats[0].gone
    assert (await talk.messages(conversation))[-1]["id"] == answer
    assert await talk.stop(conversation) == {"stopped": False, "freed": None}


async def test_the_answer_goes_on_when_the_reader_goes(talk: Talk, engine: ScriptedEngine) -> None:
    """A reload in the middle: the next reader is given all there is, then the rest."""
    engine.script(Say(" ".join(f"word{n}" for n in range(60)), 60))
    conversation = await talk.begin()
    async with talk.reading(conversation) as reader:
        answer = await talk.ask(conversation, "Count")
        await reader.until(lambda now: "word9" in now.html(answer), "some words")
    async with talk.reading(conversation, after=reader.last_id) as again:
        await again.until(lambda now: "word9" in now.html(answer), "what was missed", 3)
        assert again.states[answer] == "running"
        assert await again.over(answer) == "done"
        await again.until(lambda now: "word59" in now.html(answer), "the last word")
    text = again.html(answer)
    assert all(f"word{n}" in text for n in range(60))
    assert text.count("word30") == 1
    assert not engine.chats[0].gone


async def test_two_readers_see_the_same(talk: Talk, engine: ScriptedEngine) -> None:
    engine.script(Say("The *same* for everybody, whenever they come.", 30))
    conversation = await talk.begin()
    async with talk.reading(conversation) as first:
        answer = await talk.ask(conversation, "Hello")
        await first.until(lambda now: "same" in now.html(answer), "the beginning")
        async with talk.reading(conversation) as second:
            await first.over(answer)
            await second.over(answer)
            await second.until(lambda now: now.html(answer) == first.html(answer), "the same text")
    assert len(engine.chats) >= 1


async def test_one_answer_at_a_time(talk: Talk, engine: ScriptedEngine) -> None:
    """Two questions at the same moment: one is answered, the other is told why not."""
    engine.script(Stall())
    conversation = await talk.begin()
    path = f"/api/conversations/{conversation}/messages"
    found = await asyncio.gather(*(talk.call("POST", path, text=f"question {n}") for n in range(5)))
    assert sum("answer" in one for one in found) == 1
    assert {one["error"]["code"] for one in found if "error" in one} == {"busy"}
    await talk.stop(conversation)


async def test_the_queue_is_fair_and_says_the_place(door: Front, talk: Talk, engine: ScriptedEngine) -> None:
    """Who asked three times does not come three times before somebody else."""
    other = Talk(door, (await door.sign_in_as("viewer"))[1])
    engine.script(Stall())
    first, *more = [await talk.begin() for _ in range(3)]
    theirs = await other.begin()
    await talk.ask(first, "the first")
    await until(lambda: engine.busy, "it works")
    for conversation in more:
        await talk.ask(conversation, "more")
    async with other.reading(theirs) as reader, talk.reading(more[1]) as last:
        answer = await other.ask(theirs, "and me?")
        await reader.until(lambda now: any(s.get("place") == 1 for s in now.named("status")), "they are next")
        await last.until(lambda now: any(s.get("place") == 3 for s in now.named("status")), "the last is third")
        await talk.stop(first)
        assert await reader.over(answer) == "done"
    assert engine.chats[1].body["messages"][-1]["content"] == "and me?"
    for conversation in more:
        await talk.stop(conversation)


async def test_another_answer_and_an_edit_are_branches(talk: Talk, engine: ScriptedEngine) -> None:
    engine.script(Say("one"))
    conversation = await talk.begin()
    first, _ = await talk.answer(conversation, "Pick a number")
    engine.script(Say("two"))
    async with talk.reading(conversation) as reader:
        second = (await talk.call("POST", f"/api/conversations/{conversation}/messages/{first}/regenerate", 201))[
            "answer"
        ]["id"]
        await reader.over(second)
    asked, answered = await talk.messages(conversation)
    assert answered["text"] == "two"
    assert (answered["position"], answered["siblings"]) == (2, 2)
    engine.script(Say("A word, then"))
    await talk.answer(conversation, "Pick a word", parent=None)
    edited, _ = await talk.messages(conversation)
    assert edited["text"] == "Pick a word"
    assert edited["siblings"] == 2
    back = await talk.call("POST", f"/api/conversations/{conversation}/branch", 200, message=first)
    assert [message["text"] for message in back["messages"]] == ["Pick a number", "one"]
    assert asked["id"] == back["messages"][0]["id"]


async def test_titles(talk: Talk, engine: ScriptedEngine) -> None:
    """The question's first words at once, the model's when it has time; decoration is left out."""
    engine.script(Say("An answer"))
    engine.script(Say('**"Sorting lists in Python"**\nand more'))
    conversation = await talk.begin(title="")
    async with talk.reading(conversation) as reader:
        await talk.ask(conversation, "How do I sort a list of very many things in Python by the length of their names?")
        await reader.until(lambda now: now.named("title"), "a title at once")
        assert reader.named("title")[0]["title"] == "How do I sort a list of very many things in Python by the"
        await reader.until(lambda now: len(now.named("title")) == 2, "the model's title")
    assert reader.named("title")[1]["title"] == "Sorting lists in Python"
    assert engine.chats[1].body["max_tokens"] < 64


@pytest.mark.parametrize(
    ("status", "code"), [(401, "engine_refused"), (500, "engine_rejected"), (429, "engine_refused")]
)
async def test_an_engine_that_refuses(talk: Talk, engine: ScriptedEngine, status: int, code: str) -> None:
    engine.script(Fail(status))
    conversation = await talk.begin()
    answer, reader = await talk.answer(conversation, "Hello?")
    assert reader.states[answer] == "failed"
    assert reader.usage[answer]["error"]["code"] == code
    assert next(data for data in reader.named("message") if data["state"] == "failed")["error"]
    engine.script(Say("Better now"))
    _, reader = await talk.answer(conversation, "And now?")
    assert (await talk.messages(conversation))[-1]["text"] == "Better now"


async def test_without_an_engine_it_is_said(tmp_path: Path) -> None:
    async with front(tmp_path / "home") as door:
        talk = Talk(door, (await door.sign_in_as("viewer"))[1])
        conversation = await talk.begin()
        answer, reader = await talk.answer(conversation, "Anybody there?")
        assert reader.states[answer] == "failed"
        assert reader.usage[answer]["error"]["code"].startswith("ai_")


async def test_a_viewer_chats_but_has_no_tools(door: Front) -> None:
    talk = Talk(door, (await door.sign_in_as("viewer"))[1])
    conversation = await talk.begin()
    await talk.answer(conversation, "Hello")
    path = f"/api/conversations/{conversation}/messages"
    chip = {"kind": "file", "path": "a.py", "text": "secret"}
    assert (await talk.call("POST", path, 403, text="read", tools=True))["error"]["code"] == "forbidden"
    assert (await talk.call("POST", path, 403, text="read", context=[chip]))["error"]["code"] == "forbidden"


async def test_nobody_else_reads_or_stops_it(door: Front, talk: Talk, engine: ScriptedEngine) -> None:
    """An admin neither."""
    engine.script(Stall())
    conversation = await talk.begin()
    await talk.ask(conversation, "Mine")
    admin = Talk(door, (await door.sign_in_as("admin"))[1])
    for method, path in (("GET", "/stream"), ("POST", "/stop"), ("POST", "/messages")):
        body = {"text": "x"} if path == "/messages" else {}
        await admin.call(method, f"/api/conversations/{conversation}{path}", 404, **body)
    assert (await talk.stop(conversation))["stopped"]


async def test_a_restart_in_the_middle_is_said_afterwards(tmp_path: Path, engine: ScriptedEngine) -> None:
    """The daemon stops while an answer comes: what came is kept, and the message says that it was interrupted."""
    engine.script(Say("some words " * 200, 100))
    async with front(tmp_path / "home", engine=OverHttp(engine)) as door:
        talk = Talk(door, (await door.sign_in_as("operator"))[1])
        conversation = await talk.begin()
        async with talk.reading(conversation) as reader:
            answer = await talk.ask(conversation, "Tell me")
            await reader.until(lambda now: "words" in now.html(answer), "some words")
    assert engine.chats[0].gone
    async with front(tmp_path / "home", engine=OverHttp(engine)) as door:
        talk = Talk(door, (await door.sign_in_as("operator"))[1])
        last = (await talk.messages(conversation))[-1]
        assert last["state"] == "interrupted"
        assert last["text"].startswith("some words")


async def test_deleting_a_conversation_ends_its_answer(talk: Talk, engine: ScriptedEngine) -> None:
    engine.script(Stall())
    conversation = await talk.begin()
    await talk.ask(conversation, "Never mind")
    await until(lambda: engine.busy, "the engine was asked")
    await talk.call("DELETE", f"/api/conversations/{conversation}", 200)
    await until(lambda: not engine.busy, "the engine was let go", 2)


async def test_a_question_in_other_words_takes_its_context_along(talk: Talk, engine: ScriptedEngine) -> None:
    """What was sent along stays, but for what the person takes away (PRV-3)."""
    conversation = await talk.begin()
    chips = [{"kind": "file", "path": f"{name}.py", "text": f"{name} = 1"} for name in ("one", "two")]
    await talk.answer(conversation, "What is it?", context=chips)
    asked = (await talk.messages(conversation))[0]
    async with talk.reading(conversation) as reader:
        await reader.over(await talk.ask(conversation, "What is that?", edits=asked["id"], without=[0]))
    again = (await talk.messages(conversation))[0]
    assert (again["text"], again["parent"], again["siblings"]) == ("What is that?", None, 2)
    assert [chip["path"] for chip in again["context"]] == ["two.py"]
    assert "two = 1" in engine.chats[-1].said
    assert "one = 1" not in engine.chats[-1].said
    answer = (await talk.messages(conversation))[1]
    await talk.call("POST", f"/api/conversations/{conversation}/messages", 400, text="x", edits=answer["id"])


async def test_bad_questions_are_told_why(talk: Talk) -> None:
    conversation = await talk.begin()
    path = f"/api/conversations/{conversation}/messages"
    assert (await talk.call("POST", path, 400, text="  "))["error"]["code"] == "empty"
    assert (await talk.call("POST", path, 400, text="x" * 200_000))["error"]["code"] == "too_long"
    chip = {"kind": "rootkit", "text": "x"}
    await talk.call("POST", path, 400, text="x", context=[chip])
    await talk.call("POST", path, 404, text="x", parent="msg-none")
    assert (await talk.messages(conversation)) == []


async def test_estimates(talk: Talk, engine: ScriptedEngine) -> None:
    """Tokens at once; seconds as soon as the model's speed was seen."""
    before = await talk.call("POST", "/api/assistant/estimate", 200, text="How long is this?")
    assert before["tokens"] > 30
    assert before["context"] == 4096
    assert before["seconds"] is None
    engine.script(Say("word " * 30, 100), usage_tokens=(50, 30))
    await talk.answer(await talk.begin(), "Hello")
    after = await talk.call("POST", "/api/assistant/estimate", 200, text="How long is this?")
    assert 1 < after["seconds"] < 10
    longer = await talk.call("POST", "/api/assistant/estimate", 200, text="سؤال طويل " * 50)
    assert longer["tokens"] > after["tokens"] + 100
