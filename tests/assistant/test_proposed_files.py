"""Files that the model proposes, over a real broker: a person decides, and nothing is written before."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.commands import Room
from support.editor import Line, connect
from support.front import ROOM
from support.proposing import told, write
from support.scripted_engine import Call, Say, ScriptedEngine
from support.talk import Talk
from support.waiting import until

from appliance.assistant.triggers import run_by
from webui.audit_words import Names, sentence
from webui.i18n import Catalogue, Translator

pytestmark = pytest.mark.usefixtures("project")


def results(engine: ScriptedEngine) -> list[str]:
    """What the model was told its tools brought, in the last request."""
    return [message["content"] for message in engine.chats[-1].body["messages"] if message["role"] == "tool"]


async def test_a_file_is_written_only_once_accepted(
    worker: Talk, scripted: ScriptedEngine, project: Path, shop: Room
) -> None:
    """AI-1: nothing before the person's word; afterwards the model is told, and everything is on record (AI-12)."""
    before = (project / "src/app.py").read_text()
    conversation, answer, proposal = await write(worker, scripted, "src/app.py", before.replace("Hello", "Good day"))
    assert "-    return 'Hello ' + name" in proposal["diff"]
    assert "+    return 'Good day ' + name" in proposal["diff"]
    assert (project / "src/app.py").read_text() == before
    scripted.script(Say("Done."))
    async with worker.reading(conversation) as reader:
        await worker.decide(conversation, proposal["id"], "accept")
        assert await reader.over(answer) == "done"
    assert "Good day" in (project / "src/app.py").read_text()
    assert any("accepted" in text for text in results(scripted)) or "accepted" in scripted.chats[1].said
    assert (await worker.decide(conversation, proposal["id"], "accept", 409))["error"]["code"] == "decided"
    kinds = [record.event for record in await shop.audit()]
    for kind in ("ai.ask", "ai.propose", "ai.write", "ai.step"):
        assert kind in kinds


async def test_a_new_file_in_a_new_folder(worker: Talk, scripted: ScriptedEngine, project: Path) -> None:
    conversation, _, proposal = await write(worker, scripted, "docs/a/guide.md", "# مرحبا\n" + "line\n" * 20_000)
    assert proposal["new"]
    scripted.script(Say("Done."))
    await worker.decide(conversation, proposal["id"], "accept")
    assert (project / "docs/a/guide.md").read_text().startswith("# مرحبا\nline")
    assert (project / "docs/a/guide.md").stat().st_size > 100_000


async def test_a_file_that_changed_meanwhile_is_left_alone(
    worker: Talk, scripted: ScriptedEngine, project: Path
) -> None:
    conversation, answer, proposal = await write(worker, scripted, "src/app.py", "print('mine')\n")
    (project / "src/app.py").write_text("print('yours')\n")
    scripted.script(Say("Oh."))
    assert (await worker.decide(conversation, proposal["id"], "accept", 409))["error"]["code"] == "changed"
    assert (project / "src/app.py").read_text() == "print('yours')\n"
    async with worker.reading(conversation) as reader:
        await reader.over(answer)
        assert reader.proposals[proposal["id"]]["state"] == "stale"


async def test_a_path_that_leads_elsewhere_meanwhile_is_left_alone(
    worker: Talk, scripted: ScriptedEngine, project: Path
) -> None:
    """AI-8: the folder of a new file becomes a link to the repository's inside before it is accepted."""
    conversation, _, proposal = await write(worker, scripted, "fresh/pre-commit", "#!/bin/sh\n")
    (project / "fresh").symlink_to(".git/hooks")
    scripted.script(Say("Oh."))
    await worker.decide(conversation, proposal["id"], "accept", 409)
    assert list((project / ".git/hooks").iterdir()) == []


async def test_a_rejected_file_is_not_put_again(worker: Talk, scripted: ScriptedEngine, project: Path) -> None:
    """AI-6: the same once more within ten minutes is answered without asking."""
    conversation, answer, proposal = await write(worker, scripted, "src/app.py", "pass\n")
    scripted.script(Call("write_file", {"path": "src/app.py", "content": "pass\n"}))
    scripted.script(Say("Sorry."))
    async with worker.reading(conversation) as reader:
        await worker.decide(conversation, proposal["id"], "reject")
        assert await reader.over(answer) == "done"
        assert len(reader.proposals) == 1
    assert "rejected" in scripted.chats[2].said
    assert "def greet" in (project / "src/app.py").read_text()


