"""Answers with tools: models that go on and on, models that call no tools, and the record of every step."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from support.broker import Home
from support.commands import Room, forget, room_in
from support.scripted_engine import Call, Fail, OverHttp, Say, Script, ScriptedEngine
from support.talk import Talk

pytestmark = pytest.mark.usefixtures("project")


async def test_the_same_thing_three_times_ends_it(worker: Talk, scripted: ScriptedEngine) -> None:
    """AI-11."""
    scripted.otherwise = lambda body: Script((Call("read_file", {"path": "notes.txt"}),))
    conversation = await worker.begin()
    answer, reader = await worker.answer(conversation, "Go", tools=True)
    assert reader.usage[answer]["capped"] == "loop"
    assert len(reader.steps) == 2
    assert [data for data in reader.named("message") if data.get("words")]


async def test_an_endless_loop_ends_at_the_cap(worker: Talk, scripted: ScriptedEngine) -> None:
    """AI-11: a model that never stops calling."""
    scripted.otherwise = lambda body: Script((Call("search_files", {"text": f"x{len(body['messages'])}"}),))
    conversation = await worker.begin()
    answer, reader = await worker.answer(conversation, "Go", tools=True)
    assert reader.usage[answer]["capped"] == "steps"
    assert len(reader.steps) == 12


# --- models that do not call tools


@pytest.fixture
async def plain(hands: Home, scripted: ScriptedEngine) -> AsyncIterator[Talk]:
    """A model that was never taught to call tools."""
    async with room_in(hands, engine=OverHttp(scripted, tools=False)) as made:
        yield Talk(made.front, made.cookies["operator"])
    forget(hands)


async def test_tools_by_constrained_output(plain: Talk, scripted: ScriptedEngine) -> None:
    """A choice in JSON of a fixed shape, then the answer in words."""
    scripted.script(Say(json.dumps({"action": "read_file", "path": "src/app.py"})))
    scripted.script(Say(json.dumps({"action": "answer"})))
    scripted.script(Say("It greets."))
    conversation = await plain.begin()
    answer, reader = await plain.answer(conversation, "What does it do?", tools=True)
    assert reader.states[answer] == "done"
    first, second, third = scripted.chats[:3]
    assert first.body["response_format"]["type"] == "json_schema"
    assert "tools" not in first.body
    assert "def greet" in second.said
    assert "response_format" not in third.body
    assert (await plain.messages(conversation))[-1]["text"] == "It greets."
    assert [step["tool"] for step in (await plain.messages(conversation))[-1]["steps"]] == ["read_file"]


async def test_a_model_that_cannot_choose_just_answers(plain: Talk, scripted: ScriptedEngine) -> None:
    scripted.script(Say("I would rather talk {"))
    scripted.script(Say('["no"]'))
    scripted.script(Say("In my own words."))
    conversation = await plain.begin()
    await plain.answer(conversation, "What does it do?", tools=True)
    assert (await plain.messages(conversation))[-1]["text"] == "In my own words."


async def test_a_server_without_tools_or_schemas_still_answers(worker: Talk, scripted: ScriptedEngine) -> None:
    scripted.script(Fail(400))
    scripted.script(Fail(500))
    scripted.script(Say("Plainly."))
    conversation = await worker.begin()
    await worker.answer(conversation, "Well?", tools=True)
    assert (await worker.messages(conversation))[-1]["text"] == "Plainly."


# --- the record


async def test_the_record_tells_every_step(worker: Talk, scripted: ScriptedEngine, shop: Room) -> None:
    """AI-12: what the conversation shows is what the audit log holds, without a text."""
    scripted.script(Call("read_file", {"path": "src/app.py"}, "a"), Call("read_file", {"path": "nowhere"}, "b", 1))
    scripted.script(Call("propose_command", {"command": "cat notes.txt"}, "c"))
    scripted.script(Say("Good."))
    conversation = await worker.begin()
    answer, _ = await worker.answer(conversation, "Look around", tools=True)
    records = [record for record in reversed(await shop.audit()) if record.detail.get("message") == answer]
    steps = [record.detail for record in records if record.event == "ai.step"]
    shown = (await worker.messages(conversation))[-1]["steps"]
    assert [(step["n"], step["tool"], step["decision"]) for step in steps] == [
        (step["n"], step["tool"], step["state"]) for step in shown
    ]
    assert steps[2]["exit"] == 0
    assert steps[2]["run"].startswith("run-")
    asked = [record for record in records if record.event == "ai.ask"]
    assert len(asked) == 3
    assert all(len(record.detail["prompt"]) == 64 and record.detail["model"] == "scripted" for record in asked)
    everything = json.dumps([record.detail for record in records])
    assert "Look around" not in everything
    assert "app.py" not in everything
