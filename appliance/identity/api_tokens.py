"""API tokens: opaque, scoped, expiring; looked up in memory at every request, ended everywhere at once.

Rules (TOK-11): only the hash is stored and the token is told once. A token acts with the lesser of its own role and its person's,
only within its scopes, and never longer than a year. What happens to the person happens to the token in the same moment: it
follows :meth:`Users.on_change`, so no caller can forget it.
"""

from __future__ import annotations

import secrets as random
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from appliance import token_text
from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.database import Database, Row
from appliance.errors import Conflict, Invalid, NotFound
from appliance.identity import secrets
from appliance.identity.users import Role, User

DAY = 86400.0
DEFAULT_DAYS, LONGEST_DAYS = 30, 365
EACH_MAX = 20
WARN_SECONDS = 7 * DAY
KEEP_EXPIRED = 30 * DAY
NAME_MAX, NOTE_MAX = 60, 200

# What a token may be good for, in the order people read them; the words are in the catalogue under ``tokens.scope.NAME``.
SCOPES = ("read", "services", "commands", "ai", "workspace", "people", "audit")


class TokenConflict(Conflict):
    """The person has a token of this name (``token_exists``), or too many (``token_many``)."""


class Wanted(Struct, frozen=True):
    """What a new token should be; :func:`checked` makes one from what people typed."""

    name: str
    scopes: frozenset[str]
    role: Role
    days: int
    note: str = ""


@dataclass
class ApiToken:
    """One token. Times are Unix seconds; ``until`` is the uptime at which it ends whatever the wall clock says."""

    id: str
    user: User
    name: str
    note: str
    scopes: frozenset[str]
    cap: Role
    created_at: float
    expires_at: float
    used_at: float | None
    used_address: str
    until: float
    hash: bytes = field(repr=False)
    unsaved: bool = False
    closed: bool = False

    @property
    def role(self) -> Role:
        """What it may do now: never more than its person."""
        return min(self.user.role, self.cap)

    @property
    def actor(self) -> str:
        """Its name in the audit log."""
        return f"token:{self.id}"


