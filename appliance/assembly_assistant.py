"""Putting the assistant's parts together, each as a :class:`Late`: nothing of it is imported before somebody uses it."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

from appliance.assistant.door import Behind, Door, lines
from appliance.assistant.room import Late
from appliance.errors import CroftError, NotFound
from appliance.events import EventBus
from appliance.identity.own_data import OwnData
from appliance.identity.sessions import Session, Sessions
from appliance.identity.users import User, Users
from appliance.settings import Settings
from appliance.settings_desk import SettingsDesk
from appliance.sockets import listen
from appliance.store import Store

if TYPE_CHECKING:
    from appliance.assistant.conversations import Conversations
    from appliance.assistant.editor import Editors
    from appliance.assistant.editor_window import Owner
    from appliance.assistant.quotas import Quotas

log = logging.getLogger(__name__)

KEEPING_SECONDS = 3600.0
EDITOR_PLACES, V1_PLACES = 16, 32  # connections at once
EDITOR_LINE_MAX = (
    512 * 1024
)  # appliance.assistant.editor_words.LINE_MAX, which is not imported before a window is there


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
    """A person's conversations, what they used of the engine and what they had done for long are told to them, and go with them."""
    for name, room in OWN_DATA:
        told, forget = _owned(room, store)
        own.register(name, told)
        users.on_remove(forget)


OWN_DATA = (
    ("conversations", "appliance.assistant.owned"),
    ("model_use", "appliance.assistant.quotas"),
    ("jobs", "appliance.jobs"),
)


def _owned(room: str, store: Store) -> tuple[Callable[[User], Awaitable[Any]], Callable[[Any, User], Awaitable[None]]]:
    """``told`` and ``forget`` of a module, which is imported when somebody asks."""

    async def told(user: User) -> Any:
        module = await asyncio.to_thread(importlib.import_module, room)
        return await module.told(store.database, user.id)

    async def forget(tx: Any, user: User) -> None:
        module = await asyncio.to_thread(importlib.import_module, room)
        await module.forget(tx, user.id)

    return told, forget


class EditorSurroundings:
    """What the editor's bridge needs of its surroundings (``appliance.assistant.editor.Surroundings``).

    ``served_by`` (a process), ``alone`` and ``sockets`` (open ones of a session) are the relay's, which knows whose browser has which.
    """

    def __init__(
        self,
        settings: Settings,
        sessions: Sessions,
        bus: EventBus,
        served_by: Callable[[int], Session | None],
        alone: Callable[[], Session | None],
        sockets: Callable[[str], int],
    ) -> None:
        self.workspace = str(settings.paths.workspace)
        self.page = f"{settings.ui_origin}/assistant"
        self._sessions = sessions
        self._bus = bus
        self._served_by = served_by
        self._alone = alone
        self._sockets = sockets

    def owner(self, pid: int) -> Owner | None:
        return _owner(self._served_by(pid))

    def alone(self) -> Owner | None:
        return _owner(self._alone())

    def active(self, session: str) -> None:
        if not self._sockets(session):
            return  # nobody sits there: a program of the workspace must not keep a person signed in
        with suppress(NotFound):  # it may have ended while the window lives on
            self._sessions.slide(self._sessions.get(session))

    def listening(self, person: str) -> bool:
        return self._bus.watched("editor", [session.id for session in self._sessions.of(person)])

    def changed(self) -> None:
        if self._bus.watched("editor"):
            self._bus.publish("editor", {}, keep=False)


def _owner(session: Session | None) -> Owner | None:
    if session is None:
        return None
    from appliance.assistant.editor_window import Owner

    return Owner(session.user.id, session.id, session.user.language or "")


def build_editors(store: Store, around: EditorSurroundings) -> Late[Editors]:
    """The daemon's end of the editor's windows."""

    async def build(module: ModuleType) -> Editors:
        made: Editors = module.Editors(store.clock, around)
        return made

    return Late("appliance.assistant.editor", build)


def workspace_doors(
    settings: Settings, uid: int, editors: Late[Editors], terminals: Callable[[], Awaitable[asyncio.Protocol]]
) -> list[Door]:
    """What account ``uid`` may come to, to be run: the editor's line, and `/v1` for its terminals."""

    async def line() -> asyncio.Protocol:
        return lines((await editors.get()).serve, EDITOR_LINE_MAX)

    def door(name: str, places: int, behind: Behind) -> Door:
        path = settings.paths.run / "editor" / f"{name}.sock"
        return Door(listen(path, 0o660, backlog=places), uid, places, behind)

    return [door("editor", EDITOR_PLACES, line), door("v1", V1_PLACES, terminals)]


async def keep_conversations(
    store: Store, late: Late[Conversations], desk: SettingsDesk, seconds: float = KEEPING_SECONDS
) -> None:
    """Each hour: delete conversations that are older than the settings say, and tidy up after those that were deleted. The part
    itself is built only where there is something to do."""
    while True:
        await asyncio.sleep(seconds)
        days = desk.current.conversations_keep_days, desk.current.conversations_archived_days
        try:
            if late.made is not None or await _due(store, days):
                made = await late.get()
                await made.expire(*days)
                await made.tidy()
        except (CroftError, sqlite3.Error, OSError) as error:
            log.error("cannot look after old conversations; it is tried again", exc_info=error)


async def _due(store: Store, days: tuple[int, int]) -> bool:
    ages = [age * 86_400.0 for age in days if age]
    if not ages:
        return False
    oldest = await store.database.row("SELECT min(changed_at) AS at FROM conversations WHERE pinned = 0")
    return oldest is not None and oldest["at"] is not None and oldest["at"] < store.clock.now() - min(ages)
