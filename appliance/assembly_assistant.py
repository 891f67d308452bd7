"""Putting the assistant's parts together, each as a :class:`Late`: nothing of it is imported before somebody uses it."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from appliance.assistant.room import Late
from appliance.store import Store

if TYPE_CHECKING:
    from appliance.assistant.conversations import Conversations


def build_conversations(store: Store) -> Late[Conversations]:
    """Everyone's conversations. What was under way when Croft last ended is marked before anybody sees it."""

    async def build(module: ModuleType) -> Conversations:
        made: Conversations = module.Conversations(store.database, store.audit, store.clock)
        await made.recover()
        return made

    return Late("appliance.assistant.conversations", build)
