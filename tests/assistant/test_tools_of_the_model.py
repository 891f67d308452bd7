"""What the model may do with tools, over a real broker: it looks and proposes; policy and people decide."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.broker import Home
from support.commands import Room, alive, forget, room_in
from support.front import packaged_policy
from support.scripted_engine import Call, Fail, OverHttp, Say, Script, ScriptedEngine
from support.talk import Talk
from support.waiting import until

CANARY = "ghp_" + "A1b2C3d4E5f6G7h8I9j0"


@pytest.fixture(autouse=True)
def files(hands: Home) -> Iterator[Path]:
    """A small project, with secrets and traps beside it."""
    root = hands.paths.workspace
    (root / "src").mkdir()
    (root / "src/app.py").write_text("def greet(name):\n    return 'Hello ' + name\n")
    (root / "notes.txt").write_text(f"remember the milk\ntoken = {CANARY}\n")
    (root / ".env").write_text("SECRET=canary-of-the-environment\n")
    (root / ".git/hooks").mkdir(parents=True)
    (root / "out").symlink_to("/etc")
    (root / "inside").symlink_to(".git/hooks")
    (root / "settings").symlink_to(".env")
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            shutil.chown(path, hands.names["workspace"])
    yield root
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def results(engine: ScriptedEngine) -> list[str]:
    """What the model was told its tools brought, in the last request."""
    return [message["content"] for message in engine.chats[-1].body["messages"] if message["role"] == "tool"]


async def told(worker: Talk, scripted: ScriptedEngine, *calls: Call) -> list[str]:
    """What comes of calls that need nobody."""
    scripted.script(*calls)
    scripted.script(Say("I see."))
    conversation = await worker.begin()
    answer, reader = await worker.answer(conversation, "Look", tools=True)
    assert reader.states[answer] == "done", reader.usage
    asked = [chat for chat in scripted.chats if len(chat.body["messages"]) > 3]
    return [message["content"] for message in asked[-1].body["messages"] if message["role"] == "tool"]


async def test_looking_at_files(worker: Talk, scripted: ScriptedEngine) -> None:
    """AI-7: what they hold comes back as data."""
    listed, found, read = await told(
        worker,
        scripted,
        Call("list_files", {}, "a"),
        Call("search_files", {"text": "greet"}, "b", 1),
        Call("read_file", {"path": "src/app.py"}, "c", 2),
    )
    assert "src/" in listed
    assert "notes.txt" in listed
    assert "src/app.py:1: def greet(name):" in found
    assert "return 'Hello ' + name" in read
    assert all(text.startswith("[data ") and "[end of data " in text for text in (listed, found, read))


async def test_secrets_never_reach_the_model(worker: Talk, scripted: ScriptedEngine) -> None:
    """AI-7, AI-8: neither by name, nor by a link, nor out of a file that is not one of secrets."""
    await told(
        worker,
        scripted,
        Call("read_file", {"path": ".env"}, "a"),
        Call("read_file", {"path": "settings"}, "b", 1),
        Call("read_file", {"path": "notes.txt"}, "c", 2),
        Call("search_files", {"text": "canary"}, "d", 3),
        Call("search_files", {"text": "token"}, "e", 4),
        Call("list_files", {"path": ".git"}, "f", 5),
        Call("list_files", {}, "g", 6),
    )
    said = "\n".join(chat.said for chat in scripted.chats)
    assert "canary-of-the-environment" not in said
    assert CANARY not in said
    assert "remember the milk" in said
    assert "hooks" not in said


OUTSIDE = ("/etc/passwd", "../croft.db", "out/passwd", "src/../../state/croft.db", "a\0b", "none.py")


async def test_nothing_outside_is_read(worker: Talk, scripted: ScriptedEngine) -> None:
    """AI-8."""
    calls = (Call("read_file", {"path": path}, f"c{n}", n) for n, path in enumerate(OUTSIDE))
    for path, text in zip(OUTSIDE, await told(worker, scripted, *calls), strict=True):
        assert "root:" not in text, path
        assert any(words in text for words in ("not in the workspace", "cannot be used", "nothing", "NUL")), text


NONSENSE: tuple[tuple[str, Any, str], ...] = (
    ("rm_rf", {"path": "."}, "There is no tool"),
    ("read_file", '{"path": "src/', "not valid JSON"),
    ("read_file", "[1, 2]", "must be a JSON object"),
    ("read_file", {}, "needs path"),
    ("read_file", {"path": 7}, "must be text"),
    ("read_file", {"path": "x" * 5000}, "longer than"),
    ("read_file", {"path": "src/app.py", "from_line": "many"}, "whole number"),
    ("read_file", {"path": "src/app.py", "from_line": 99}, "has 3 lines"),
    ("read_file", {"path": "src"}, "not a file"),
    ("", {}, "There is no tool"),
    ("write_file", {"path": "src", "content": "x"}, "not a file"),
    ("search_files", {"text": "\ud800"}, "characters"),
)


async def test_calls_that_make_no_sense_are_answered(worker: Talk, scripted: ScriptedEngine) -> None:
    """With words that help the model, never with a fault of ours."""
    calls = (Call(name, given, f"c{n}", n) for n, (name, given, _) in enumerate(NONSENSE))
    for (name, given, help_), text in zip(NONSENSE, await told(worker, scripted, *calls), strict=True):
        assert help_ in text, (name, given)


async def write(worker: Talk, scripted: ScriptedEngine, path: str, content: str) -> tuple[str, Any, Any]:
    """A proposed file, waiting: conversation, answer, and the proposal's data in a context of its own."""
    scripted.script(Call("write_file", {"path": path, "content": content}))
    conversation = await worker.begin()
    answer = await worker.ask(conversation, "Change it", tools=True)
    async with worker.reading(conversation) as reader:
        proposal = await reader.until(lambda now: next(iter(now.proposals.values()), None), "the proposal")
    return conversation, answer, proposal


