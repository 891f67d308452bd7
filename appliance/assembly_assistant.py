"""Putting the assistant's parts together, each as a :class:`Late`: nothing of it is imported before somebody uses it."""

from __future__ import annotations

import asyncio
import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from appliance.assistant.room import Late
from appliance.identity.own_data import OwnData
from appliance.identity.users import User, Users
from appliance.settings_desk import SettingsDesk
from appliance.store import Store

if TYPE_CHECKING:
    from appliance.assistant.conversations import Conversations
    from appliance.assistant.quotas import Quotas


def build_conversations(store: Store) -> Late[Conversations]:
    """Everyone's conversations. What was under way when Croft last ended is marked before anybody sees it."""

    async def build(module: ModuleType) -> Conversations:
        made: Conversations = module.Conversations(store.database, store.audit, store.clock)
        await made.recover()
        return made

    return Late("appliance.assistant.conversations", build)


def build_quotas(store: Store, desk: SettingsDesk) -> Late[Quotas]:
    """What programs and people may use of the engine, with what earlier runs of the daemon counted."""

    async def build(module: ModuleType) -> Quotas:
        made: Quotas = module.Quotas(store.database, store.audit, store.clock, lambda: module.Limits.of(desk.current))
        await made.load()
        return made

    return Late("appliance.assistant.quotas", build)


class Counts:
    """Saves what the quotas counted, if anybody used them; ``last`` says that the daemon stops, so nothing is left for later."""

    def __init__(self, quotas: Late[Quotas], *, last: bool = False) -> None:
        self._quotas, self._last = quotas, last

    async def save(self) -> None:
        if (made := self._quotas.made) is not None:
            await (made.close() if self._last else made.save())


def join_own_data(own: OwnData, users: Users, store: Store) -> None:
    """A person's conversations and what they used of the engine are told to them, and go with them."""

    async def told(user: User) -> Any:
        module = await asyncio.to_thread(importlib.import_module, "appliance.assistant.owned")
        return await module.told(store.database, user.id)

    async def forget(tx: Any, user: User) -> None:
        module = await asyncio.to_thread(importlib.import_module, "appliance.assistant.owned")
        await module.forget(tx, user.id)

    async def told_use(user: User) -> Any:
        module = await asyncio.to_thread(importlib.import_module, "appliance.assistant.quotas")
        return await module.told(store.database, user.id)

    async def forget_use(tx: Any, user: User) -> None:
        module = await asyncio.to_thread(importlib.import_module, "appliance.assistant.quotas")
        await module.forget(tx, user.id)

    own.register("conversations", told)
    users.on_remove(forget)
    own.register("model_use", told_use)
    users.on_remove(forget_use)
