"""Commands that the model proposes, over a real broker: policy and people decide."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from support.broker import Home
from support.commands import Room, forget, room_in
from support.front import packaged_policy
from support.processes import alive
from support.proposing import CANARY, run_of, told
from support.scripted_engine import Call, OverHttp, Say, ScriptedEngine
from support.talk import Talk
from support.waiting import until

pytestmark = pytest.mark.usefixtures("project")


async def test_a_command_waits_for_a_person_and_its_output_comes_back(
    worker: Talk, scripted: ScriptedEngine, shop: Room
) -> None:
    """AI-1, AI-4, AI-7: the person sees the words, the model the output without its secrets."""
    scripted.script(Call("propose_command", {"command": "sh -c 'cat notes.txt; echo it works'", "why": "to see"}))
    scripted.script(Say("It works."))
    conversation = await worker.begin()
    answer = await worker.ask(conversation, "Try it", tools=True)
    run = await run_of(worker, conversation)
    assert run["state"] == "waiting"
    assert run["asked_by"]["actor"] == "ai"
    assert run["why"] == "to see"
    assert run["typed"] == [["sh", "-c", "cat notes.txt; echo it works"]]
    async with worker.reading(conversation) as reader:
        await shop.approve(run)
        assert await reader.over(answer) == "done"
        assert reader.steps[1]["exit"] == 0
    (text,) = [message["content"] for message in scripted.chats[1].body["messages"] if message["role"] == "tool"]
    assert "exit status 0" in text
    assert "it works" in text
    assert "remember the milk" in text
    assert CANARY not in text
    assert "[data " in text


async def test_a_denied_command_does_not_run(worker: Talk, scripted: ScriptedEngine, shop: Room, project: Path) -> None:
    """AI-1; and the model is told not to go on about it."""
    scripted.script(Call("propose_command", {"command": "touch src/made-by-ai"}))
    scripted.script(Say("All right."))
    conversation = await worker.begin()
    answer = await worker.ask(conversation, "Touch it", tools=True)
    run = await run_of(worker, conversation)
    async with worker.reading(conversation) as reader:
        await worker.call("POST", f"/api/commands/{run['id']}/deny", 200)
        assert await reader.over(answer) == "done"
    assert "denied" in scripted.chats[1].said
    assert not (project / "src/made-by-ai").exists()


async def test_what_the_policy_allows_the_assistant_runs_at_once(worker: Talk, scripted: ScriptedEngine) -> None:
    """AI-2: only where the owner let it, and only what reads."""
    (text,) = await told(worker, scripted, Call("propose_command", {"command": "cat src/app.py"}))
    assert "exit status 0" in text
    assert "def greet" in text


async def test_by_default_nothing_runs_at_once_for_the_assistant(hands: Home, scripted: ScriptedEngine) -> None:
    """AI-2: with the rules an appliance begins with even `ls` asks."""
    async with room_in(hands, engine=OverHttp(scripted)) as made:
        made.front.policy = packaged_policy()
        worker = Talk(made.front, made.cookies["operator"])
        scripted.script(Call("propose_command", {"command": "ls"}))
        conversation = await worker.begin()
        await worker.ask(conversation, "List", tools=True)
        run = await run_of(worker, conversation)
        assert run["state"] == "waiting"
        await worker.stop(conversation)
        run = (await worker.call("GET", f"/api/commands/{run['id']}", 200))["run"]
        assert run["state"] == "cancelled"
    forget(hands)


async def leased(worker: Talk, scripted: ScriptedEngine, shop: Room, line: str) -> None:
    """A command that the model asked for and a person leased for an hour."""
    scripted.script(Call("propose_command", {"command": line}))
    scripted.script(Say("Done."))
    conversation = await worker.begin()
    answer = await worker.ask(conversation, "Touch", tools=True)
    run = await run_of(worker, conversation)
    async with worker.reading(conversation) as reader:
        await shop.approve(run, lease={"runs": 5, "minutes": 60})
        await reader.over(answer)


async def test_a_lease_counts_only_while_nothing_foreign_was_read(
    worker: Talk, scripted: ScriptedEngine, shop: Room
) -> None:
    """AI-3: leased for an hour, the command runs without asking; after a file was read it asks again."""
    await leased(worker, scripted, shop, "touch src/leased")
    scripted.script(Call("propose_command", {"command": "touch src/leased"}))
    scripted.script(Say("Done."))
    clean = await worker.begin()
    _, reader = await worker.answer(clean, "Touch", tools=True)
    assert reader.steps[1]["state"] == "done"
    scripted.script(Call("read_file", {"path": "notes.txt"}))
    scripted.script(Call("propose_command", {"command": "touch src/leased"}, "call_2"))
    tainted = await worker.begin()
    await worker.ask(tainted, "Touch", tools=True)
    assert (await run_of(worker, tainted))["state"] == "waiting"
    await worker.stop(tainted)


@pytest.mark.parametrize(
    "more",
    [
        {"context": [{"kind": "file", "path": "a.py", "text": "x = 1"}]},
        {"text": "```\npasted\n```"},
        {"text": "line\n" * 8},
        {"text": "word " * 200},
    ],
)
async def test_what_was_sent_along_or_pasted_taints(
    worker: Talk, scripted: ScriptedEngine, shop: Room, more: dict[str, Any]
) -> None:
    """AI-3."""
    await leased(worker, scripted, shop, "touch src/again")
    scripted.script(Call("propose_command", {"command": "touch src/again"}))
    tainted = await worker.begin()
    await worker.ask(tainted, more.pop("text", "Touch"), tools=True, **more)
    assert (await run_of(worker, tainted))["state"] == "waiting"
    await worker.stop(tainted)


async def test_stop_ends_the_processes_of_a_command(worker: Talk, scripted: ScriptedEngine, shop: Room) -> None:
    """AI-13: within two seconds."""
    mark = f"31{os.getpid()}7"
    scripted.script(Call("propose_command", {"command": f"sh -c 'sleep {mark} & sleep {mark}'"}))
    conversation = await worker.begin()
    await worker.ask(conversation, "Sleep", tools=True)
    run = await run_of(worker, conversation)
    await shop.approve(run)
    await until(lambda: len(alive(mark)) >= 2, "it sleeps")
    begin = time.monotonic()
    await worker.stop(conversation)
    await until(lambda: not alive(f"sleep\0{mark}"), "nothing is left of it", 2)
    assert time.monotonic() - begin < 2.5


# --- lines of an answer that a person picks


async def picked(worker: Talk, scripted: ScriptedEngine, line: str, **asked: Any) -> tuple[str, dict[str, Any]]:
    """A line of an answer, run: the conversation, and the proposal."""
    scripted.script(Say(f"Do this:\n\n```sh\n{line}\n```\n"))
    conversation = await worker.begin()
    answer, _ = await worker.answer(conversation, "How?", **asked)
    path = f"/api/conversations/{conversation}/commands"
    return conversation, (await worker.call("POST", path, 201, message=answer, line=line))["proposal"]


async def card_of(worker: Talk, run: dict[str, Any]) -> str:
    """The approval card of a run, as the server draws it."""
    path = f"/commands/{run['id']}"
    async with worker.front.ask("GET", path, worker.cookie, headers={"Accept": "text/html"}) as page:
        text = str(await page.text())
    return text[text.index("<article") : text.index("</article>")]


async def test_a_line_that_a_model_wrote_stays_the_models(worker: Talk, scripted: ScriptedEngine, shop: Room) -> None:
    """AI-1, POL-11: whoever picks it, it is asked for as actor ai; a person decides; the conversation and the record keep it."""
    conversation, proposal = await picked(worker, scripted, "sh -c 'echo picked'")
    assert (proposal["picked"], proposal["tainted"]) == (True, False)
    run = await run_of(worker, conversation)
    assert (run["state"], run["asked_by"]["actor"]) == ("waiting", "ai")
    card = await card_of(worker, run)
    assert "A line of the assistant’s answer that" in card
    assert f'href="/assistant/{conversation}"' in card
    assert "had read text that others may have written" not in card
    done = (await shop.approve(run, wait=10))["run"]
    assert done["exit_code"] == 0
    asked = [record for record in await shop.audit() if record.event == "ai.propose"]
    assert [(record.detail["kind"], record.detail["run"]) for record in asked] == [("command", run["id"])]


async def test_asking_again_for_what_a_model_wrote_is_not_asking_for_it_oneself(
    worker: Talk, scripted: ScriptedEngine, shop: Room
) -> None:
    """AI-1, AI-3: it is the model's line as it was the first time, and the card warns again."""
    chip = {"kind": "file", "path": "a.py", "text": "x = 1"}
    conversation, _ = await picked(worker, scripted, "touch src/again", context=[chip])
    first = await run_of(worker, conversation)
    await shop.approve(first, wait=10)
    again = (await shop.ask("POST", f"/api/commands/{first['id']}/rerun", status=201))["run"]
    assert (again["state"], again["asked_by"]["actor"]) == ("waiting", "ai")
    card = await card_of(worker, again)
    assert f'href="/assistant/{conversation}"' in card
    assert "had read text that others may have written" in card
    assert (await shop.approve(again, wait=10))["run"]["exit_code"] == 0


