"""What the model may see with tools, over a real broker: the workspace and nothing of its secrets."""

from __future__ import annotations

from typing import Any

import pytest
from support.proposing import CANARY, told
from support.scripted_engine import Call, ScriptedEngine
from support.talk import Talk

pytestmark = pytest.mark.usefixtures("project")


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
