"""People and their roles. Rule: at least one active admin always remains, so that nobody locks the owner out."""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Any

from msgspec import Struct

from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.database import Database, Row
from appliance.errors import Conflict, Invalid, NotFound

# Wide on purpose: an address is proved by the person, not by a pattern. Internationalised addresses pass.
_EMAIL = re.compile(r"[^\s@<>()\[\]\\,;:\"\x00-\x20\x7f]{1,64}@[^\s@<>()\[\]\\,;:\"\x00-\x20\x7f]{1,253}\Z")


class Role(IntEnum):
    """What a person may do; each role may do everything the ones below it may."""

    viewer = 1
    operator = 2
    admin = 3


class User(Struct, frozen=True):
    """One person. Times are Unix seconds."""

    id: str
    email: str
    name: str
    role: Role
    language: str
    theme: str
    created_at: float
    suspended: bool

    @classmethod
    def of(cls, row: Row) -> User:
        return cls(
            row["id"],
            row["email"],
            row["name"],
            Role[row["role"]],
            row["language"],
            row["theme"],
            row["created_at"],
            row["suspended_at"] is not None,
        )


# The person, whether they are gone, and who did it.
Changed = Callable[[User, bool, str], None]


class Users:
    """The table of people, with the few who are signed in kept by whoever asks for them."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock) -> None:
        self._db = database
        self._audit = audit
        self._clock = clock
        self._on_change: list[Changed] = []
        self._on_remove: list[Callable[[Any, User], Awaitable[None]]] = []

    def on_change(self, callback: Changed) -> None:
        """Call ``callback`` with a person who was changed or (True) removed, and by whom, as soon as that is on disk."""
        self._on_change.append(callback)

    def on_remove(self, forget: Callable[[Any, User], Awaitable[None]]) -> None:
        """Call ``forget`` inside the transaction that removes a person: a room takes out what it keeps of them (PRV-4)."""
        self._on_remove.append(forget)

    def _tell(self, user: User, actor: str, *, gone: bool = False) -> None:
        # Whoever calls this read ``user`` in the transaction that has just ended and awaited nothing since. So changes are told
        # in the order in which they were made, and nobody keeps a role that was taken away meanwhile.
        for callback in self._on_change:
            callback(user, gone, actor)

    async def all(self) -> list[User]:
        return [User.of(row) for row in await self._db.rows("SELECT * FROM users ORDER BY created_at")]

    async def seen(self) -> dict[str, float]:
        """When each person was last here (Unix seconds, written each minute), by id; those who never were are missing."""
        rows = await self._db.rows("SELECT id, seen_at FROM users WHERE seen_at IS NOT NULL")
        return {row["id"]: row["seen_at"] for row in rows}

    async def none_yet(self) -> bool:
        """Whether nobody has claimed this appliance."""
        return await self._db.row("SELECT 1 FROM users LIMIT 1") is None

    async def find(self, key: str) -> User:
        """The person with this id or e-mail address. Raises NotFound."""
        row = await self._db.row("SELECT * FROM users WHERE id = ? OR email = ?", (key, key.strip()))
        if row is None:
            raise NotFound("there is no such person", hint="`croft users list` shows everyone.")
        return User.of(row)

    async def owner(self) -> User:
        """The first active admin. Raises NotFound."""
        row = await self._db.row(
            "SELECT * FROM users WHERE role = 'admin' AND suspended_at IS NULL ORDER BY created_at LIMIT 1"
        )
        if row is None:
            raise NotFound("this appliance has no owner yet", hint="`croft login-link` prints the set-up link.")
        return User.of(row)

    async def add(self, tx: Any, email: str, name: str, role: Role, actor: str) -> User:
        """Add a person inside the caller's transaction. Raises Invalid or Conflict."""
        email, name = check_email(email), check_name(name)
        if list(await tx.execute_fetchall("SELECT 1 FROM users WHERE email = ?", (email,))):
            raise Conflict(
                "someone with this address is a member already",
                hint="`croft users list` shows everyone.",
                code="already_member",
            )
        user = User(secrets.token_hex(8), email, name or email.split("@")[0], role, "", "", self._clock.now(), False)
        await tx.execute(
            "INSERT INTO users (id, email, name, role, created_at) VALUES (?, ?, ?, ?, ?)",
            (user.id, user.email, user.name, role.name, user.created_at),
        )
        await self._audit.append(tx, "user.create", actor, user=user.id, role=role.name)
        return user

    async def create(self, email: str, name: str, role: Role, actor: str) -> User:
        """Add a person. Raises Invalid or Conflict."""
        async with self._db.transaction() as tx:
            return await self.add(tx, email, name, role, actor)

    async def change(self, user: User, actor: str, *, role: Role | None = None, suspended: bool | None = None) -> User:
        """Change role or suspension. Raises NotFound, or Conflict when no active admin would remain."""
        async with self._db.transaction() as tx:
            if (role is not None and role is not Role.admin) or suspended:
                await self._keep_an_admin(tx, user)
            if role is not None:
                await tx.execute("UPDATE users SET role = ? WHERE id = ?", (role.name, user.id))
            if suspended is not None:
                await tx.execute(
                    "UPDATE users SET suspended_at = ? WHERE id = ?",
                    (self._clock.now() if suspended else None, user.id),
                )
            await self._audit.append(
                tx, "user.change", actor, user=user.id, role=role.name if role else None, suspended=suspended
            )
            changed = await _now(tx, user.id)
        self._tell(changed, actor)
        return changed

    async def prefer(self, user: User, *, language: str | None = None, theme: str | None = None) -> None:
        """Remember a person's language ('', en, ar) and theme ('', auto, light, dark). Raises Invalid or NotFound."""
        if language not in (None, "", "en", "ar") or theme not in (None, "", "auto", "light", "dark"):
            raise Invalid("that language or theme is not known")
        async with self._db.transaction() as tx:
            await tx.execute(
                "UPDATE users SET language = COALESCE(?, language), theme = COALESCE(?, theme) WHERE id = ?",
                (language, theme, user.id),
            )
            changed = await _now(tx, user.id)
        self._tell(changed, user.id)

    async def rename(self, user: User, name: str) -> None:
        """Let a person change what they are called. Raises Invalid or NotFound."""
        wanted = check_name(name)
        if not wanted:
            raise Invalid("a person needs a name", hint="Type what others should call you.")
        async with self._db.transaction() as tx:
            await tx.execute("UPDATE users SET name = ? WHERE id = ?", (wanted, user.id))
            await self._audit.append(tx, "user.change", user.id, user=user.id, what="name")
            changed = await _now(tx, user.id)
        self._tell(changed, user.id)

    async def remove(self, user: User, actor: str) -> None:
        """Remove a person and what is theirs (PRV-4): rows that refer to them go too, and their name where others' rows hold it.
        The audit log keeps their id, which then leads to nobody. Raises Conflict when no active admin would remain."""
        async with self._db.transaction() as tx:
            await self._keep_an_admin(tx, user)
            await tx.execute("DELETE FROM invitations WHERE email = ?", (user.email,))
            await tx.execute("UPDATE invitations SET inviter = '' WHERE inviter_id = ?", (user.id,))
            for forget in self._on_remove:
                await forget(tx, user)
            await tx.execute("DELETE FROM users WHERE id = ?", (user.id,))
            await self._audit.append(tx, "user.remove", actor, user=user.id)
        self._tell(user, actor, gone=True)

    async def _keep_an_admin(self, tx: Any, user: User) -> None:
        others = list(
            await tx.execute_fetchall(
                "SELECT 1 FROM users WHERE role = 'admin' AND suspended_at IS NULL AND id <> ? LIMIT 1", (user.id,)
            )
        )
        # Whether there is anybody else says enough: ``user`` may have been read before somebody changed it.
        if not others:
            raise Conflict(
                "this is the only admin who can sign in",
                hint="Make someone else an admin first.",
                code="last_admin",
            )


