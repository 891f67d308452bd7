"""What waits for a person: one list on Home, filled by whoever knows of such things.

The daemon registers providers when it is built (``keys.NEEDS``). They are here, not with their pages, which nobody may ever visit.

Rule: a need names one thing and leads to where it is done; what is merely wrong with the machine is a known problem.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from appliance.errors import CroftError
from appliance.identity.hints import DONE, FIRST_RUN, Hints
from appliance.identity.users import Role, User
from appliance.messages import Message

if TYPE_CHECKING:
    from appliance.assistant.engine import Engine
    from appliance.commands.front import Commands
    from appliance.identity.api_tokens import ApiTokens

log = logging.getLogger(__name__)

MOST = 8  # shown on Home; a list that scrolls is no list of what to do next


class Need(Struct, frozen=True):
    """One thing: a sentence, where it is done, an icon of the sprite, and whether it cannot wait."""

    text: Message
    href: str
    icon: str = "next"
    urgent: bool = False


Provider = Callable[[User], Awaitable[list[Need]]]


async def gather(providers: Sequence[Provider], user: User) -> list[Need]:
    """The needs of ``user``, urgent ones first. A provider that cannot tell right now does not take the page with it."""
    answers = await asyncio.gather(*(_ask(provider, user) for provider in providers))
    found = [need for answer in answers for need in answer]
    return sorted(found, key=lambda need: not need.urgent)[:MOST]


async def _ask(provider: Provider, user: User) -> list[Need]:
    try:
        return await provider(user)
    except (CroftError, OSError, sqlite3.Error) as error:
        log.warning("cannot tell what a person has to do", exc_info=error)
        return []


def on_page(ask: Callable[[User], Awaitable[Sequence[Message]]], href: str, icon: str) -> Provider:
    """A provider from what only knows the sentences: all of it is done on the page at ``href``."""

    async def provider(user: User) -> list[Need]:
        return [Need(text, href, icon) for text in await ask(user)]

    return provider


def unfinished(hints: Hints) -> Provider:
    """That the first run was left half-way."""

    async def provider(user: User) -> list[Need]:
        if user.role < Role.admin or await hints.done_by_anyone(FIRST_RUN):
            return []
        begun = await hints.state(user, FIRST_RUN) not in ("", DONE)
        return [Need(Message("welcome.unfinished"), "/welcome", "settings")] if begun else []

    return provider


def expiring(tokens: ApiTokens) -> Provider:
    """Tokens that are about to end, or just did."""

    async def provider(user: User) -> list[Need]:
        said = [
            (f"tokens.need.{'over' if tokens.expired(one) else 'soon'}", one.name) for one in tokens.expiring(user.id)
        ]
        return [Need(Message(key, {"name": name}), "/account/tokens", "key") for key, name in said]

    return provider


def waiting(commands: Commands) -> Provider:
    """Commands that wait for a decision."""

    async def provider(user: User) -> list[Need]:
        pending = commands.approvals.pending
        if user.role < Role.operator or not pending:
            return []
        return [Need(Message("approvals.need", {"n": pending}), "/commands/approvals", "commands", urgent=True)]

    return provider


def without_model(engine: Engine) -> Provider:
    """That nobody answers the assistant's questions because no model was chosen."""

    async def provider(user: User) -> list[Need]:
        if user.role < Role.admin or engine.status().reason != "no_model":
            return []
        return [Need(Message("chat.need.no_model"), "/machine/models", "assistant")]

    return provider
