"""Invitations: a link that makes one person a member, with a role, until a day.

Rules: only the hash of the link is stored, and only the latest one works; one UPDATE inside the transaction that makes the member
decides who uses it; it is worth no more than who made it: an admin who was removed, suspended or demoted invites nobody any more.
"""

from __future__ import annotations

import secrets as random
import unicodedata
from typing import Any, Literal

from msgspec import Struct

from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.database import Database, Row
from appliance.errors import Conflict, Invalid, NotFound
from appliance.identity import secrets
from appliance.identity.throttle import ProofRefused
from appliance.identity.users import Role, User, Users, check_email

DAY = 86400.0
DAYS_MAX = 30
NOTE_MAX = 500
SHOWN = 90 * DAY

State = Literal["open", "accepted", "revoked", "expired"]


class InvitationRefused(ProofRefused):
    """The invitation is unknown, used, withdrawn or too old, or the caller is shut out."""

    code = "invitation_refused"

    def __init__(self) -> None:
        super().__init__(
            "This invitation does not work. It may have been used, withdrawn or replaced by a newer one, or be too old.",
            hint="Ask whoever invited you for a new one.",
        )


class Invitation(Struct, frozen=True):
    """One invitation. Times are Unix seconds; ``inviter`` is a name, empty for the machine's console."""

    id: str
    email: str
    role: Role
    note: str
    language: str
    inviter: str
    created_at: float
    sent_at: float
    expires_at: float
    state: State


