"""The index of words in conversations: what goes in, what comes out, and how a search walks through it.

Rule: a row's id is the place of the message, so rows of one conversation lie together and the newest come first; a search reads
rows in that order and stops as soon as its page is full, however many there are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from appliance.assistant import search
from appliance.assistant.messages import MOST_MESSAGES, Conversation, Role, State
from appliance.assistant.search import Piece
from appliance.database import Database
from appliance.errors import Invalid

CHUNK = 600  # rows read at a time; putting the question costs more than reading these
INDEXED = (Role.USER, Role.ASSISTANT)
MERGE_PAGES = 200  # of the index rewritten in one transaction when it is tidied


@dataclass(frozen=True, slots=True)
class Hit:
    """Where a search found something: the newest message of a conversation that fits, or its title (``message`` is None)."""

    conversation: Conversation
    message: str | None
    pieces: Sequence[Piece]


@dataclass(frozen=True, slots=True)
class Hits:
    """A page of what was found; ``next`` asks for what comes after it, '' at the end."""

    hits: Sequence[Hit]
    next: str


def columns(role: Role, state: State, text: str) -> tuple[str, str] | None:
    """What is written for a message: nothing while it grows, nothing of what tools answered."""
    return search.columns(text) if role in INDEXED and state is not State.RUNNING else None


async def write(tx: Any, place: int, owner: str, words: tuple[str, str]) -> None:
    """Index a message anew."""
    await drop(tx, place, place)
    await tx.execute(
        "INSERT INTO conversation_words (rowid, owner, words, forms) VALUES (?, ?, ?, ?)", (place, owner, *words)
    )


async def write_title(tx: Any, seq: int, owner: str, title: str) -> None:
    """Index the title of a conversation anew, beside its messages."""
    await write(tx, Conversation.span(seq)[0], owner, search.columns(title))


async def drop(tx: Any, first: int, last: int) -> None:
    """Forget the messages from place ``first`` to ``last``."""
    await tx.execute("DELETE FROM conversation_words WHERE rowid BETWEEN ? AND ?", (first, last))


async def tidy(database: Database) -> None:
    """Rewrite the index, a little at a time, without the words of what was deleted: until then FTS5 only marks them as gone."""

    def merge(pages: int) -> Any:
        async def work(tx: Any) -> int:
            before = (await tx.execute_fetchall("SELECT total_changes()"))[0][0]
            await tx.execute("INSERT INTO conversation_words (conversation_words, rank) VALUES ('merge', ?)", (pages,))
            changed: int = (await tx.execute_fetchall("SELECT total_changes()"))[0][0] - before
            return changed

        return work

    # A negative number begins to merge everything into one; fewer than two changes: nothing was left to do (sqlite.org/fts5.html).
    changed = await database.write(merge(-MERGE_PAGES))
    while changed >= 2:
        changed = await database.write(merge(MERGE_PAGES))


async def find(database: Database, owner: str, typed: str, before: str, limit: int) -> Hits:
    """The owner's conversations in which every word of ``typed`` is found in one message or the title, the newest first."""
    query = search.parse(typed)
    if not query:
        return Hits([], "")
    asked, below = query.sql(owner), _place(before)
    found: dict[int, int] = {}  # by conversation: the newest place
    while len(found) <= limit:
        rows = await database.rows(
            "SELECT rowid FROM conversation_words WHERE conversation_words MATCH ? AND rowid < ? ORDER BY rowid DESC LIMIT ?",
            (asked, below, CHUNK),
        )
        for row in rows:
            found.setdefault(row[0] // MOST_MESSAGES, row[0])
        if len(rows) < CHUNK:
            break
        below = Conversation.span(rows[-1][0] // MOST_MESSAGES)[0]
    shown = list(found.items())[:limit]
    hits = await _hits(database, owner, shown, query)
    return Hits(hits, str(Conversation.span(shown[-1][0])[0]) if len(found) > limit else "")


async def _hits(database: Database, owner: str, places: Sequence[tuple[int, int]], query: search.Query) -> list[Hit]:
    """What stands at ``places`` (conversation, place), in one read; what was deleted since is left out."""
    rows = await database.rows(
        "SELECT c.*, m.id AS message, m.text FROM json_each(?) AS wanted "
        "JOIN conversations c ON c.seq = json_extract(wanted.value, '$[0]') "
        "LEFT JOIN messages m ON m.place = json_extract(wanted.value, '$[1]') WHERE c.owner = ? ORDER BY wanted.key",
        (json.dumps(places), owner),
    )
    hits = []
    for row in rows:
        conversation = Conversation.of(row)
        text = conversation.title if row["message"] is None else row["text"]
        hits.append(Hit(conversation, row["message"], search.snippet(text, query)))
    return hits


def _place(before: str) -> int:
    if not before:
        return 1 << 62
    if not before.isascii() or not before.isdigit() or len(before) > 18:
        raise Invalid("cannot read where to go on", hint="Begin without `before`.")
    return int(before)
