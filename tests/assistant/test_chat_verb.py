"""`croft chat`: the answer as it comes, what is piped in as data, proposals at the terminal, Ctrl-C at the engine."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import Any

from support.commands import Room
from support.scripted_engine import Call, Fail, Say, ScriptedEngine
from support.waiting import until

from appliance.verbs.chat import MOST_PIPED

CHECKOUT = Path(__file__).resolve().parents[2]


async def start(shop: Room, *words: str, **how: Any) -> Process:
    argv = [sys.executable, "-m", "appliance", "chat", "--home", str(shop.broker.folder), *words]
    return await asyncio.create_subprocess_exec(*argv, cwd=CHECKOUT, stdout=PIPE, stderr=PIPE, **how)


async def croft(shop: Room, *words: str, piped: bytes | None = None) -> tuple[int | None, str, str]:
    made = await start(shop, *words, stdin=DEVNULL if piped is None else PIPE)
    out, err = await asyncio.wait_for(made.communicate(piped), 60)
    return made.returncode, out.decode(), err.decode()


async def test_the_answer_is_printed(shop: Room, scripted: ScriptedEngine) -> None:
    """WEB-15: and what a model writes does not drive the terminal."""
    scripted.script(Say("It is **a list**.\n\x1b]0;owned\x07end"))
    status, out, _ = await croft(shop, "What", "is", "[1]?")
    assert (status, out) == (0, "It is **a list**.\n\\x1b]0;owned\\x07end\n")
    assert scripted.chats[0].body["messages"][-1]["content"] == "What is [1]?"


async def test_what_is_piped_in_goes_along_as_data(shop: Room, scripted: ScriptedEngine) -> None:
    scripted.script(Say("A stack trace."))
    status, out, _ = await croft(shop, "--json", "What is this?", piped=b"Traceback (most recent call last)\n")
    answer = json.loads(out)
    assert (status, answer["state"], answer["text"]) == (0, "done", "A stack trace.")
    asked = scripted.chats[0].body["messages"][-1]["content"]
    assert asked.startswith("[data ")
    assert "Traceback" in asked
    assert asked.endswith("What is this?")
    status, out, _ = await croft(shop, "--continue", answer["conversation"], "And why?")
    assert len(scripted.chats[-1].body["messages"]) >= 4


async def test_as_much_as_is_taken_may_be_in_any_script(shop: Room, scripted: ScriptedEngine) -> None:
    """And what is not taken is said."""
    scripted.script(Say("Much."))
    status, out, err = await croft(shop, "What is this?", piped=("\u0645" * (MOST_PIPED + 1)).encode())
    assert (status, out) == (0, "Much.\n"), err
    assert "only the first 200000 characters" in err


async def test_failing_is_told(shop: Room, scripted: ScriptedEngine) -> None:
    scripted.script(Fail(401))
    status, out, err = await croft(shop, "Hello?")
    assert (status, out) == (1, "")
    assert "refused" in err or "key" in err
    status, _, err = await croft(shop)
    assert status == 1
    assert "no question" in err


async def test_ctrl_c_frees_the_engine(shop: Room, scripted: ScriptedEngine) -> None:
    """AI-13."""
    scripted.script(Say("word " * 5000, 50))
    made = await start(shop, "Go on", stdin=DEVNULL)
    assert made.stdout is not None
    assert await asyncio.wait_for(made.stdout.readexactly(5), 30) == b"word "
    made.send_signal(signal.SIGINT)
    await until(lambda: scripted.busy == 0, "the engine was let go", 5)
    await asyncio.wait_for(made.communicate(), 20)
    assert made.returncode == 130
    assert scripted.chats[0].gone


async def test_proposals_are_decided_at_the_terminal(shop: Room, scripted: ScriptedEngine) -> None:
    """AI-1: shown, asked about, and only a typed yes counts."""
    scripted.script(Call("propose_command", {"command": "touch made"}))
    scripted.script(Call("write_file", {"path": "written", "content": "hello\n"}))
    scripted.script(Call("write_file", {"path": "unwanted", "content": "hello\n"}))
    scripted.script(Say("Finished."))
    ours, theirs = pty.openpty()
    made = await start(shop, "--tools", "Make", "a", "file", stdin=theirs)
    os.close(theirs)
    os.write(ours, b"y\ny\nn\n")
    out, err = await asyncio.wait_for(made.communicate(), 60)
    os.close(ours)
    assert made.returncode == 0, err
    assert out.decode().strip() == "Finished."
    assert 'runs   "touch" "made"' in err.decode()
    assert "+hello" in err.decode()
    assert sorted(path.name for path in shop.workspace.iterdir()) == ["made", "written"], err.decode()
    for path in shop.workspace.iterdir():
        path.unlink()
