"""Conversations in a real store: branches, what survives, what is gone, and that nobody meets what is another's."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.conversations import talk

from appliance.assembly_assistant import build_conversations
from appliance.assistant import owned
from appliance.assistant.conversations import MOST_TITLE, Conversations
from appliance.assistant.export import as_data, as_markdown, closed, fenced
from appliance.assistant.messages import Conversation, Role, State
from appliance.clock import ManualClock
from appliance.errors import Conflict, Invalid, NotFound
from appliance.settings import Paths, load
from appliance.store import Store, open_store
from webui.markup import render

NAMES = {Role.USER: "You", Role.ASSISTANT: "Assistant", Role.TOOL: "Tool", Role.SUMMARY: "Summary"}


def tick(store: Store) -> None:
    assert isinstance(store.clock, ManualClock)
    store.clock.advance(60)


async def shown(chats: Conversations, conversation: Conversation) -> list[tuple[str, int, int]]:
    return [(message.text, message.position, message.siblings) for message in await chats.path(conversation)]


async def test_an_edit_is_a_branch_and_both_stay(chats: Conversations) -> None:
    one = await chats.create("amal")
    first, _, then, _ = await talk(chats, one, "a", "b", "c", "d")
    edited = await chats.add(one, None, "user", "a2")
    await chats.add(one, edited.id, "assistant", "b2")
    assert await shown(chats, one) == [("a2", 2, 2), ("b2", 1, 1)]
    assert [message.text for message in await chats.branch(one, first.id)] == ["a", "b", "c", "d"]
    await chats.add(one, then.id, "assistant", "d2")
    assert await shown(chats, one) == [("a", 1, 2), ("b", 1, 1), ("c", 1, 1), ("d2", 2, 2)]
    await chats.branch(one, edited.id)
    assert [message.text for message in await chats.branch(one, first.id)] == ["a", "b", "c", "d2"], "as it was left"
    assert len(await chats.all_messages(one)) == 7
    assert await chats.siblings(one, edited.id) == [first.id, edited.id]


async def test_nothing_follows_what_is_not_there(chats: Conversations) -> None:
    one, other = await chats.create("amal"), await chats.create("amal")
    (message,) = await talk(chats, other, "theirs")
    for refused in (
        chats.add(one, message.id, "user", "x"),
        chats.branch(one, message.id),
        chats.message(one, message.id),
        chats.siblings(one, "msg-0"),
    ):
        with pytest.raises(NotFound):
            await refused
    assert await chats.path(one) == []


async def test_nobody_meets_what_is_anothers(chats: Conversations) -> None:
    """An admin is somebody else too."""
    one = await chats.create("amal", "Secret plans")
    await talk(chats, one, "the needle")
    for reader in ("badr", "console", ""):
        with pytest.raises(NotFound):
            await chats.get(reader, one.id)
        assert (await chats.page(reader)).conversations == []
    for reader in ("badr", "console"):
        assert (await chats.search(reader, "needle")).hits == []
        assert (await chats.search(reader, "secret")).hits == []
    assert len((await chats.search("amal", "needle")).hits) == 1
    with pytest.raises(ValueError, match="one word"):
        await chats.search('amal" OR owner : "badr', "needle")


async def test_lists_have_pages(chats: Conversations, store: Store) -> None:
    """Pinned first, then the newest; archived ones apart."""
    made = []
    for number in range(7):
        tick(store)
        made.append(await chats.create("amal", f"number {number}"))
    await chats.pin(made[1], True)
    await chats.archive(made[2], True)
    tick(store)
    await talk(chats, made[0], "again")
    titles, before = [], ""
    for _ in range(4):
        page = await chats.page("amal", before=before, limit=2)
        titles += [one.title for one in page.conversations]
        before = page.next
        if not before:
            break
    assert titles == ["number 1", "number 0", "number 6", "number 5", "number 4", "number 3"]
    assert [one.title for one in (await chats.page("amal", archived=True)).conversations] == ["number 2"]
    for wrong in ("x", "1_2", "1_x_3"):
        with pytest.raises(Invalid):
            await chats.page("amal", before=wrong)


async def test_a_model_never_renames_what_a_person_named(chats: Conversations) -> None:
    one = await chats.create("amal")
    assert (await chats.rename(one, "guess", by_person=False)).title == "guess"
    assert (await chats.rename(one, " My\n plan ")).title == "My plan"
    assert (await chats.rename(one, "guess", by_person=False)).title == "My plan"
    assert (await chats.rename(one, "")).named is False
    with pytest.raises(Invalid):
        await chats.rename(one, "x" * (MOST_TITLE + 1))


async def test_an_answer_is_on_disk_while_it_streams_and_not_once_a_token(store: Store) -> None:
    """A synced write a second at most, whatever the number of tokens."""
    chats = Conversations(store.database, store.audit, store.clock, seconds=0.2)
    one = await chats.create("amal")
    answer = await chats.add(one, None, "assistant", "", state="running")
    writes = 0
    execute = store.database.execute

    async def counted(sql: str, values: Any = ()) -> int:
        nonlocal writes
        writes += 1
        return await execute(sql, values)

    store.database.execute = counted  # type: ignore[method-assign]
    text, began = "", asyncio.get_running_loop().time()
    for number in range(200):
        text += f"w{number} "
        chats.append(answer, text)
        await asyncio.sleep(0.005)
    spent = asyncio.get_running_loop().time() - began

    async with asyncio.timeout(15):
        while (await chats.message(one, answer.id)).text != text:  # noqa: ASYNC110 - a store tells nobody
            await asyncio.sleep(0.02)
    assert 1 <= writes <= spent / 0.2 + 2
    ended = await chats.finish(answer, text + "end", usage={"out": 201})
    assert ended is not None
    assert (await chats.message(one, answer.id)).text == text + "end"
    assert (ended.state, ended.usage) == (State.DONE, {"out": 201})
    await chats.finish(answer, "again", "failed")


async def test_an_answer_to_what_was_deleted_ends_quietly(chats: Conversations) -> None:
    one = await chats.create("amal")
    answer = await chats.add(one, None, "assistant", "", state="running")
    chats.append(answer, "par")
    await chats.delete(one, "amal")
    assert await chats.finish(answer, "partial") is None
    assert (await chats.search("amal", "partial")).hits == []


_DIES = """
import asyncio, sys
from pathlib import Path
from appliance.assembly_assistant import build_conversations
from appliance.settings import Paths, load
from appliance.store import open_store

