"""Proving again who one is, before something dangerous (AUTH-10).

Rule: it is the same proof as for signing in, throttled and recorded alike, by the very person whose session it is; afterwards the
session counts as fresh for five minutes and has a new id (AUTH-7).
"""

from __future__ import annotations

from collections.abc import Callable

from appliance.audit import AuditLog
from appliance.identity.sessions import Session, Sessions
from appliance.identity.sign_in import Caller, Proof, SignIn, Way
from appliance.identity.throttle import ProofRefused


class StepUp:
    """Makes a session fresh."""

    def __init__(self, sign_in: SignIn, sessions: Sessions, audit: AuditLog) -> None:
        self._sign_in = sign_in
        self._sessions = sessions
        self._audit = audit

    async def by(
        self,
        way: Way,
        proof: Proof,
        caller: Caller,
        session: Session,
        *,
        account: str = "",
        refused: Callable[[], ProofRefused],
    ) -> str:
        """Prove by ``proof`` that whoever sits at ``session`` is its person. Returns the session's new cookie. ``account`` is as
        for signing in.

        Raises what ``proof`` raises, and ``refused()`` where it names somebody else.
        """
        async with self._sign_in.attempt(way, caller, account, refused=refused) as attempt:
            user = await attempt.who(proof)
            if user.id != session.user.id:
                raise refused()
            renewal = await self._sessions.renew(attempt.tx, session)
            await self._audit.append(attempt.tx, "step-up", user.id, way=way, session=session.id)
        self._sessions.renewed(session, renewal)
        return renewal.cookie
