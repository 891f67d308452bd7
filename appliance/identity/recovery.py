"""Recovery codes: ten one-time codes on paper, for the day when nothing else is at hand.

Rule: a code is 80 random bits, so that a copy of the database helps nobody, and is shown once; only its hash is stored, and
using it deletes that. Guesses are throttled besides, like every way in.
"""

from __future__ import annotations

import secrets
import unicodedata
from typing import Any

from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.database import Database
from appliance.identity.secrets import digest
from appliance.identity.throttle import ProofRefused
from appliance.identity.users import User

COUNT = 10
LOW = 3
LENGTH = 16
# Crockford's base 32: no letter that is mistaken for another when it is read from paper.
LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MISREAD = str.maketrans("OIL", "011")


class CodeRefused(ProofRefused):
    """The code is unknown or used, or the caller is throttled; which one is not told."""

    code = "recovery_refused"

    def __init__(self) -> None:
        super().__init__(
            "This code does not work. It may have been used or replaced, or there were too many attempts.",
            hint="Check it letter by letter, use another one, or wait a few minutes.",
        )


class RecoveryCodes:
    """Makes, counts and accepts codes."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock) -> None:
        self._db = database
        self._audit = audit
        self._clock = clock

    async def left(self, user_id: str) -> int:
        """How many unused codes a person has."""
        row = await self._db.row("SELECT COUNT(*) FROM recovery_codes WHERE user_id = ?", (user_id,))
        return int(row[0]) if row else 0

    async def replace(self, user: User) -> list[str]:
        """Ten fresh codes for ``user``; older ones stop working with the same commit."""
        codes = [_new() for _ in range(COUNT)]
        now = self._clock.now()
        async with self._db.transaction() as tx:
            await tx.execute("DELETE FROM recovery_codes WHERE user_id = ?", (user.id,))
            await tx.executemany(
                "INSERT INTO recovery_codes VALUES (?, ?, ?)", [(digest(read(code)), user.id, now) for code in codes]
            )
            await self._audit.append(tx, "recovery.replace", user.id)
        return codes

    async def use(self, tx: Any, code: str) -> User:
        """Whose code it was, used up in the caller's transaction. Raises CodeRefused."""
        key = digest(read(code))
        rows = list(
            await tx.execute_fetchall(
                "SELECT u.* FROM users u JOIN recovery_codes c ON c.user_id = u.id WHERE c.hash = ?", (key,)
            )
        )
        gone = await tx.execute("DELETE FROM recovery_codes WHERE hash = ?", (key,))
        if not gone.rowcount or rows[0]["suspended_at"] is not None:
            raise CodeRefused
        return User.of(rows[0])


def read(typed: str) -> str:
    """``typed`` as it was meant: any case, spacing and digits, and the letters people mistake for digits."""
    letters = (_letter(char) for char in typed[:200].upper())
    return "".join(char for char in letters if char.isalnum()).translate(_MISREAD)


def _letter(char: str) -> str:
    digit = unicodedata.digit(char, None)  # an Arabic keyboard types ٣ where 3 is meant
    return char if digit is None else str(digit)


def _new() -> str:
    letters = [secrets.choice(LETTERS) for _ in range(LENGTH)]
    return "-".join("".join(letters[start : start + 4]) for start in range(0, LENGTH, 4))
