"""Conversations kept: each is one person's own, a tree of messages of which one path is active.

Rules: whoever asks for a conversation names its owner, and for anybody else there is none; what is deleted takes its messages and
the words in the index with it. An answer under way is on disk within a second (:mod:`appliance.assistant.drafts`).
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from appliance.assistant import word_index
from appliance.assistant.drafts import SECONDS, Draft
from appliance.assistant.messages import MOST_MESSAGES, Conversation, Message, Role, State, Tree, interrupted
from appliance.assistant.owned import erase
from appliance.assistant.word_index import Hits
from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.database import Database
from appliance.errors import Conflict, Invalid, NotFound

log = logging.getLogger(__name__)

PAGE = 50
MOST_TITLE = 120
DAY = 86_400.0
MOST_CONVERSATIONS = 10_000  # of one person


@dataclass(frozen=True, slots=True)
class Page:
    """Some conversations; ``next`` asks for those after them, '' at the end."""

    conversations: Sequence[Conversation]
    next: str


class Conversations:
    """The one store of them."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock, *, seconds: float = SECONDS) -> None:
        """``seconds``: how long a part of an answer may be in memory alone."""
        self._db, self._audit, self._clock, self._seconds = database, audit, clock, seconds
        self._drafts: dict[str, Draft] = {}
        self._untidy = True  # nobody knows what was deleted before this start

    # --- conversations

    async def create(self, owner: str, title: str = "") -> Conversation:
        """A new, empty one. Raises Invalid when the person has too many, or for a title that cannot be."""
        title, now = _title(title), self._clock.now()
        made = f"chat-{secrets.token_hex(8)}"

        async def work(tx: Any) -> None:
            have = (await tx.execute_fetchall("SELECT count(*) FROM conversations WHERE owner = ?", (owner,)))[0][0]
            if have >= MOST_CONVERSATIONS:
                raise Invalid(
                    f"there are {MOST_CONVERSATIONS} conversations already",
                    hint="Delete some, or have old ones deleted by themselves (settings).",
                    code="too_many_conversations",
                )
            await tx.execute(
                "INSERT INTO conversations (id, owner, title, named, created_at, changed_at) VALUES (?, ?, ?, ?, ?, ?)",
                (made, owner, title, int(bool(title)), now, now),
            )
            row = await _found(tx, made)
            await word_index.write_title(tx, row["seq"], owner, title)

        await self._db.write(work)
        return await self.get(owner, made)

    async def get(self, owner: str, conversation: str) -> Conversation:
        """Raises NotFound, also for what is somebody else's."""
        row = await self._db.row("SELECT * FROM conversations WHERE id = ? AND owner = ?", (conversation, owner))
        if row is None:
            raise NotFound("there is no such conversation", hint="It may have been deleted.")
        return Conversation.of(row)

    async def page(self, owner: str, *, archived: bool = False, before: str = "", limit: int = PAGE) -> Page:
        """Pinned ones first, then by when they changed, the newest first. Raises Invalid for a ``before`` that is none."""
        rows = await self._db.rows(
            "SELECT * FROM conversations WHERE owner = ? AND archived = ? AND (pinned, changed_at, seq) < (?, ?, ?) "
            "ORDER BY pinned DESC, changed_at DESC, seq DESC LIMIT ?",
            (owner, int(archived), *_cursor(before), limit + 1),
        )
        found = [Conversation.of(row) for row in rows[:limit]]
        last = found[-1] if len(rows) > limit else None
        return Page(found, f"{int(last.pinned)}_{last.changed_at!r}_{last.seq}" if last else "")

    async def rename(self, conversation: Conversation, title: str, *, by_person: bool = True) -> Conversation:
        """Give it a title. With ``by_person`` False (a model's idea) only while no person has named it. Raises Invalid."""
        title = _title(title)

        async def work(tx: Any) -> None:
            changed = await tx.execute(
                "UPDATE conversations SET title = ?, named = ? WHERE seq = ? AND (named = 0 OR ?)",
                (title, int(by_person and bool(title)), conversation.seq, by_person),
            )
            if changed.rowcount:
                await word_index.write_title(tx, conversation.seq, conversation.owner, title)

        await self._db.write(work)
        return await self.get(conversation.owner, conversation.id)

    async def pin(self, conversation: Conversation, pinned: bool) -> Conversation:
        """Pinned ones stand first, and stay whatever their age."""
        return await self._mark(conversation, "UPDATE conversations SET pinned = ? WHERE seq = ?", pinned)

    async def archive(self, conversation: Conversation, archived: bool) -> Conversation:
        """Archived ones are out of the list; searching finds them."""
        return await self._mark(conversation, "UPDATE conversations SET archived = ? WHERE seq = ?", archived)

    async def _mark(self, conversation: Conversation, change: str, value: bool) -> Conversation:
        await self._db.execute(change, (int(value), conversation.seq))
        return await self.get(conversation.owner, conversation.id)

    async def delete(self, conversation: Conversation, actor: str) -> None:
        """For good: its messages and what the index knows of it too."""
        async with self._db.transaction() as tx:
            await self._audit.append(tx, "conversation.delete", actor, conversation=conversation.id)
            await erase(tx, conversation.seq)
        self._untidy = True

    # --- messages

    async def add(
        self,
        conversation: Conversation,
        parent: str | None,
        role: Role | str,
        text: str,
        *,
        state: State | str = State.DONE,
        model: str = "",
        usage: Mapping[str, Any] | None = None,
        context: Sequence[Mapping[str, Any]] = (),
        steps: Sequence[Mapping[str, Any]] = (),
    ) -> Message:
        """A message after ``parent`` (an id; None: the first), which becomes the end of the active path.

        A second one after the same parent is a branch: an edited question, another answer. Raises NotFound, Conflict.
        """
        made, now = f"msg-{secrets.token_hex(8)}", self._clock.now()
        values = (made, str(role), text, str(state), model, _json(usage or {}), _json(context), _json(steps), now)
        words = word_index.columns(Role(role), State(state), text)

        async def work(tx: Any) -> None:
            tree = await _tree(tx, await _found(tx, conversation.id))
            above = None if parent is None else tree.find(parent)
            if parent is not None and above is None:
                raise NotFound("there is no such message in this conversation", hint="Reload the page.")
            place = max(tree.nodes, default=conversation.places[0] - 1) + 1
            if place > conversation.places[1]:
                raise Conflict(f"a conversation holds {MOST_MESSAGES - 1} messages", hint="Start another one.")
            await tx.execute(
                "INSERT INTO messages (place, parent, id, role, text, state, model, usage, context, steps, created_at, finished_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (place, above.place if above else None, *values, None if state == State.RUNNING else now),
            )
            for node, child in tree.links(above.place if above else None, place):
                await _choose(tx, conversation.seq, node, child)
            await tx.execute("UPDATE conversations SET changed_at = ? WHERE seq = ?", (now, conversation.seq))
            if words is not None:
                await word_index.write(tx, place, conversation.owner, words)

        await self._db.write(work)
        return await self.message(conversation, made)

    def append(self, message: Message, text: str, steps: Sequence[Mapping[str, Any]] = ()) -> None:
        """``text`` and ``steps`` are all of the answer so far; they are on disk within a second. Returns at once."""
        draft = self._drafts.get(message.id)
        if draft is None:

            async def save(text: str, steps: Sequence[Mapping[str, Any]]) -> None:
                await self._db.execute(
                    "UPDATE messages SET text = ?, steps = ? WHERE place = ? AND state = 'running'",
                    (text, _json(steps), message.place),
                )

            draft = self._drafts[message.id] = Draft(save, self._seconds)
        draft.put(text, steps)

    async def finish(
        self,
        message: Message,
        text: str,
        state: State | str = State.DONE,
        *,
        usage: Mapping[str, Any] | None = None,
        model: str | None = None,
        steps: Sequence[Mapping[str, Any]] | None = None,
    ) -> Message | None:
        """The end of an answer; on disk, and found by searching, when this returns. None when it was deleted meanwhile."""
        if draft := self._drafts.pop(message.id, None):
            await draft.close()
        now = self._clock.now()
        ended = replace(
            message,
            text=text,
            state=State(state),
            finished_at=now,
            usage=message.usage if usage is None else usage,
            model=message.model if model is None else model,
            steps=message.steps if steps is None else steps,
        )
        words = word_index.columns(ended.role, ended.state, text)

        async def work(tx: Any) -> bool:
            changed = await tx.execute(
                "UPDATE messages SET text = ?, state = ?, finished_at = ?, usage = ?, model = ?, steps = ? WHERE place = ? AND id = ?",
                (
                    text,
                    str(ended.state),
                    now,
                    _json(ended.usage),
                    ended.model,
                    _json(ended.steps),
                    ended.place,
                    ended.id,
                ),
            )
            if not changed.rowcount:
                return False
            owner = await tx.execute_fetchall("SELECT owner FROM conversations WHERE id = ?", (message.conversation,))
            await tx.execute("UPDATE conversations SET changed_at = ? WHERE id = ?", (now, message.conversation))
            if words is not None:
                await word_index.write(tx, ended.place, owner[0][0], words)
            return True

        return ended if await self._db.write(work) else None

    async def message(self, conversation: Conversation, message: str) -> Message:
        """One message, on the active path or not. Raises NotFound."""
        tree = await self._read_tree(conversation)
        node = tree.find(message)
        if node is None:
            raise NotFound("there is no such message in this conversation", hint="Reload the page.")
        return (await self._messages(conversation, tree, [node.place]))[0]

    async def path(self, conversation: Conversation) -> list[Message]:
        """The active path from the first message on, with how many siblings each has."""
        tree = await self._read_tree(conversation)
        return await self._messages(conversation, tree, [node.place for node in tree.path()])

    async def above(self, conversation: Conversation, message: str) -> list[Message]:
        """From the first message to this one, on the active path or not. Raises NotFound."""
        tree = await self._read_tree(conversation)
        node = tree.find(message)
        if node is None:
            raise NotFound("there is no such message in this conversation", hint="Reload the page.")
        return await self._messages(conversation, tree, [node.place, *tree.above(node)])

    async def all_messages(self, conversation: Conversation) -> list[Message]:
        """Every message of every branch, in the order they were written."""
        tree = await self._read_tree(conversation)
        return await self._messages(conversation, tree, sorted(tree.nodes))

    async def siblings(self, conversation: Conversation, message: str) -> list[str]:
        """Ids of everything that follows the same parent, the message itself too, the oldest first. Raises NotFound."""
        tree = await self._read_tree(conversation)
        node = tree.find(message)
        if node is None:
            raise NotFound("there is no such message in this conversation", hint="Reload the page.")
        return [tree.nodes[place].id for place in tree.beside(node)]

    async def branch(self, conversation: Conversation, message: str) -> list[Message]:
        """Make the path through ``message`` the active one, on to where it was left; returns it. Raises NotFound."""

        async def work(tx: Any) -> None:
            tree = await _tree(tx, await _found(tx, conversation.id))
            node = tree.find(message)
            if node is None:
                raise NotFound("there is no such message in this conversation", hint="Reload the page.")
            for above, child in tree.links(node.parent, node.place):
                await _choose(tx, conversation.seq, above, child)

        await self._db.write(work)
        return await self.path(conversation)

    async def _read_tree(self, conversation: Conversation) -> Tree:
        # One read, so that a message added meanwhile is in all of it or in none.
        rows = await self._db.rows(
            "SELECT m.place, m.id, m.parent, m.chosen, c.chosen AS first FROM conversations c "
            "LEFT JOIN messages m ON m.place BETWEEN ? AND ? WHERE c.seq = ?",
            (*conversation.places, conversation.seq),
        )
        return Tree([row for row in rows if row["place"] is not None], rows[0]["first"] if rows else None)

    async def _messages(self, conversation: Conversation, tree: Tree, places: Sequence[int]) -> list[Message]:
        rows = await self._db.rows(
            "SELECT * FROM messages WHERE place IN (SELECT value FROM json_each(?)) ORDER BY place", (_json(places),)
        )
        return [Message.of(row, conversation, tree) for row in rows]

    # --- searching

    async def search(self, owner: str, typed: str, *, before: str = "", limit: int = 20) -> Hits:
        """The person's conversations in which every word of ``typed`` is found in one message or the title, newest first."""
        return await word_index.find(self._db, owner, typed, before, limit)

    # --- keeping

    async def expire(self, days: int, archived_days: int) -> int:
        """Delete what nobody has changed for so many days; 0 keeps a class for ever. Pinned ones stay. Returns how many went."""
        gone = 0
        for archived, age in ((0, days), (1, archived_days)):
            if not age:
                continue
            rows = await self._db.rows(
                "SELECT seq FROM conversations WHERE pinned = 0 AND archived = ? AND changed_at < ?",
                (archived, self._clock.now() - age * DAY),
            )
            for row in rows:
                async with self._db.transaction() as tx:
                    await erase(tx, row["seq"])
            gone += len(rows)
        if gone:
            self._untidy = True
            log.info("old conversations were deleted", extra={"conversations": gone})
        return gone

    async def tidy(self) -> None:
        """Take the words of what was deleted out of the file too, where something was."""
        if self._untidy:
            self._untidy = False
            await word_index.tidy(self._db)

    async def recover(self) -> int:
        """After a start: answers that were under way are marked ``interrupted``, with what was saved; returns how many."""
        rows = await self._db.rows("SELECT place, role, text, steps FROM messages WHERE state = 'running'")

        async def work(tx: Any) -> None:
            for row in rows:
                await tx.execute(
                    "UPDATE messages SET state = 'interrupted', finished_at = ?, steps = ? WHERE place = ?",
                    (self._clock.now(), _json(interrupted(json.loads(row["steps"]))), row["place"]),
                )
                seq = row["place"] // MOST_MESSAGES
                owner = await tx.execute_fetchall("SELECT owner FROM conversations WHERE seq = ?", (seq,))
                words = word_index.columns(Role(row["role"]), State.INTERRUPTED, row["text"])
                if owner and words is not None:
                    await word_index.write(tx, row["place"], owner[0][0], words)

        if rows:
            await self._db.write(work)
            log.warning(
                "answers were under way when Croft ended; what had been saved is kept", extra={"answers": len(rows)}
            )
        return len(rows)


