"""What each person can prove who they are with, and what they should still do about it.

Rule: nobody removes their own last way in. Mail counts as one where it is set up; the console does not, for few people have it.
"""

from __future__ import annotations

from collections.abc import Callable

from appliance.database import Database
from appliance.errors import Conflict
from appliance.identity.passkeys import Passkeys
from appliance.identity.recovery import LOW, RecoveryCodes
from appliance.identity.users import User
from appliance.messages import Message


class WaysIn:
    """Looks over passkeys, codes and mail together. ``mail`` says whether links can be mailed."""

    def __init__(self, database: Database, passkeys: Passkeys, codes: RecoveryCodes, mail: Callable[[], bool]) -> None:
        self._db = database
        self._passkeys = passkeys
        self._codes = codes
        self._mail = mail

    async def needs(self, user: User) -> list[Message]:
        """What ``user`` should still do, the most pressing first; all of it is done on the account page."""
        passkeys, left = await self._passkeys.of(user.id), await self._codes.left(user.id)
        found = [Message("needs.suspect", {"name": key.name}) for key in passkeys if key.suspect_at is not None]
        if not any(key.suspect_at is None for key in passkeys):
            found.append(Message("needs.passkey"))
        if not left:
            found.append(Message("needs.codes"))
        elif left <= LOW:
            found.append(Message("needs.codes_low", {"n": left}))
        return found

    async def remove_passkey(self, user: User, passkey_id: str) -> None:
        """Remove one of ``user``'s passkeys. Raises NotFound, or Conflict when it is their last way in."""
        async with self._db.transaction() as tx:
            gone = await self._passkeys.remove(tx, user, passkey_id)
            if gone.suspect_at is not None:
                return  # it was no way in any more
            others = await tx.execute_fetchall(
                "SELECT 1 FROM passkeys WHERE user_id = ?1 AND suspect_at IS NULL "
                "UNION ALL SELECT 1 FROM recovery_codes WHERE user_id = ?1 LIMIT 1",
                (user.id,),
            )
            if not list(others) and not self._mail():
                raise Conflict(
                    "this is the last way in that you have",
                    hint="Make recovery codes or add another passkey first.",
                    code="last_way_in",
                )
