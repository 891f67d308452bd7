"""Answers that end before they are done: their conversation goes, their person goes, the daemon is killed."""

from __future__ import annotations

import asyncio

import pytest
from support.commands import Room
from support.proposing import write
from support.scripted_engine import Call, Say, ScriptedEngine, Stall
from support.talk import Talk
from support.waiting import until

from appliance.assistant.conversations import Conversations
from appliance.assistant.messages import State
from appliance.assistant.person import Person
from appliance.clock import SystemClock
from appliance.errors import Conflict
from appliance.identity.users import Role as Rights


async def test_a_question_beside_a_deletion_leaves_no_answer_behind(worker: Talk, scripted: ScriptedEngine) -> None:
    """Whoever comes first: nobody goes on talking in a conversation that is not there."""
    for number in range(12):
        scripted.script(Stall())
        conversation = await worker.begin()
        if number % 2:
            await worker.ask(conversation, "The first")
            await until(lambda: scripted.busy, "the engine works")
        question = worker.call("POST", f"/api/conversations/{conversation}/messages", text="And this")
        deletion = worker.call("DELETE", f"/api/conversations/{conversation}", 200)
        await asyncio.gather(deletion, question)
        await until(lambda: not scripted.busy, "the engine is let go", 5)
        assert (await worker.call("GET", f"/api/conversations/{conversation}", 404))["error"]["code"] == "not_found"
        scripted.forget()


async def test_an_answer_ends_with_the_last_session_of_its_person(
    worker: Talk, scripted: ScriptedEngine, shop: Room
) -> None:
    """AUTH-9: signing out on one device leaves what another one may still read; after the last one nobody is told anything."""
    scripted.script(Say("word " * 4000, 50))
    conversation = await worker.begin()
    answer = await worker.ask(conversation, "Go on")
    await until(lambda: scripted.busy, "the engine works")
    user = await shop.front.member("operator")
    first, *_ = shop.front.sessions.of(user.id)
    other, _ = await shop.front.sign_in_as("operator")
    await shop.front.sessions.end([other], "signed_out", user.id)
    assert (await shop.front.answering.answers.get()).running(conversation)
    await shop.front.sessions.end([first], "signed_out", user.id)
    await until(lambda: not scripted.busy, "the engine is let go", 2)
    back = Talk(shop.front, (await shop.front.sign_in_as("operator"))[1])
    async with back.reading(conversation) as reader:
        assert await reader.over(answer) == "failed"
    assert reader.named("message")[-1]["error"].startswith("It ended here: who asked has signed out")
    assert (await back.messages(conversation))[-1]["text"].startswith("word")


async def test_a_viewer_goes_on_talking_without_tools(worker: Talk, scripted: ScriptedEngine, shop: Room) -> None:
    """DECIDED 18: a role that falls takes the tools, not the talk."""
    scripted.script(Say("word " * 60, 60))
    conversation = await worker.begin()
    answer = await worker.ask(conversation, "Go on")
    await until(lambda: scripted.busy, "the engine works")
    user = await shop.front.member("operator")
    await shop.front.users.change(user, "test", role=Rights.viewer)
    store = await shop.front.conversations.get()
    answers = await shop.front.answering.answers.get()
    await until(lambda: not answers.running(conversation), "it is over")
    assert (await store.message(await store.get(user.id, conversation), answer)).state is State.DONE
    await shop.front.users.change(user, "test", role=Rights.operator)