def held(root: Path) -> dict[Path, bytes]:
    """Everything in the workspace."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()}


PLACES = (
    ".git/hooks/pre-commit", ".git/config", ".env", "inside/pre-commit", "settings", "out/cron.d/x", "../policy/policy.toml",
    "/etc/croft/policy/policy.toml", "/var/lib/croft/croft.db", "../croft.db", "../keys/tokens.key", "src/../../croft.db",
    ".ssh/authorized_keys", "id_rsa", "", ".", "..", "/", "src", "a\0b", "secrets.json", ".GIT/hooks/x", ".Env",
)  # fmt: skip


async def test_no_tool_writes_where_it_must_not(
    worker: Talk, scripted: ScriptedEngine, project: Path, shop: Room
) -> None:
    """AI-8: policy, audit, keys, secrets, repositories' insides, links out: not even proposed."""
    before = held(project)
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
    assert held(project) == before


async def test_a_secret_that_was_blanked_is_not_written_back(worker: Talk, scripted: ScriptedEngine) -> None:
    (text,) = await told(worker, scripted, Call("write_file", {"path": "notes.txt", "content": "token = [redacted]\n"}))
    assert "[redacted]" in text
    assert "not shown" in text


@pytest.mark.parametrize(
    ("path", "who"),
    [
        (".vscode/settings.json", "editor"), ("a/b/.vscode/tasks.json", "editor"), ("x.code-workspace", "editor"),
        (".husky/pre-push", "git"), ("tools/pre-commit", "git"), (".gitattributes", "git"), (".git/hooks/post-merge", "git"),
        (".envrc", "shell"), ("sub/.ENVRC", "shell"), (".bashrc", "shell"), (".npmrc", "tools"), ("web/package.json", "tools"),
        ("tests/conftest.py", "tools"), ("a.pth", "tools"), (".cargo/config.toml", "tools"), ("vite.config.ts", "tools"),
        (".github/workflows/ci.yml", "elsewhere"), ("CLAUDE.md", "assistants"), (".cursor/rules/x.mdc", "assistants"),
        ("src/app.py", ""), ("Makefile", ""), ("run.sh", ""), ("src/hooks/useThing.ts", ""), ("vscode/settings.json", ""),
        ("docs/package.json.md", ""), ("config.toml", ""), ("README.md", ""),
    ],
)  # fmt: skip
def test_who_runs_what_a_file_says(path: str, who: str) -> None:
    """AI-4: by the name alone, in any case and any folder; what runs only when it is asked for is none of these (AI-6)."""
    assert run_by(path) == who


async def test_a_file_that_makes_programs_run_says_so(
    worker: Talk, scripted: ScriptedEngine, project: Path, shop: Room
) -> None:
    """AI-3, AI-4: on the page and to scripts alike, and whether the assistant had read what others wrote; links are followed first."""
    (project / ".vscode").mkdir()
    (project / ".vscode/tasks.json").write_text("{}")
    (project / "harmless.json").symlink_to(".vscode/tasks.json")
    for path in (project / ".vscode", project / ".vscode/tasks.json"):
        shutil.chown(path, shop.broker.names["workspace"])
    conversation, _, proposal = await write(worker, scripted, "harmless.json", '{"tasks": []}\n')
    assert (proposal["path"], proposal["run_by"], proposal["tainted"]) == (".vscode/tasks.json", "editor", False)
    await worker.stop(conversation)
    scripted.script(
        Call("read_file", {"path": "notes.txt"}, "a"),
        Call("write_file", {"path": ".husky/pre-push", "content": "x\n"}, "b", 1),
    )
    tainted = await worker.begin()
    await worker.ask(tainted, "Go", tools=True)
    async with worker.reading(tainted) as reader:
        told = await reader.until(lambda now: next(iter(now.proposals.values()), None), "the proposal")
    assert (told["run_by"], told["tainted"]) == ("git", True)
    async with shop.front.ask("GET", f"/assistant/{tainted}", worker.cookie, headers={"Accept": "text/html"}) as page:
        shown = await page.text()
    assert "Git runs programs that this file names" in shown
    assert "had read text that others may have written" in shown
    await worker.stop(tainted)