async def _now(tx: Any, user_id: str) -> User:
    """The person as this transaction leaves them. Raises NotFound."""
    rows = list(await tx.execute_fetchall("SELECT * FROM users WHERE id = ?", (user_id,)))
    if not rows:
        raise NotFound("there is no such person", hint="They may have been removed meanwhile.")
    return User.of(rows[0])


def check_email(text: str) -> str:
    """A usable address in NFC, its domain in the one form that all its spellings have. Raises Invalid."""
    email = unicodedata.normalize("NFC", text.strip())
    if not _EMAIL.match(email) or any(unicodedata.category(char).startswith("C") for char in email):
        raise _no_address()
    local, _, domain = email.rpartition("@")
    return f"{local}@{_domain(domain.lower())}"


def _domain(text: str) -> str:
    """``text`` as people read it (U-labels): two spellings of one domain must not be two people."""
    if not text.isascii() or "xn--" in text:
        import idna  # its tables take 3 MB; most addresses never need them

        try:
            # Once as the name servers have it, and back: what does not survive that is no domain (RFC 5891, UTS 46).
            text = idna.decode(idna.encode(text, uts46=True), uts46=True)
        except UnicodeError as error:  # IDNAError is one
            raise _no_address() from error
    if "" in text.split("."):
        raise _no_address()
    return text


def _no_address() -> Invalid:
    return Invalid("that is not a usable e-mail address", hint="It looks like name@example.org.")


def check_name(text: str) -> str:
    """A person's name, at most 80 characters; Arabic joiners are welcome, control and direction marks are not."""
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    joiners = "\u200c\u200d"
    if len(name) > 80 or any(unicodedata.category(char).startswith("C") and char not in joiners for char in name):
        raise Invalid("that name is too long or holds invisible characters", hint="Use up to 80 visible characters.")
    return name