async def main() -> None:
    async with open_store(load(Paths.under(Path(sys.argv[1])))) as store:
        chats = await build_conversations(store).get()
        one = await chats.create("amal")
        asked = await chats.add(one, None, "user", "question")
        answer = await chats.add(one, asked.id, "assistant", "", state="running")
        text = ""
        for number in range(100000):
            text += f"palimpsest{number} "
            chats.append(answer, text)
            if number == 50:
                while not (await chats.message(one, answer.id)).text:
                    await asyncio.sleep(0.05)
                print(one.id, flush=True)
            await asyncio.sleep(0.001)

asyncio.run(main())
"""


async def test_kill_9_in_the_middle_of_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What had been saved is there, says that it was interrupted, and can be found."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DIES, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        conversation = (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.communicate()
    async with open_store(load(Paths.under(tmp_path))) as store:
        chats = await build_conversations(store).get()
        assert "answers were under way" in caplog.text
        _, answer = await chats.path(await chats.get("amal", conversation))
        assert answer.state is State.INTERRUPTED
        assert answer.text.startswith("palimpsest0 palimpsest1 ")
        assert [hit.message for hit in (await chats.search("amal", "palimpsest3")).hits] == [answer.id]
        assert await chats.recover() == 0


async def test_deleting_leaves_nothing_behind(tmp_path: Path) -> None:
    """PRV-4: no row, no word in the index, and after tidying no byte in the files."""
    paths, words = Paths.under(tmp_path), ("zanzibarian", "quetzalcoatlus", "xylophonists")
    async with open_store(load(paths), ManualClock()) as store:
        chats = await build_conversations(store).get()
        for number in range(30):
            await talk(chats, await chats.create("amal", "kept"), f"kept words {number}", "and their answer")
        secret = await chats.create("amal", "Zanzibarian")
        await talk(chats, secret, "quetzalcoatlus flies", "xylophonists answer")
        await chats.delete(secret, "amal")
        with pytest.raises(NotFound):
            await chats.get("amal", secret.id)
        for word in words:
            assert (await chats.search("amal", word)).hits == []
        await chats.tidy()
        assert len((await chats.search("amal", "kept", limit=50)).hits) == 30
        records = [
            (row["event"], json.loads(row["detail"])) for row in await store.database.rows("SELECT * FROM audit")
        ]
        assert ("conversation.delete", {"conversation": secret.id}) in records
    for file in paths.state.glob("croft.db*"):
        content = file.read_bytes().lower()
        assert [word for word in words if word.encode() in content] == [], file.name


async def test_old_ones_go_by_themselves(chats: Conversations, store: Store) -> None:
    """PRV-4: by class; pinned ones stay, whatever their age."""
    day = 1440
    old, kept, pinned, shelved = [await chats.create("amal", title) for title in ("old", "kept", "pinned", "shelved")]
    assert old.title == "old"
    await chats.pin(pinned, True)
    await chats.archive(shelved, True)
    for _ in range(10 * day):
        tick(store)
    await talk(chats, kept, "new")
    assert await chats.expire(0, 0) == 0
    assert await chats.expire(11, 11) == 0
    assert await chats.expire(9, 0) == 1
    assert await chats.expire(0, 9) == 1
    assert [one.title for one in (await chats.page("amal")).conversations] == ["pinned", "kept"]
    assert (await chats.search("amal", "old")).hits == []


async def test_own_data_is_whole_and_goes_with_the_person(chats: Conversations, store: Store) -> None:
    """PRV-6, PRV-4: what is told is everything, every branch of it; then nothing is left."""
    one, other = await chats.create("amal", "Title"), await chats.create("badr")
    first, _ = await talk(chats, one, "question ```", "answer")
    await chats.add(one, None, "user", "edited", context=[{"kind": "file", "path": "a.py", "text": "x"}])
    await chats.add(
        one, first.id, "assistant", "b", model="tiny", usage={"out": 3}, steps=[{"tool": "read", "words": "w"}]
    )
    await talk(chats, other, "theirs")
    (told,) = await owned.told(store.database, "amal")
    back = json.loads(json.dumps(told, ensure_ascii=False))
    assert back.pop("proposals") == []
    assert back == as_data(await chats.get("amal", one.id), await chats.all_messages(one))
    assert [message["text"] for message in back["messages"]] == ["question ```", "answer", "edited", "b"]
    assert [message["parent"] for message in back["messages"]] == [None, first.id, None, first.id]
    assert back["messages"][2]["context"] == [{"kind": "file", "path": "a.py", "text": "x"}]
    async with store.database.transaction() as tx:
        await owned.forget(tx, "amal")
    assert await owned.told(store.database, "amal") == []
    assert (await chats.search("amal", "question")).hits == []
    assert len((await chats.search("badr", "theirs")).hits) == 1
    left = await store.database.rows("SELECT count(*) AS n FROM messages")
    assert left[0]["n"] == 1


OPEN_ENDS = (
    "```\nls",
    "~~~~py\nx = 1\n```",
    "text\n```a`b",
    "<!-- never ends",
    "<script>",
    "<pre>\nx",
    "<?php",
    "    ```\nx",
    "```\na\n```\nb\n~~~",
)


@pytest.mark.parametrize("text", OPEN_ENDS)
async def test_a_message_never_runs_into_the_next(chats: Conversations, text: str) -> None:
    """As Markdown: what is left open is closed, so the next heading is one."""
    one = await chats.create("amal", "Title")
    await talk(chats, one, "question", text, "LAST WORDS")
    document = as_markdown(one, await chats.path(one), NAMES)
    html = "\n".join(block.html for block in render(document))
    assert html.count(">You<") == 2
    assert re_words(html, "LAST WORDS")
    assert text in document


def re_words(html: str, words: str) -> bool:
    return f">{words}</p>" in html


def test_fences_hold_what_holds_fences() -> None:
    code = "```\na\n````\nb"
    (block,) = render(fenced(code, "md"))
    assert (block.code, block.lang) == (code, "md")
    assert closed("plain") == "plain"


async def test_files_sent_along_are_in_the_export(chats: Conversations) -> None:
    one = await chats.create("amal", "T")
    await chats.add(one, None, "user", "why?", context=[{"kind": "file", "path": "a`b.md", "text": "```\ncode\n```"}])
    document = as_markdown(one, await chats.path(one), NAMES)
    blocks = render(document)
    assert [block.code for block in blocks if block.kind == "code"] == ["```\ncode\n```"]
    assert "2027-01-15" in document


async def test_too_many_are_refused(chats: Conversations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.assistant.conversations.MOST_CONVERSATIONS", 2)
    await chats.create("amal")
    await chats.create("amal")
    with pytest.raises(Invalid):
        await chats.create("amal")
    await chats.create("badr")


async def test_a_conversation_ends_somewhere(chats: Conversations, store: Store) -> None:
    one = await chats.create("amal")
    (message,) = await talk(chats, one, "x")
    await store.database.execute("UPDATE messages SET place = ? WHERE id = ?", (one.places[1], message.id))
    with pytest.raises(Conflict):
        await chats.add(one, None, "user", "one more")
