"""Putting the assistant's parts together, each as a :class:`Late`: nothing of it is imported before somebody uses it."""

from __future__ import annotations

import asyncio
import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from appliance.assistant.room import Late
from appliance.identity.own_data import OwnData
from appliance.identity.users import User, Users
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


def join_own_data(own: OwnData, users: Users, store: Store) -> None:
    """A person's conversations are told to them, and go with them."""

    async def told(user: User) -> Any:
        module = await asyncio.to_thread(importlib.import_module, "appliance.assistant.owned")
        return await module.told(store.database, user.id)

    async def forget(tx: Any, user: User) -> None:
        module = await asyncio.to_thread(importlib.import_module, "appliance.assistant.owned")
        await module.forget(tx, user.id)

    own.register("conversations", told)
    users.on_remove(forget)