# --- decided in the editor


@asynccontextmanager
async def window(shop: Room) -> AsyncIterator[tuple[Line, list[dict[str, Any]]]]:
    """A window of the editor, spoken by hand, and what it was asked."""
    asked: list[dict[str, Any]] = []

    def answers(ask: dict[str, Any]) -> dict[str, Any]:
        asked.append(ask)
        return {"state": "rejected"} if ask["op"] == "decide" else {}

    line = await connect(shop.front.settings.paths.run / "editor/editor.sock")
    await line.greet()
    task = asyncio.create_task(line.serve(answers))
    try:
        yield line, asked
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        line.writer.close()


async def shown(worker: Talk, conversation: str, proposal: dict[str, Any], asked: list[dict[str, Any]]) -> str:
    """The id that the editor knows the difference by."""
    await worker.decide(conversation, proposal["id"], "open")
    return str([one for one in asked if one["op"] == "diff"][-1]["diff"])


@pytest.mark.parametrize(
    ("written", "told"),
    [("print('new')\n", "accepted it; the file is written"), ("print('mine')\n", "with changes of their own")],
)
async def test_what_is_accepted_in_the_editor_is_accepted_on_the_page(
    worker: Talk, scripted: ScriptedEngine, project: Path, shop: Room, written: str, told: str
) -> None:
    """The card closes, the model is told what the person really kept, and the record says that the editor wrote it, and whether
    that is what was proposed (AI-12)."""
    conversation, answer, proposal = await write(worker, scripted, "src/app.py", "print('new')\n")
    scripted.script(Say("Good."))
    async with worker.reading(conversation) as reader, window(shop) as (line, asked):
        diff = await shown(worker, conversation, proposal, asked)
        (project / "src/app.py").write_text(written)
        line.say(type="decided", diff=diff, state="accepted")
        assert await reader.over(answer) == "done"
        assert reader.proposals[proposal["id"]]["state"] == "accepted"
    assert told in scripted.chats[1].said
    (proposed,) = [record.detail for record in await shop.audit() if record.event == "ai.propose"]
    (record,) = [record for record in await shop.audit() if record.event == "ai.write"]
    assert (record.detail["by"], record.detail["edited"]) == ("editor", written != "print('new')\n")
    assert record.detail["proposed"] == proposed["content"]
    assert (record.detail["content"] != proposed["content"]) is record.detail["edited"]
    said = sentence(Translator(Catalogue.load(ROOM / "locale"), "en"), record, Names({}))
    assert ("is not what the assistant proposed" in said) is record.detail["edited"]


async def test_a_window_that_only_says_so_decides_nothing(
    worker: Talk, scripted: ScriptedEngine, project: Path, shop: Room
) -> None:
    """AI-1: the file is as it was, so the proposal still waits; a tab that was closed leaves it waiting as well; rejecting closes it."""
    conversation, answer, proposal = await write(worker, scripted, "src/app.py", "print('new')\n")
    scripted.script(Say("All right."))
    async with worker.reading(conversation) as reader, window(shop) as (line, asked):
        for state in ("accepted", "closed"):
            line.say(type="decided", diff=await shown(worker, conversation, proposal, asked), state=state)
        diff = await shown(worker, conversation, proposal, asked)
        assert reader.proposals[proposal["id"]]["state"] == "open"
        line.say(type="decided", diff=diff, state="rejected")
        assert await reader.over(answer) == "done"
        assert reader.proposals[proposal["id"]]["state"] == "rejected"
    assert "def greet" in (project / "src/app.py").read_text()


async def test_what_is_decided_on_the_page_leaves_the_editor(
    worker: Talk, scripted: ScriptedEngine, shop: Room
) -> None:
    conversation, _, proposal = await write(worker, scripted, "src/app.py", "print('new')\n")
    scripted.script(Say("Good."))
    async with window(shop) as (_, asked):
        diff = await shown(worker, conversation, proposal, asked)
        await worker.decide(conversation, proposal["id"], "accept")
        await until(lambda: any(one["op"] == "decide" for one in asked), "the editor is told")
        assert [(one["diff"], one["accept"]) for one in asked if one["op"] == "decide"] == [(diff, False)]
