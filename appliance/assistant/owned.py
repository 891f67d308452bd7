"""What the assistant keeps of a person: told to them (PRV-6), and gone with them (PRV-4).

Rule: a conversation is nobody's but its owner's, so unlike runs nothing of it stays when they are removed.
"""

from __future__ import annotations

from typing import Any

from appliance.assistant import word_index
from appliance.assistant.export import as_data
from appliance.assistant.messages import Conversation, Message, Tree
from appliance.database import Database

_OWN = "SELECT * FROM conversations WHERE owner = ? ORDER BY seq"
_PROPOSED = (
    "SELECT id, message, kind, state, run, path, diff, tainted, picked, created_at, decided_at FROM proposals WHERE conversation = ?"
    " ORDER BY created_at, id"
)


async def told(database: Database, person: str) -> list[dict[str, Any]]:
    """All conversations of a person (a user id) with every message, as :func:`appliance.assistant.export.as_data` writes them,
    and with what was proposed in them."""
    found = []
    for row in await database.rows(_OWN, (person,)):
        conversation = Conversation.of(row)
        rows = await database.rows(
            "SELECT * FROM messages WHERE place BETWEEN ? AND ? ORDER BY place", conversation.places
        )
        tree = Tree(rows, row["chosen"])
        proposed = [dict(one) for one in await database.rows(_PROPOSED, (conversation.id,))]
        whole = as_data(conversation, [Message.of(each, conversation, tree) for each in rows])
        found.append(whole | {"proposals": proposed})
    return found


async def forget(tx: Any, person: str) -> None:
    """Delete a person's conversations, in the transaction that removes them."""
    for row in await tx.execute_fetchall("SELECT seq FROM conversations WHERE owner = ?", (person,)):
        await erase(tx, row[0])


async def erase(tx: Any, seq: int) -> None:
    """Take out one conversation: its messages, and what the index knows of them and of its title."""
    first, last = Conversation.span(seq)
    await word_index.drop(tx, first, last)
    await tx.execute("DELETE FROM messages WHERE place BETWEEN ? AND ?", (first, last))
    await tx.execute("DELETE FROM conversations WHERE seq = ?", (seq,))