async def test_a_file_is_written_only_once_accepted(
    worker: Talk, scripted: ScriptedEngine, files: Path, shop: Room
) -> None:
    """AI-1: nothing before the person's word; afterwards the model is told, and everything is on record (AI-12)."""
    before = (files / "src/app.py").read_text()
    conversation, answer, proposal = await write(worker, scripted, "src/app.py", before.replace("Hello", "Good day"))
    assert "-    return 'Hello ' + name" in proposal["diff"]
    assert "+    return 'Good day ' + name" in proposal["diff"]
    assert (files / "src/app.py").read_text() == before
    scripted.script(Say("Done."))
    async with worker.reading(conversation) as reader:
        await worker.decide(conversation, proposal["id"], "accept")
        assert await reader.over(answer) == "done"
    assert "Good day" in (files / "src/app.py").read_text()
    assert any("accepted" in text for text in results(scripted)) or "accepted" in scripted.chats[1].said
    assert (await worker.decide(conversation, proposal["id"], "accept", 409))["error"]["code"] == "decided"
    kinds = [record.event for record in await shop.audit()]
    for kind in ("ai.ask", "ai.propose", "ai.write", "ai.step"):
        assert kind in kinds


async def test_a_new_file_in_a_new_folder(worker: Talk, scripted: ScriptedEngine, files: Path) -> None:
    conversation, _, proposal = await write(worker, scripted, "docs/a/guide.md", "# مرحبا\n" + "line\n" * 20_000)
    assert proposal["new"]
    scripted.script(Say("Done."))
    await worker.decide(conversation, proposal["id"], "accept")
    assert (files / "docs/a/guide.md").read_text().startswith("# مرحبا\nline")
    assert (files / "docs/a/guide.md").stat().st_size > 100_000


async def test_a_file_that_changed_meanwhile_is_left_alone(worker: Talk, scripted: ScriptedEngine, files: Path) -> None:
    conversation, answer, proposal = await write(worker, scripted, "src/app.py", "print('mine')\n")
    (files / "src/app.py").write_text("print('yours')\n")
    scripted.script(Say("Oh."))
    assert (await worker.decide(conversation, proposal["id"], "accept", 409))["error"]["code"] == "changed"
    assert (files / "src/app.py").read_text() == "print('yours')\n"
    async with worker.reading(conversation) as reader:
        await reader.over(answer)
        assert reader.proposals[proposal["id"]]["state"] == "stale"


async def test_a_path_that_leads_elsewhere_meanwhile_is_left_alone(
    worker: Talk, scripted: ScriptedEngine, files: Path
) -> None:
    """AI-8: the folder of a new file becomes a link to the repository's inside before it is accepted."""
    conversation, _, proposal = await write(worker, scripted, "fresh/pre-commit", "#!/bin/sh\n")
    (files / "fresh").symlink_to(".git/hooks")
    scripted.script(Say("Oh."))
    await worker.decide(conversation, proposal["id"], "accept", 409)
    assert list((files / ".git/hooks").iterdir()) == []


