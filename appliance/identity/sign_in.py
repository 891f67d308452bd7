"""From a proof of identity to a session: throttle, prove, make the session, record it, all or nothing.

Rules: every way in ends in :meth:`SignIn.by`, so that no way is throttled, recorded or remembered less than another. A refusal
costs the same and says the same whatever its cause (AUTH-5), and is counted against the caller.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

from msgspec import Struct

from appliance.audit import AuditLog
from appliance.database import Database
from appliance.identity import secrets
from appliance.identity.devices import Devices
from appliance.identity.links import LinkRefused, Links
from appliance.identity.sessions import Session, Sessions
from appliance.identity.throttle import PER_ACCOUNT, PER_CALLER, Limit, ProofRefused, Throttle, network
from appliance.identity.users import User

Way = Literal["link", "mail", "code", "invitation", "passkey", "recovery"]
# Given the transaction that makes the session, so that what it uses up is used up with it or not at all. Says who it is, or
# raises ProofRefused; whatever it wrote is then undone.
Proof = Callable[[Any], Awaitable[User]]


class Caller(Struct, frozen=True):
    """Where a request comes from. ``device`` is the known-device cookie, empty when there is none."""

    address: str
    agent: str
    device: str = ""


class SignedIn(Struct, frozen=True):
    """A new session with the two cookies the browser gets."""

    session: Session
    cookie: str
    device: str


class SignIn:
    """Where all ways in meet."""

    def __init__(
        self,
        database: Database,
        links: Links,
        sessions: Sessions,
        throttle: Throttle,
        audit: AuditLog,
        devices: Devices,
    ) -> None:
        self._db = database
        self._links = links
        self._sessions = sessions
        self._throttle = throttle
        self._audit = audit
        self._devices = devices

    async def by_link(
        self,
        secret: str,
        caller: Caller,
        *,
        remember: bool = False,
        email: str = "",
        name: str = "",
        held: Session | None = None,
    ) -> SignedIn:
        """Redeem ``secret``; ``held`` as in :meth:`by`. Raises LinkRefused, or Invalid when the first admin's address cannot be used."""
        return await self.by(
            "link",
            lambda tx: self._links.redeem(tx, secret, email, name),
            caller,
            remember=remember,
            held=held,
            refused=LinkRefused,
        )

    async def by(
        self,
        way: Way,
        proof: Proof,
        caller: Caller,
        *,
        remember: bool = False,
        account: str = "",
        fresh: bool = True,
        held: Session | None = None,
        refused: Callable[[], ProofRefused],
    ) -> SignedIn:
        """Sign in whoever ``proof`` says it is. ``account`` names whose account is tried, where that is known beforehand;
        without ``fresh`` the proof is too weak for what asks for a step-up. ``held`` is the session the browser has already:
        its own person's goes on under a new id, so that editors and terminals stay (DECIDED 14).

        Raises what ``proof`` raises, and ``refused()`` for a caller who is shut out: the words ``proof`` refuses with.
        """
        async with self.attempt(way, caller, account, refused=refused) as attempt:
            user = await attempt.who(proof)
            renewal = None
            if held is not None and not held.ended and fresh and held.user.id == user.id:
                session, renewal = held, await self._sessions.renew(attempt.tx, held, remember=remember)
                cookie = renewal.cookie
            else:
                session, cookie = await self._sessions.create(
                    attempt.tx, user, remember=remember, agent=caller.agent, address=caller.address, fresh=fresh
                )
            device = await self._devices.recognise(
                attempt.tx, user.id, agent=caller.agent, address=caller.address, known_as=caller.device
            )
            await self._audit.append(
                attempt.tx, "sign-in", user.id, way=way, session=session.id, address=caller.address
            )
        if renewal:
            self._sessions.renewed(session, renewal)
        else:
            self._sessions.admit(session)
        return SignedIn(session, cookie, device)

    @asynccontextmanager
    async def attempt(
        self, way: Way, caller: Caller, account: str = "", *, refused: Callable[[], ProofRefused]
    ) -> AsyncIterator[Attempt]:
        """One throttled attempt in one transaction, which is undone by any exception. Of a ProofRefused that leaves the block it
        keeps that it happened; step-up proves through this too. Raises TooMany as :meth:`Throttle.line` does."""
        counted, refusal = _keys(caller, account), None
        # From looking for a ban to counting nobody else writes: guesses that come at once count like one after another.
        async with self._throttle.line(caller.address), self._db.transaction() as tx:
            banned = [await self._throttle.banned(key, tx) > 0 for key in counted]
            await tx.execute("SAVEPOINT proof")
            try:
                yield Attempt(tx, caller, refused, shut_out=any(banned))
            except ProofRefused as error:
                refusal = error
                await tx.execute("ROLLBACK TO proof")
                await self._count(tx, way, caller, counted)
        if refusal is not None:
            raise refusal

    async def _count(self, tx: Any, way: Way, caller: Caller, counted: dict[str, Limit]) -> None:
        new = [await self._throttle.failed(tx, key, limit) for key, limit in counted.items()]
        if any(new):
            await self._audit.append(tx, "sign-in.refused", "anyone", way=way, address=caller.address)


class Attempt(Struct, frozen=True):
    """One attempt under way. Use :meth:`who` exactly once."""

    tx: Any
    caller: Caller
    refused: Callable[[], ProofRefused]
    shut_out: bool

    async def who(self, proof: Proof) -> User:
        """Whom ``proof`` names. A caller who is shut out passes on a device that this very person signed in on before:
        nobody locks the owner out by failing on their behalf (AUTH-4)."""
        user = await proof(self.tx)
        known = await self.tx.execute_fetchall(
            "SELECT 1 FROM devices WHERE hash = ? AND user_id = ?", (secrets.digest(self.caller.device), user.id)
        )
        if self.shut_out and not list(known):
            raise self.refused()
        return user


def _keys(caller: Caller, account: str) -> dict[str, Limit]:
    """What a failure counts against: the caller alone, or this caller at this account and the account as a whole."""
    here = network(caller.address)
    return {f"{here} {account}": PER_CALLER, f"account {account}": PER_ACCOUNT} if account else {here: PER_CALLER}
