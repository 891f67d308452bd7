"""Searching conversations: one's own alone, the newest first, whatever is typed."""

from __future__ import annotations

import pytest
from support.conversations import talk

from appliance.assistant.conversations import Conversations
from appliance.errors import Invalid


async def test_searching_finds_the_newest_message_of_each_conversation(chats: Conversations) -> None:
    one, two = await chats.create("amal", "About disks"), await chats.create("amal")
    await talk(chats, one, "the disk is full", "which disk?", "no match", "no match")
    await talk(chats, two, "disk")
    hits = (await chats.search("amal", "disk")).hits
    assert [hit.conversation.id for hit in hits] == [two.id, one.id]
    assert [piece.text for piece in hits[1].pieces if piece.hit] == ["disk"]
    (title,) = (await chats.search("amal", "about")).hits
    assert (title.conversation.id, title.message) == (one.id, None)
    assert (await chats.search("amal", "full which")).hits == [], "every word in one message"
    assert (await chats.search("amal", "?!")).hits == []


async def test_what_tools_answered_and_what_still_grows_is_not_found(chats: Conversations) -> None:
    one = await chats.create("amal")
    asked = await chats.add(one, None, "user", "look")
    tool = await chats.add(one, asked.id, "tool", "needle")
    answer = await chats.add(one, tool.id, "assistant", "needle", state="running")
    assert (await chats.search("amal", "needle")).hits == []
    await chats.finish(answer, "a needle")
    assert [hit.message for hit in (await chats.search("amal", "needle")).hits] == [answer.id]


async def test_searches_have_pages(chats: Conversations) -> None:
    """Each conversation once, however many of its messages fit."""
    made = []
    for _ in range(9):
        one = await chats.create("amal")
        made.append(one.id)
        await talk(chats, one, *["needle"] * 60)
    found: list[str] = []
    before = ""
    while True:
        hits = await chats.search("amal", "needle", before=before, limit=2)
        found += [hit.conversation.id for hit in hits.hits]
        before = hits.next
        if not before:
            break
    assert found == made[::-1]
    for wrong in ("x", "-1", "9" * 30):
        with pytest.raises(Invalid):
            await chats.search("amal", "needle", before=wrong)


HOSTILE = (
    "' OR 1=1 --",
    '"',
    '""',
    '"a',
    "a AND",
    "NOT",
    "NEAR(a b)",
    "owner:badr",
    "words:x",
    "*",
    "a*",
    "^a",
    "{words}: a",
    "(",
    "-a",
    "a + b",
    "\0",
)


@pytest.mark.parametrize("typed", HOSTILE)
async def test_what_is_typed_is_never_syntax(chats: Conversations, typed: str) -> None:
    one, other = await chats.create("amal"), await chats.create("badr")
    await talk(chats, one, "a b x not near")
    await talk(chats, other, "a b x not near owner badr words")
    assert {hit.conversation.owner for hit in (await chats.search("amal", typed)).hits} <= {"amal"}
