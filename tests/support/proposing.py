"""A model's proposals for tests: a small project to work in, and how far a proposal has come."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.broker import Home
from support.scripted_engine import Call, Say, ScriptedEngine
from support.talk import Talk

CANARY = "ghp_" + "A1b2C3d4E5f6G7h8I9j0"


@contextmanager
def project_in(broker: Home) -> Iterator[Path]:
    """A small project in the workspace, with secrets and traps beside it."""
    root = broker.paths.workspace
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
            shutil.chown(path, broker.names["workspace"])
    yield root
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


async def told(worker: Talk, scripted: ScriptedEngine, *calls: Call) -> list[str]:
    """What the model is told of calls that need nobody."""
    scripted.script(*calls)
    scripted.script(Say("I see."))
    conversation = await worker.begin()
    answer, reader = await worker.answer(conversation, "Look", tools=True)
    assert reader.states[answer] == "done", reader.usage
    asked = [chat for chat in scripted.chats if len(chat.body["messages"]) > 3]
    return [message["content"] for message in asked[-1].body["messages"] if message["role"] == "tool"]


async def write(worker: Talk, scripted: ScriptedEngine, path: str, content: str) -> tuple[str, str, dict[str, Any]]:
    """A proposed file that waits: the conversation, the answer, and the proposal as its readers are told."""
    scripted.script(Call("write_file", {"path": path, "content": content}))
    conversation = await worker.begin()
    answer = await worker.ask(conversation, "Change it", tools=True)
    async with worker.reading(conversation) as reader:
        proposal = await reader.until(lambda now: next(iter(now.proposals.values()), None), "the proposal")
    return conversation, answer, proposal


async def run_of(worker: Talk, conversation: str) -> dict[str, Any]:
    """The run of the command that was proposed in a conversation."""
    async with worker.reading(conversation) as reader:
        proposal = await reader.until(
            lambda now: next((p for p in now.proposals.values() if p["kind"] == "command"), None), "a run"
        )
    return (await worker.call("GET", f"/api/commands/{proposal['run']}", 200))["run"]
