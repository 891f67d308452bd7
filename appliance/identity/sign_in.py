"""Signing in by link: throttle, redeem, make the session, record it, all or nothing.

Rule: a refusal costs the same and says the same whatever its cause (AUTH-5), and is counted against the caller's network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.database import Database
from appliance.identity import secrets
from appliance.identity.links import LinkRefused, Links
from appliance.identity.sessions import Session, Sessions
from appliance.identity.throttle import Throttle, network


@dataclass(frozen=True)
class Caller:
    """Where a request comes from. ``device`` is the known-device cookie, empty when there is none."""

    address: str
    agent: str
    device: str = ""


@dataclass(frozen=True)
class SignedIn:
    """A new session with the two cookies the browser gets."""

    session: Session
    cookie: str
    device: str


class SignIn:
    """The one way from a link to a session."""

    def __init__(
        self, database: Database, links: Links, sessions: Sessions, throttle: Throttle, audit: AuditLog, clock: Clock
    ) -> None:
        self._db = database
        self._links = links
        self._sessions = sessions
        self._throttle = throttle
        self._audit = audit
        self._clock = clock

    async def by_link(
        self, secret: str, caller: Caller, *, remember: bool = False, email: str = "", name: str = ""
    ) -> SignedIn:
        """Redeem ``secret``. Raises LinkRefused, or Invalid when the first admin's address cannot be used."""
        key = network(caller.address)
        shut_out = await self._throttle.banned(key) > 0 and not await self._known(caller.device)
        try:
            async with self._db.transaction() as tx:
                user = await self._links.redeem(tx, "" if shut_out else secret, email, name)
                session, cookie = await self._sessions.create(
                    tx, user, remember=remember, agent=caller.agent, address=caller.address
                )
                device = await self._recognise(tx, user.id)
                await self._audit.append(tx, "sign-in", user.id, way="link", session=session.id, address=caller.address)
        except LinkRefused:
            await self._refused(key, caller)
            raise
        self._sessions.admit(session)
        return SignedIn(session, cookie, device)

    async def _refused(self, key: str, caller: Caller) -> None:
        async with self._db.transaction() as tx:
            if await self._throttle.failed(tx, key):
                await self._audit.append(tx, "sign-in.refused", "anyone", way="link", address=caller.address)

    async def _known(self, device: str) -> bool:
        return await self._db.row("SELECT 1 FROM devices WHERE hash = ?", (secrets.digest(device),)) is not None

    async def _recognise(self, tx: Any, user_id: str) -> str:
        device = secrets.new("dev")
        await tx.execute("INSERT INTO devices VALUES (?, ?, ?)", (secrets.digest(device), user_id, self._clock.now()))
        return device