@pytest.mark.parametrize(
    ("here", "tools", "state"), [(False, False, "failed"), (True, True, "failed"), (True, False, "done")]
)
async def test_an_answer_that_is_just_beginning_ends_with_its_person_too(
    worker: Talk, scripted: ScriptedEngine, shop: Room, here: bool, tools: bool, state: str
) -> None:
    """AI-1, AUTH-9: what their person loses while the question is being kept is lost to its answer as well."""
    scripted.script(Say("Well."))
    conversation, person = await worker.begin(), await person_of(shop)
    answers = await shop.front.answering.answers.get()
    async with shop.front.store.database.transaction():  # the question waits for its turn to be kept
        twice = [asyncio.create_task(answers.ask(person, conversation, "Go on", tools=tools)) for _ in range(2)]
        (refused,), (asking,) = await asyncio.wait(twice, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(refused.exception(), Conflict), "the other one has begun"
        answers.let_go(person.id, here=here, may_use_tools=False)
    _, answer = await asking
    await until(lambda: not answers.running(conversation), "it is over")
    store = await shop.front.conversations.get()
    ended = await store.message(await store.get(person.id, conversation), answer.id)
    assert (ended.state, len(scripted.chats)) == (state, state == "done")
    assert ended.usage.get("error", {}).get("code") == ("let_go" if state == "failed" else None)


async def test_an_answer_that_ends_before_its_first_step_is_closed(
    worker: Talk, scripted: ScriptedEngine, shop: Room
) -> None:
    """Otherwise its conversation would be busy until the daemon stops."""
    conversation, person = await worker.begin(), await person_of(shop)
    answers = await shop.front.answering.answers.get()
    _, answer = await answers.ask(person, conversation, "Go on")
    assert (await answers.stop(person, conversation)).stopped
    store = await shop.front.conversations.get()
    assert (await store.message(await store.get(person.id, conversation), answer.id)).state is State.STOPPED
    _, answer = await answers.ask(person, conversation, "Go on")
    answers.let_go(person.id, here=False, may_use_tools=False)
    await until(lambda: not answers.running(conversation), "it is over")
    assert (await store.message(await store.get(person.id, conversation), answer.id)).state is State.FAILED
    assert not scripted.chats


async def person_of(shop: Room) -> Person:
    user = await shop.front.member("operator")
    return Person(user.id, user.name, "operator", user.id)


async def test_the_steps_of_a_killed_daemon_are_kept(worker: Talk, scripted: ScriptedEngine, shop: Room) -> None:
    """What was shown is on disk within a second; nobody follows a step that was under way, so it reads as stopped."""
    scripted.script(Call("list_files", {}, "a"), Call("propose_command", {"command": "touch x"}, "b", 1))
    conversation = await worker.begin()
    answer = await worker.ask(conversation, "Look, then touch", tools=True)
    database = shop.front.store.database

    async def kept() -> str:
        row = await database.row("SELECT steps FROM messages WHERE id = ?", (answer,))
        assert row is not None
        return str(row["steps"])

    async with asyncio.timeout(10):
        while '"waiting"' not in await kept():  # noqa: ASYNC110 - a row of a table wakes nobody
            await asyncio.sleep(0.05)
    # What a daemon that was killed would find when it comes back.
    after = Conversations(database, shop.front.audit, SystemClock())
    assert await after.recover() == 1
    owner = (await shop.front.member("operator")).id
    message = await after.message(await after.get(owner, conversation), answer)
    assert message.state is State.INTERRUPTED
    assert [(step["tool"], step["state"]) for step in message.steps] == [
        ("list_files", "done"),
        ("propose_command", "stopped"),
    ]
    await worker.stop(conversation)


async def test_whoever_comes_is_told_how_proposals_stand_not_all_they_were(
    worker: Talk, scripted: ScriptedEngine
) -> None:
    """A difference is sent while it waits for somebody; of one that was decided only how."""
    conversation, _, first = await write(worker, scripted, "one.txt", "one\n")
    scripted.script(Call("write_file", {"path": "two.txt", "content": "two\n"}, "b"))
    async with worker.reading(conversation) as reader:
        await worker.decide(conversation, first["id"], "accept")
        await reader.until(lambda now: len(now.proposals) == 2, "the second one")
    async with worker.reading(conversation) as again:
        await again.until(lambda now: len(now.proposals) == 2, "how they stand")
        (second,) = (one for one in again.proposals.values() if one["id"] != first["id"])
        assert "+two" in second["diff"]
        assert again.proposals[first["id"]]["state"] == "accepted"
        assert "diff" not in again.proposals[first["id"]]
    await worker.stop(conversation)