async def _found(tx: Any, conversation: str) -> Any:
    rows = await tx.execute_fetchall("SELECT * FROM conversations WHERE id = ?", (conversation,))
    if not rows:
        raise NotFound("there is no such conversation", hint="It may have been deleted.")
    return rows[0]


async def _tree(tx: Any, row: Any) -> Tree:
    places = Conversation.of(row).places
    return Tree(
        await tx.execute_fetchall("SELECT place, id, parent, chosen FROM messages WHERE place BETWEEN ? AND ?", places),
        row["chosen"],
    )


async def _choose(tx: Any, seq: int, above: int | None, child: int) -> None:
    if above is None:
        await tx.execute("UPDATE conversations SET chosen = ? WHERE seq = ?", (child, seq))
    else:
        await tx.execute("UPDATE messages SET chosen = ? WHERE place = ?", (child, above))


def _title(text: str) -> str:
    """A title on one line. Raises Invalid when it is too long."""
    title = " ".join(text.split())
    if len(title) > MOST_TITLE:
        raise Invalid("the title is too long", hint=f"At most {MOST_TITLE} characters.", code="conversation_title")
    return title


def _cursor(before: str) -> tuple[int, float, int]:
    if not before:
        return 2, 0.0, 0
    try:
        pinned, changed_at, seq = before.split("_")
        return int(pinned), float(changed_at), int(seq)
    except ValueError as error:
        raise Invalid("cannot read where to go on", hint="Begin without `before`.") from error


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
