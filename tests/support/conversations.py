"""Conversations for tests of the store itself."""

from __future__ import annotations

from appliance.assistant.conversations import Conversations
from appliance.assistant.messages import Conversation, Message, Role


async def talk(chats: Conversations, conversation: Conversation, *texts: str) -> list[Message]:
    """Questions and answers in turn, each after the one before."""
    said: list[Message] = []
    for number, text in enumerate(texts):
        role = Role.ASSISTANT if number % 2 else Role.USER
        said.append(await chats.add(conversation, said[-1].id if said else None, role, text))
    return said