class ApiTokens:
    """All tokens. ``on_end`` callbacks close what a token still holds open."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock) -> None:
        self._db = database
        self._audit = audit
        self._clock = clock
        self._by_hash: dict[bytes, ApiToken] = {}
        self._unrecorded: list[tuple[ApiToken, str]] = []
        self._on_end: list[Callable[[ApiToken], None]] = []

    def on_end(self, callback: Callable[[ApiToken], None]) -> None:
        """Call ``callback`` whenever a token ends or may do less than before."""
        self._on_end.append(callback)

    async def load(self) -> None:
        """Read every token."""
        rows = await self._db.rows("SELECT * FROM api_tokens")
        people = {row["id"]: User.of(row) for row in await self._db.rows("SELECT * FROM users")}
        for row in rows:
            token = self._revive(row, people[row["user_id"]])
            self._by_hash[token.hash] = token

    def _revive(self, row: Row, user: User) -> ApiToken:
        return ApiToken(
            row["id"],
            user,
            row["name"],
            row["note"],
            frozenset(row["scopes"].split()),
            Role[row["role"]],
            row["created_at"],
            row["expires_at"],
            row["used_at"],
            row["used_address"],
            until=self._clock.uptime() + row["expires_at"] - self._clock.now(),
            hash=row["hash"],
        )

    async def create(self, user: User, wanted: Wanted, actor: str, way: str) -> tuple[ApiToken, str]:
        """Make a token for ``user``. Returns it and the text that is told once. Raises TokenConflict; NotFound
        when the person is gone or suspended."""
        now, text = self._clock.now(), token_text.new()
        days = min(wanted.days, LONGEST_DAYS)
        token = ApiToken(
            random.token_hex(8),
            user,
            wanted.name,
            wanted.note,
            wanted.scopes,
            min(wanted.role, user.role),
            now,
            now + days * DAY,
            None,
            "",
            until=self._clock.uptime() + days * DAY,
            hash=secrets.digest(text),
        )
        try:
            async with self._db.transaction() as tx:
                # Read inside the transaction: the person may have been changed, or have made other tokens, meanwhile.
                found = list(await tx.execute_fetchall("SELECT * FROM users WHERE id = ?", (user.id,)))
                if not found or found[0]["suspended_at"] is not None:
                    raise NotFound("there is no such person", hint="They may have been removed or suspended meanwhile.")
                token.user = User.of(found[0])
                await self._make_room(tx, token)
                await self._store(tx, token, actor, way, days)
                # Still inside: a change of this person that comes next must find the token, and nobody has its text yet.
                self._by_hash[token.hash] = token
        except BaseException:
            self._by_hash.pop(token.hash, None)
            raise
        return token, text

    async def _store(self, tx: Any, token: ApiToken, actor: str, way: str, days: int) -> None:
        await tx.execute(
            "INSERT INTO api_tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, '')",
            (
                token.id,
                token.hash,
                token.user.id,
                token.name,
                token.note,
                " ".join(sorted(token.scopes)),
                token.cap.name,
                token.created_at,
                token.expires_at,
            ),
        )
        await self._audit.append(
            tx,
            "token.create",
            actor,
            token=token.id,
            user=token.user.id,
            way=way,
            scopes=sorted(token.scopes),
            role=token.cap.name,
            days=days,
        )

    async def _make_room(self, tx: Any, token: ApiToken) -> None:
        theirs = [other for other in self.of(token.user.id) if not self.expired(other)]
        if any(other.name == token.name for other in theirs):
            raise TokenConflict(
                "there is a token of this name already",
                hint="Choose another name, or revoke that one.",
                code="token_exists",
            )
        if len(theirs) >= EACH_MAX:
            raise TokenConflict(
                f"there are {EACH_MAX} tokens already", hint="Revoke one that is no longer used.", code="token_many"
            )
        gone = [other for other in self.of(token.user.id) if other.expires_at < self._clock.now() - KEEP_EXPIRED]
        for other in gone:
            await tx.execute("DELETE FROM api_tokens WHERE id = ?", (other.id,))
            self._by_hash.pop(other.hash, None)

    def free_name(self, user: User, name: str) -> str:
        """``name``, or with a number behind it if the person has a token of that name."""
        taken = {token.name for token in self.of(user.id) if not self.expired(token)}
        candidates = [name, *(f"{name[: NAME_MAX - 5]} ({number})" for number in range(2, EACH_MAX + 3))]
        return next(candidate for candidate in candidates if candidate not in taken)

    def check(self, text: str) -> ApiToken | None:
        """The live token this text is, if any. Memory only."""
        token = self._by_hash.get(secrets.digest(text))
        return token if token is not None and self.alive(token) else None

    def alive(self, token: ApiToken) -> bool:
        """Whether it works now: neither expired nor revoked, and its person may sign in."""
        return token.hash in self._by_hash and not self.expired(token) and not token.user.suspended

    def expired(self, token: ApiToken) -> bool:
        """By either clock: setting one back revives nothing."""
        return self._clock.now() >= token.expires_at or self._clock.uptime() >= token.until

    def used(self, token: ApiToken, address: str) -> None:
        """Note a use; it reaches the disk within a minute (:meth:`save`)."""
        token.used_at, token.used_address, token.unsaved = self._clock.now(), address[:64], True

    def of(self, user_id: str | None = None) -> list[ApiToken]:
        """Tokens of one person, or of everyone, expired ones among them; the newest first."""
        found = [token for token in self._by_hash.values() if user_id in (None, token.user.id)]
        return sorted(found, key=lambda token: -token.created_at)

    def get(self, token_id: str) -> ApiToken:
        """The token with this public id. Raises NotFound."""
        for token in self._by_hash.values():
            if token.id == token_id:
                return token
        raise NotFound("there is no such token", hint="It may have been revoked meanwhile.")

    def expiring(self, user_id: str) -> list[ApiToken]:
        """Tokens of a person that end within a week, or ended within the last; the first to end first."""
        now = self._clock.now()
        near = [token for token in self.of(user_id) if abs(token.expires_at - now) <= WARN_SECONDS]
        return sorted(near, key=lambda token: token.expires_at)

    async def revoke(self, tokens: Iterable[ApiToken], actor: str) -> None:
        """End tokens: first in memory, so that nothing more passes, then on disk. What the disk does not take now is tried
        again by :meth:`save`: a token that stayed on disk would be alive again after a restart."""
        for token in list(tokens):
            if self._by_hash.pop(token.hash, None):
                self._close(token)
                self._unrecorded.append((token, actor))
        await self._record_revoked()

    async def _record_revoked(self) -> None:
        ended = list(self._unrecorded)
        if not ended:
            return
        async with self._db.transaction() as tx:
            for token, actor in ended:
                await tx.execute("DELETE FROM api_tokens WHERE id = ?", (token.id,))
                await self._audit.append(tx, "token.revoke", actor, token=token.id, user=token.user.id)
        self._unrecorded = [entry for entry in self._unrecorded if entry not in ended]

    def follow(self, user: User, gone: bool, actor: str) -> None:
        """The person was changed, or removed, by ``actor``: every token of theirs changes with them."""
        for token in self.of(user.id):
            lost = token.role
            token.user = user
            if gone:
                self._by_hash.pop(token.hash, None)
            if gone or user.suspended or token.role < lost:
                self._close(token)
            # What it may still do, it may go on doing over new connections.
            token.closed = gone

    async def save(self) -> None:
        """Write last uses and what was not written yet, and close what expired tokens hold open (each minute and at stop)."""
        await self._record_revoked()
        for token in self.of():
            if self.expired(token) and not token.closed:
                self._close(token)
        unsaved = [token for token in self.of() if token.unsaved]
        if not unsaved:
            return
        seen = [(token, token.used_at) for token in unsaved]
        async with self._db.transaction() as tx:
            for token, at in seen:
                await tx.execute(
                    "UPDATE api_tokens SET used_at = ?, used_address = ? WHERE id = ?",
                    (at, token.used_address, token.id),
                )
        for token, at in seen:
            token.unsaved = token.used_at != at

    def _close(self, token: ApiToken) -> None:
        token.closed = True
        for callback in self._on_end:
            callback(token)


def checked(name: str, scopes: Iterable[str], days: int, role: Role, note: str = "") -> Wanted:
    """What was asked for, as a token may be. Raises Invalid."""
    wanted = frozenset(scopes)
    if unknown := sorted(wanted - set(SCOPES)):
        raise Invalid(
            f"there is no scope {unknown[0][:40]!r}", hint=f"There are {', '.join(SCOPES)}.", code="token_scope"
        )
    if not wanted:
        raise Invalid("a token needs at least one scope", hint=f"There are {', '.join(SCOPES)}.", code="token_scope")
    if not 1 <= days <= LONGEST_DAYS:
        raise Invalid(
            f"a token lasts between 1 and {LONGEST_DAYS} days",
            hint="There are no tokens without an end; make a new one before the old one ends.",
            code="token_days",
        )
    return Wanted(words(name, NAME_MAX, needed=True), wanted, role, days, words(note, NOTE_MAX))


def words(text: str, longest: int, *, needed: bool = False) -> str:
    """A name or note in one line of visible characters. Raises Invalid."""
    line = unicodedata.normalize("NFC", " ".join(text.split()))
    hidden = [char for char in line if unicodedata.category(char).startswith("C") and char not in "\u200c\u200d"]
    if hidden or len(line) > longest or (needed and not line):
        raise Invalid(
            f"that name or note is {'empty' if not line else 'too long or holds invisible characters'}",
            hint=f"Use 1 to {longest} visible characters.",
            code="token_name",
        )
    return line