class Invitations:
    """Makes, replaces, withdraws and accepts invitations."""

    def __init__(self, database: Database, users: Users, audit: AuditLog, clock: Clock) -> None:
        self._db = database
        self._users = users
        self._audit = audit
        self._clock = clock

    async def create(
        self, email: str, role: Role, by: User | None, actor: str, *, days: int = 7, note: str = "", language: str = ""
    ) -> tuple[Invitation, str]:
        """Invite ``email``; ``by`` None is the console. Returns the invitation and its link's secret.

        Raises Invalid, or Conflict when that is a member's address or an invitation for it is open.
        """
        email, note = check_email(email), check_note(note)
        _check_days(days)
        made, secret, now = random.token_hex(8), secrets.new("inv"), self._clock.now()
        async with self._db.transaction() as tx:
            await self._not_a_member(tx, email)
            await self._no_other(tx, email, now)
            await tx.execute(
                "INSERT INTO invitations (id, hash, email, role, note, language, inviter_id, inviter, by_console, created_at,"
                " sent_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    made,
                    secrets.digest(secret),
                    email,
                    role.name,
                    note,
                    language,
                    by.id if by else None,
                    by.name if by else "",
                    int(by is None),
                    now,
                    now,
                    now + days * DAY,
                ),
            )
            await self._audit.append(tx, "invitation.create", actor, invitation=made, role=role.name, days=days)
        return await self.find(made), secret

    async def renew(self, key: str, by: User | None, actor: str) -> tuple[Invitation, str]:
        """A new link for an open or expired invitation, good for as long as the first was; the old link ends. From now on ``by``
        (None is the console) stands behind it.

        Raises NotFound, or Conflict when it was accepted or withdrawn meanwhile.
        """
        secret, now = secrets.new("inv"), self._clock.now()
        async with self._db.transaction() as tx:
            row = await self._unfinished(tx, key)
            await self._not_a_member(tx, row["email"])
            await tx.execute(
                "UPDATE invitations SET hash = ?, sent_at = ?, expires_at = ?, inviter_id = ?, inviter = ?, by_console = ?"
                " WHERE id = ?",
                (
                    secrets.digest(secret),
                    now,
                    now + row["expires_at"] - row["sent_at"],
                    by.id if by else None,
                    by.name if by else "",
                    int(by is None),
                    key,
                ),
            )
            await self._audit.append(tx, "invitation.renew", actor, invitation=key)
        return await self.find(key), secret

    async def revoke(self, key: str, actor: str) -> None:
        """Withdraw an invitation. Raises NotFound, or Conflict when it was accepted or withdrawn meanwhile."""
        async with self._db.transaction() as tx:
            await self._unfinished(tx, key)
            await tx.execute("UPDATE invitations SET revoked_at = ? WHERE id = ?", (self._clock.now(), key))
            await self._audit.append(tx, "invitation.revoke", actor, invitation=key)

    async def all(self) -> list[Invitation]:
        """Invitations of the last ninety days, and open ones; the newest first."""
        now = self._clock.now()
        rows = await self._db.rows(
            f"{_SELECT} WHERE created_at > ? OR (accepted_at IS NULL AND revoked_at IS NULL AND expires_at > ?)"
            " ORDER BY created_at DESC, rowid DESC LIMIT 500",
            (now - SHOWN, now),
        )
        return [self._of(row) for row in rows]

    async def find(self, key: str) -> Invitation:
        """The invitation with this id. Raises NotFound."""
        row = await self._db.row(f"{_SELECT} WHERE id = ?", (key,))
        if row is None:
            raise _unknown()
        return self._of(row)

    async def look(self, secret: str) -> Invitation | None:
        """The invitation a link leads to, if it would still work; consumes nothing."""
        rows = await self._db.rows(_USABLE, (secrets.digest(secret), self._clock.now()))
        return self._of(rows[0]) if rows else None

    async def accept(self, tx: Any, secret: str, name: str) -> User:
        """Make the member, inside the transaction that makes the session. Raises InvitationRefused; Invalid for the name and
        Conflict when the address is a member's by now (the invitation is then not consumed)."""
        now = self._clock.now()
        rows = list(await tx.execute_fetchall(_USABLE, (secrets.digest(secret), now)))
        if not rows:
            raise InvitationRefused
        row = rows[0]
        user = await self._users.add(tx, row["email"], name, Role[row["role"]], f"invitation:{row['id']}")
        await tx.execute("UPDATE invitations SET accepted_at = ? WHERE id = ?", (now, row["id"]))
        await self._audit.append(tx, "invitation.accept", user.id, invitation=row["id"])
        return user

    def _of(self, row: Row) -> Invitation:
        state: State = "open" if row["backed"] and row["expires_at"] > self._clock.now() else "expired"
        if row["revoked_at"] is not None:
            state = "revoked"
        elif row["accepted_at"] is not None:
            state = "accepted"
        return Invitation(
            row["id"],
            row["email"],
            Role[row["role"]],
            row["note"],
            row["language"],
            row["inviter"],
            row["created_at"],
            row["sent_at"],
            row["expires_at"],
            state,
        )

    async def _not_a_member(self, tx: Any, email: str) -> None:
        if list(await tx.execute_fetchall("SELECT 1 FROM users WHERE email = ?", (email,))):
            raise Conflict(
                "someone with this address is a member already",
                hint="Their role is changed on the People page.",
                code="already_member",
            )

    async def _no_other(self, tx: Any, email: str, now: float) -> None:
        """An expired invitation makes room for a new one; an open one does not."""
        await tx.execute(
            "UPDATE invitations SET revoked_at = ?1"
            " WHERE email = ?2 AND accepted_at IS NULL AND revoked_at IS NULL AND expires_at <= ?1",
            (now, email),
        )
        unfinished = "SELECT 1 FROM invitations WHERE email = ? AND accepted_at IS NULL AND revoked_at IS NULL"
        if list(await tx.execute_fetchall(unfinished, (email,))):
            raise Conflict(
                "an invitation for this address is open already",
                hint="Make a new link for it, or withdraw it first.",
                code="already_invited",
            )

    async def _unfinished(self, tx: Any, key: str) -> Row:
        rows: list[Row] = list(await tx.execute_fetchall("SELECT * FROM invitations WHERE id = ?", (key,)))
        if not rows:
            raise _unknown()
        if rows[0]["accepted_at"] is not None or rows[0]["revoked_at"] is not None:
            raise Conflict("this invitation was accepted or withdrawn meanwhile", hint="Load the page again.")
        return rows[0]


# ``backed`` says whether who stands behind it may still invite.
_SELECT = (
    "SELECT *, by_console OR EXISTS (SELECT 1 FROM users WHERE users.id = inviter_id AND users.role = 'admin'"
    " AND suspended_at IS NULL) AS backed FROM invitations"
)
# A link that works.
_USABLE = f"{_SELECT} WHERE hash = ? AND accepted_at IS NULL AND revoked_at IS NULL AND expires_at > ? AND backed"


def check_note(text: str) -> str:
    """A note of up to 500 characters on one or several lines, without control and direction marks. Raises Invalid."""
    note = unicodedata.normalize("NFC", text.replace("\r\n", "\n").strip())
    allowed = "\n\u200c\u200d"
    if len(note) > NOTE_MAX or any(unicodedata.category(char).startswith("C") and char not in allowed for char in note):
        raise Invalid(
            "that note is too long or holds invisible characters", hint=f"Use up to {NOTE_MAX} visible characters."
        )
    return note


def _check_days(days: int) -> None:
    if not 1 <= days <= DAYS_MAX:
        raise Invalid("an invitation lasts from 1 to 30 days", hint="Choose a number of days from 1 to 30.")


def _unknown() -> NotFound:
    return NotFound("there is no such invitation", hint="It may have been withdrawn meanwhile.")
