"""One-time links: the set-up link that makes the first admin, and login links printed on the machine.

Rules: 256 random bits, only the hash stored, single use decided by one UPDATE inside the transaction that makes the session
(AUTH-1: of fifty racers one wins), and every refusal reads the same (AUTH-5). Ages are measured by uptime within one boot, so a
clock set back revives nothing.
"""

from __future__ import annotations

from typing import Any, Literal

from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.database import Database, Row
from appliance.errors import Conflict
from appliance.identity import secrets
from appliance.identity.throttle import ProofRefused
from appliance.identity.users import Role, User, Users

SETUP_SECONDS = 30 * 60.0
LOGIN_SECONDS = 10 * 60.0

Kind = Literal["setup", "login"]


class LinkRefused(ProofRefused):
    """The link is unknown, used, too old, or the caller is throttled; which one is not told."""

    code = "link_refused"

    def __init__(self) -> None:
        super().__init__(
            "This link does not work. It may have been used, be older than it lasts, or there were too many attempts.",
            hint="Run `croft login-link` on the machine for a new one, or wait a few minutes.",
        )


class Links:
    """Makes and redeems links."""

    def __init__(self, database: Database, users: Users, audit: AuditLog, clock: Clock, boot_id: str) -> None:
        self._db = database
        self._users = users
        self._audit = audit
        self._clock = clock
        self._boot = boot_id

    async def create(self, user: User | None, actor: str) -> tuple[str, Kind, float]:
        """A new link for ``user``, or the set-up link when there is nobody yet. Returns (secret, kind, seconds it lasts).

        Raises Conflict when a set-up link is asked for an appliance that has an owner.
        """
        if user is None and not await self._users.none_yet():
            raise Conflict("this appliance has an owner already", hint="Name the person the link is for.")
        kind: Kind = "login" if user else "setup"
        lifetime = LOGIN_SECONDS if user else SETUP_SECONDS
        secret = secrets.new("lnk")
        async with self._db.transaction() as tx:
            if kind == "setup":
                await tx.execute("DELETE FROM links WHERE kind = 'setup'")
            await tx.execute("DELETE FROM links WHERE created_at < ?", (self._clock.now() - 24 * 3600,))
            await tx.execute(
                "INSERT INTO links VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                (
                    secrets.digest(secret),
                    kind,
                    user.id if user else None,
                    self._clock.now(),
                    self._clock.uptime(),
                    self._boot,
                    lifetime,
                ),
            )
            await self._audit.append(tx, "link.create", actor, kind=kind, user=user.id if user else None)
        return secret, kind, lifetime

    async def look(self, secret: str) -> Kind | None:
        """Which kind of link this is if it would still work; consumes nothing."""
        row = await self._db.row("SELECT * FROM links WHERE hash = ?", (secrets.digest(secret),))
        return row["kind"] if row and self._good(row) else None

    async def redeem(self, tx: Any, secret: str, email: str = "", name: str = "") -> User:
        """Consume the link inside the transaction that makes the session. A set-up link makes the first admin.

        Raises LinkRefused; Invalid when the first admin's address is not usable (the link is then not consumed).
        """
        rows = list(await tx.execute_fetchall("SELECT * FROM links WHERE hash = ?", (secrets.digest(secret),)))
        if not rows or not self._good(rows[0]):
            raise LinkRefused
        await tx.execute("UPDATE links SET used_at = ? WHERE hash = ?", (self._clock.now(), rows[0]["hash"]))
        if rows[0]["kind"] == "setup":
            return await self._first_admin(tx, email, name)
        found = list(await tx.execute_fetchall("SELECT * FROM users WHERE id = ?", (rows[0]["user_id"],)))
        if not found or found[0]["suspended_at"] is not None:
            raise LinkRefused
        return User.of(found[0])

    async def _first_admin(self, tx: Any, email: str, name: str) -> User:
        if list(await tx.execute_fetchall("SELECT 1 FROM users LIMIT 1")):
            raise LinkRefused
        return await self._users.add(tx, email, name, Role.admin, "setup-link")

    def _good(self, row: Row) -> bool:
        return still_good(row, self._clock, self._boot)


def still_good(row: Row, clock: Clock, boot_id: str) -> bool:
    """Whether something single-use with a lifetime is unused and young enough. By uptime within one boot; across boots only
    the wall clock can tell, and never backwards."""
    if row["used_at"] is not None:
        return False
    age = clock.uptime() - row["uptime"] if row["boot_id"] == boot_id else clock.now() - row["created_at"]
    return bool(0 <= age <= row["lifetime"])
