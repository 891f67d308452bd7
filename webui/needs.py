"""What waits for a person: one list on Home, filled by whoever knows of such things.

A room's page registers a provider when the daemon is built (``keys.NEEDS``)::

    async def passkey_missing(user: User) -> list[Need]:
        return [] if await passkeys.of(user) else [Need(Message("account.need_passkey"), "/account", "key")]

Rule: a need names one thing and leads to where it is done; what is merely wrong with the machine is a known problem.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from appliance.errors import CroftError
from appliance.identity.users import User
from appliance.messages import Message

log = logging.getLogger(__name__)

MOST = 8  # shown on Home; a list that scrolls is no list of what to do next


@dataclass(frozen=True, slots=True)
class Need:
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