async def test_a_line_of_a_tainted_conversation_asks_where_another_runs(
    worker: Talk, scripted: ScriptedEngine, shop: Room
) -> None:
    """AI-3: a lease lets the line of a clean conversation run; once a file went along, it asks, and the card says why."""
    line = "touch src/leased"
    first, _ = await picked(worker, scripted, line)
    await shop.approve(await run_of(worker, first), lease={"runs": 5, "minutes": 60}, wait=10)
    clean, _ = await picked(worker, scripted, line)
    assert (await run_of(worker, clean))["state"] in ("running", "done")
    chip = {"kind": "file", "path": "a.py", "text": "x = 1"}
    tainted, proposal = await picked(worker, scripted, line, context=[chip])
    assert proposal["tainted"]
    run = await run_of(worker, tainted)
    assert run["state"] == "waiting"
    assert "had read text that others may have written" in await card_of(worker, run)


async def test_a_picked_line_is_put_once_and_only_from_an_answer(worker: Talk, scripted: ScriptedEngine) -> None:
    """Pressing twice asks once; a question has no lines, and what the policy refuses is told in words."""
    conversation, proposal = await picked(worker, scripted, "touch src/once")
    question, answer = await worker.messages(conversation)
    path = f"/api/conversations/{conversation}/commands"
    again = await worker.call("POST", path, 201, message=answer["id"], line="touch src/once")
    assert again["proposal"]["id"] == proposal["id"]
    await worker.call("POST", path, 400, message=question["id"], line="touch src/once")
    refused = await worker.call("POST", path, 403, message=answer["id"], line="cat \u202enote.txt")
    assert refused["error"]["code"] == "denied"
