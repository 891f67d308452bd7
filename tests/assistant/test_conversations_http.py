"""Conversations as pages ask for them: one's own and nobody else's, rendered, searched, taken along."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.front import Front, front
from support.waiting import until

from appliance.assembly_assistant import keep_conversations
from appliance.assistant.conversations import Conversations
from appliance.assistant.messages import Message
from webui import keys
from webui.handlers import conversations


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Front]:
    async with front(tmp_path) as made:
        yield made


@pytest.fixture
async def store(door: Front) -> Conversations:
    found: Conversations = await door.app[keys.CONVERSATIONS].get()
    return found


async def asked(door: Front, cookie: str, method: str, path: str, **how: Any) -> tuple[int, Any]:
    async with door.ask(method, f"/api/conversations{path}", cookie, **how) as answer:
        return answer.status, await answer.json()


async def begun(door: Front, role: str, title: str = "") -> tuple[str, str, str]:
    """A cookie, the person's id and their new conversation."""
    session, cookie = await door.sign_in_as(role)
    status, told = await asked(door, cookie, "POST", "", json={"title": title})
    assert status == 201
    return cookie, session.user.id, told["conversation"]["id"]


async def test_a_conversation_from_beginning_to_end(door: Front, store: Conversations) -> None:
    cookie, owner, chat = await begun(door, "viewer", "Disks")
    conversation = await store.get(owner, chat)
    said = await store.add(conversation, None, "user", "line one\nline *two*")
    await store.add(conversation, said.id, "assistant", "see\n\n```sh\nls `x`\n```", model="tiny", usage={"out": 4})
    await store.add(conversation, said.id, "assistant", "other")
    status, told = await asked(door, cookie, "GET", f"/{chat}")
    assert status == 200
    question, answer = told["messages"]
    assert "<br>" in question["blocks"][0]["html"]
    assert (answer["text"], answer["position"], answer["siblings"], answer["parent"]) == ("other", 2, 2, said.id)
    status, told = await asked(door, cookie, "PATCH", f"/{chat}", json={"title": "Full disks", "pinned": True})
    assert (told["conversation"]["title"], told["conversation"]["pinned"]) == ("Full disks", True)
    status, told = await asked(door, cookie, "PATCH", f"/{chat}", json={"archived": True})
    assert told["conversation"]["title"] == "Full disks"
    assert (await asked(door, cookie, "GET", ""))[1]["conversations"] == []
    assert [one["id"] for one in (await asked(door, cookie, "GET", "?archived=yes"))[1]["conversations"]] == [chat]
    (found,) = (await asked(door, cookie, "GET", "?q=line+two"))[1]["conversations"]
    assert found["hit"]["message"] == said.id
    assert [piece["text"] for piece in found["hit"]["pieces"] if piece["hit"]] == ["line", "line", "two"]
    assert await asked(door, cookie, "DELETE", f"/{chat}") == (200, {"ok": True})
    for method, path in (("GET", f"/{chat}"), ("DELETE", f"/{chat}"), ("GET", f"/{chat}/export")):
        assert (await asked(door, cookie, method, path))[0] == 404


async def test_somebody_elses_is_not_there_for_anybody(door: Front, store: Conversations) -> None:
    """Admins and the console included; and the answer does not tell it from one that never was."""
    _, owner, chat = await begun(door, "viewer", "Secret")
    await store.add(await store.get(owner, chat), None, "user", "secret needle")
    for role in ("operator", "admin"):
        _, cookie = await door.sign_in_as(role)
        never = await asked(door, cookie, "GET", "/chat-0000000000000000")
        for method, path in (
            ("GET", ""),
            ("PATCH", ""),
            ("DELETE", ""),
            ("GET", "/export"),
            ("GET", "/export?format=json"),
        ):
            how = {"json": {"pinned": True}} if method == "PATCH" else {}
            assert await asked(door, cookie, method, f"/{chat}{path}", **how) == never
        assert (await asked(door, cookie, "GET", "?q=needle"))[1] == {"conversations": [], "next": ""}
        assert (await asked(door, cookie, "GET", ""))[1]["conversations"] == []
    async with door.console("GET", f"/api/conversations/{chat}") as answer:
        assert answer.status == 404
    assert (await store.get(owner, chat)).pinned is False


async def test_what_cannot_be_asked_for_is_said(door: Front) -> None:
    cookie, _, chat = await begun(door, "viewer")
    for method, path, how in (
        ("GET", "?limit=0", {}),
        ("GET", "?limit=x", {}),
        ("GET", "?limit=101", {}),
        ("GET", "?before=zzz", {}),
        ("GET", "?q=a&before=zzz", {}),
        ("POST", "", {"json": {"title": "x" * 121}}),
        ("POST", "", {"json": {"owner": "me"}}),
        ("PATCH", f"/{chat}", {"json": {"pinned": "yes"}}),
        ("GET", f"/{chat}/export?format=pdf", {}),
    ):
        status, told = await asked(door, cookie, method, path, **how)
        assert (status, set(told["error"])) == (400, {"code", "message", "hint"}), (method, path)
        assert told["error"]["hint"]