async def test_a_rejected_file_is_not_put_again(worker: Talk, scripted: ScriptedEngine, files: Path) -> None:
    """AI-6: the same once more within ten minutes is answered without asking."""
    conversation, answer, proposal = await write(worker, scripted, "src/app.py", "pass\n")
    scripted.script(Call("write_file", {"path": "src/app.py", "content": "pass\n"}))
    scripted.script(Say("Sorry."))
    async with worker.reading(conversation) as reader:
        await worker.decide(conversation, proposal["id"], "reject")
        assert await reader.over(answer) == "done"
        assert len(reader.proposals) == 1
    assert "rejected" in scripted.chats[2].said
    assert "def greet" in (files / "src/app.py").read_text()


def held(root: Path) -> dict[Path, bytes]:
    """Everything in the workspace."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()}


PLACES = (
    ".git/hooks/pre-commit", ".git/config", ".env", "inside/pre-commit", "settings", "out/cron.d/x", "../policy/policy.toml",
    "/etc/croft/policy/policy.toml", "/var/lib/croft/croft.db", "../croft.db", "../keys/tokens.key", "src/../../croft.db",
    ".ssh/authorized_keys", "id_rsa", "", ".", "..", "/", "src", "a\0b", "secrets.json", ".GIT/hooks/x", ".Env",
)  # fmt: skip


async def test_no_tool_writes_where_it_must_not(
    worker: Talk, scripted: ScriptedEngine, files: Path, shop: Room
) -> None:
    """AI-8: policy, audit, keys, secrets, repositories' insides, links out: not even proposed."""
    before = held(files)
    for start in range(0, len(PLACES), 8):
        calls = [
            Call("write_file", {"path": path, "content": "owned"}, f"c{n}", n)
            for n, path in enumerate(PLACES[start : start + 8])
        ]
        scripted.script(*calls)
        scripted.script(Say("I give up."))
        conversation = await worker.begin()
        answer, reader = await worker.answer(conversation, "Write", tools=True)
        assert reader.states[answer] == "done"
        assert reader.proposals == {}
    assert held(files) == before


async def test_a_secret_that_was_blanked_is_not_written_back(worker: Talk, scripted: ScriptedEngine) -> None:
    (text,) = await told(worker, scripted, Call("write_file", {"path": "notes.txt", "content": "token = [redacted]\n"}))
    assert "[redacted]" in text
    assert "not shown" in text


# --- commands


async def run_of(worker: Talk, conversation: str) -> dict[str, Any]:
    async with worker.reading(conversation) as reader:
        proposal = await reader.until(
            lambda now: next((p for p in now.proposals.values() if p["kind"] == "command"), None), "a run"
        )
    return (await worker.call("GET", f"/api/commands/{proposal['run']}", 200))["run"]


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


async def test_a_denied_command_does_not_run(worker: Talk, scripted: ScriptedEngine, shop: Room, files: Path) -> None:
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
    assert not (files / "src/made-by-ai").exists()


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


async def test_a_lease_counts_only_while_nothing_foreign_was_read(
    worker: Talk, scripted: ScriptedEngine, shop: Room
) -> None:
    """AI-3: leased for an hour, the command runs without asking; after a file was read it asks again."""
    scripted.script(Call("propose_command", {"command": "touch src/leased"}))
    scripted.script(Say("Done."))
    conversation = await worker.begin()
    answer = await worker.ask(conversation, "Touch", tools=True)
    run = await run_of(worker, conversation)
    async with worker.reading(conversation) as reader:
        await shop.approve(run, lease={"runs": 5, "minutes": 60})
        await reader.over(answer)
    scripted.script(Call("propose_command", {"command": "touch src/leased"}))
    scripted.script(Say("Done."))
    clean = await worker.begin()
    answer, reader = await worker.answer(clean, "Touch", tools=True)
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
    await shop.propose("touch", "src/leased", who="operator")
    scripted.script(Call("propose_command", {"command": "touch src/again"}))
    scripted.script(Say("Done."))
    conversation = await worker.begin()
    answer = await worker.ask(conversation, "Touch", tools=True)
    run = await run_of(worker, conversation)
    async with worker.reading(conversation) as reader:
        await shop.approve(run, lease={"runs": 5, "minutes": 60})
        await reader.over(answer)
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


# --- going on and on


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