async def test_taking_one_along_is_recorded_and_needs_a_fresh_proof(door: Front, store: Conversations) -> None:
    """AUTH-10, LOG-9: and no title goes into the log."""
    cookie, owner, chat = await begun(door, "viewer", "Hidden title")
    conversation = await store.get(owner, chat)
    said = await store.add(conversation, None, "user", "سؤال")
    await store.add(conversation, said.id, "assistant", "```\nopen")
    async with door.ask("GET", f"/api/conversations/{chat}/export?format=json", cookie) as answer:
        assert answer.headers["Content-Disposition"] == f'attachment; filename="croft-{chat}.json"'
        data = json.loads(await answer.read())
    assert [message["text"] for message in data["messages"]] == ["سؤال", "```\nopen"]
    async with door.ask(
        "GET", f"/api/conversations/{chat}/export", cookie, headers={"Accept-Language": "ar"}
    ) as answer:
        assert answer.headers["Content-Type"].startswith("text/markdown")
        text = (await answer.read()).decode()
    assert text.startswith("# Hidden title\n")
    assert text.rstrip().endswith("```\nopen\n```")
    rows = await door.store.database.rows("SELECT detail FROM audit WHERE event = 'conversation.export'")
    assert [json.loads(row["detail"]) for row in rows] == [
        {"conversation": chat, "format": "json"},
        {"conversation": chat, "format": "md"},
    ]
    everything = await door.store.database.rows("SELECT detail FROM audit")
    assert not any("Hidden" in row["detail"] for row in everything)
    door.clock.advance(301)
    assert (await asked(door, cookie, "GET", f"/{chat}/export"))[1]["error"]["code"] == "step_up"


async def test_people_are_told_of_theirs_and_take_them_along_when_they_go(door: Front, store: Conversations) -> None:
    """PRV-6, PRV-4: through the account page, and by removing the person."""
    cookie, owner, chat = await begun(door, "viewer", "Mine")
    await store.add(await store.get(owner, chat), None, "user", "words")
    async with door.ask("GET", "/account/data", cookie) as answer:
        told = json.loads(await answer.read())
    assert [(one["id"], one["messages"][0]["text"]) for one in told["conversations"]] == [(chat, "words")]
    await door.users.remove(await door.member("viewer"), "test")
    assert await door.store.database.rows("SELECT * FROM conversations") == []
    assert await door.store.database.rows("SELECT * FROM messages") == []
    assert (await store.search(owner, "words")).hits == []


async def test_the_daemon_looks_after_them(door: Front, store: Conversations) -> None:
    """PRV-4: the setting counts at once."""
    _, owner, chat = await begun(door, "viewer")
    door.clock.advance(40 * 86_400)
    late = door.app[keys.CONVERSATIONS]
    keeper = asyncio.create_task(keep_conversations(door.store, late, door.desk, 0.01))
    try:
        assert (await store.get(owner, chat)).id == chat
        await door.desk.change({"conversations.keep_days": "30"}, "console")
        async with asyncio.timeout(15):
            while (await store.page(owner)).conversations:  # noqa: ASYNC110 - a store tells nobody
                await asyncio.sleep(0.02)
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def test_a_long_conversation_does_not_stop_the_others(door: Front, store: Conversations) -> None:
    """Rendering happens beside the event loop."""
    cookie, owner, chat = await begun(door, "viewer")
    conversation, parent = await store.get(owner, chat), None
    for _ in range(40):
        parent = (await store.add(conversation, parent, "assistant", "Some *words* and `code`.\n\n" * 60)).id
    reading = asyncio.create_task(asked(door, cookie, "GET", f"/{chat}"))
    answered = 0
    while not reading.done():
        async with door.ask("GET", "/healthz") as answer:
            assert answer.status == 200
            answered += 1
    assert (await reading)[0] == 200
    assert answered > 5


async def test_one_reader_holds_one_thread_however_much_they_read_at_once(
    door: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T6, A11: all of the daemon shares a few threads; a viewer with long conversations cannot keep them from everybody."""
    mine, theirs = await begun(door, "viewer"), await begun(door, "operator")
    go_on, reading = threading.Event(), []
    real = conversations.message_json

    def slow(message: Message) -> dict[str, Any]:
        reading.append(message.text)
        go_on.wait(20)
        return real(message)

    monkeypatch.setattr(conversations, "message_json", slow)
    store = await door.app[keys.CONVERSATIONS].get()
    for text, (_, owner, chat) in (("mine", mine), ("theirs", theirs)):
        await store.add(await store.get(owner, chat), None, "user", text)
    several = [asyncio.ensure_future(asked(door, mine[0], "GET", f"/{mine[2]}")) for _ in range(40)]
    try:
        await until(lambda: bool(reading), "the first is read")
        several.pop(0).cancel()  # who hangs up is not given another thread
        other = asyncio.ensure_future(asked(door, theirs[0], "GET", f"/{theirs[2]}"))
        await until(lambda: "theirs" in reading, "somebody else's is read meanwhile")
        assert reading.count("mine") == 1
    finally:
        go_on.set()
    assert (await other)[0] == 200
    assert {status for status, _ in await asyncio.gather(*several)} == {200}
