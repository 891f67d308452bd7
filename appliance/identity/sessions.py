"""Sessions: rows on disk, looked up in memory at every request, ended everywhere at once.

Rules: the browser's cookie is opaque and only its hash is kept (AUTH-7). A session's age and idleness run on uptime, so no jump
of the wall clock lengthens it or ends everyone's (AUTH-8, R9). Ending one removes it from memory before anything is awaited:
no request is let through after that (A5).
"""

from __future__ import annotations

import secrets as random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.database import Database, Row
from appliance.errors import NotFound
from appliance.identity import secrets
from appliance.identity.users import Role, User

FRESH_SECONDS = 300.0
HANDOFF_SECONDS = 30.0
AGENT_MAX = 300


class Limits(Struct, frozen=True):
    """How long sessions last, in seconds."""

    idle: float
    absolute: float
    remembered: float


@dataclass
class Session:
    """One signed-in browser. ``born``, ``proved`` and ``active`` are uptimes; ``seen_at`` is Unix time."""

    id: str
    user: User
    remember: bool
    agent: str
    address: str
    created_at: float
    born: float
    proved: float
    active: float
    seen_at: float
    hash: bytes = field(repr=False)
    ide_hash: bytes | None = field(default=None, repr=False)
    unsaved: bool = False
    rotate: bool = False
    ended: bool = False


@dataclass(frozen=True)
class Renewal:
    """What a session becomes when its person has proved again who they are."""

    cookie: str = field(repr=False)
    born: float
    remember: bool


class Sessions:
    """All live sessions. ``on_end`` callbacks close what a session still holds open."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock, boot_id: str, limits: Limits) -> None:
        self._db = database
        self._audit = audit
        self._clock = clock
        self._boot = boot_id
        self.limits = limits  # may be replaced: it is looked at afresh for every request
        self._by_hash: dict[bytes, Session] = {}
        self._by_ide_hash: dict[bytes, Session] = {}
        self._handoffs: dict[bytes, tuple[Session, float]] = {}
        self._unrecorded: list[tuple[Session, str, str]] = []
        self._on_end: list[Callable[[Session], None]] = []

    def on_end(self, callback: Callable[[Session], None]) -> None:
        """Call ``callback`` whenever a session ends or may do less than before."""
        self._on_end.append(callback)

    async def load(self) -> None:
        """Read the sessions that survived the last stop."""
        rows = await self._db.rows(
            "SELECT s.*, u.id AS uid, u.email, u.name, u.role, u.language, u.theme, u.created_at AS joined, u.suspended_at "
            "FROM sessions s JOIN users u ON u.id = s.user_id WHERE u.suspended_at IS NULL"
        )
        for row in rows:
            session = self._revive(row)
            if not self._over(session):
                self._remember(session)

    def _revive(self, row: Row) -> Session:
        now, uptime = self._clock.now(), self._clock.uptime()
        # Within one boot the uptime tells how long ago; across boots only the wall clock can, and never backwards.
        away = uptime - row["seen_uptime"] if row["boot_id"] == self._boot else max(0.0, now - row["seen_at"])
        user = User(
            row["uid"],
            row["email"],
            row["name"],
            Role[row["role"]],
            row["language"],
            row["theme"],
            row["joined"],
            False,
        )
        return Session(
            row["id"],
            user,
            bool(row["remember"]),
            row["agent"],
            row["address"],
            row["created_at"],
            born=uptime - row["age"] - away,
            proved=uptime - row["since_auth"] - away,
            active=uptime - away,
            seen_at=row["seen_at"],
            hash=row["hash"],
            ide_hash=row["ide_hash"],
        )

    async def create(
        self, tx: Any, user: User, *, remember: bool, agent: str, address: str, fresh: bool = True
    ) -> tuple[Session, str]:
        """Make a session inside the caller's transaction. Returns it and the cookie. Without ``fresh`` it needs a step-up
        before the first dangerous act.

        It counts only after :meth:`admit`, once that transaction has been committed.
        """
        cookie, uptime, now = secrets.new("ses"), self._clock.uptime(), self._clock.now()
        since_proof = 0.0 if fresh else 2 * FRESH_SECONDS
        session = Session(
            random.token_hex(8),
            user,
            remember,
            agent[:AGENT_MAX].encode("utf-8", "replace").decode(),  # a header may hold bytes that are no text
            address,
            now,
            born=uptime,
            proved=uptime - since_proof,
            active=uptime,
            seen_at=now,
            hash=secrets.digest(cookie),
        )
        await tx.execute(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, NULL)",
            (
                session.id,
                session.hash,
                user.id,
                int(remember),
                session.agent,
                address,
                now,
                since_proof,
                now,
                uptime,
                self._boot,
            ),
        )
        await _seen(tx, session)
        return session, cookie

    def admit(self, session: Session) -> None:
        """Let a committed session in."""
        self._remember(session)

    def check(self, cookie: str) -> Session | None:
        """The live session of a UI cookie. Memory only; does not count as activity."""
        return self._live(self._by_hash.get(secrets.digest(cookie)))

    def check_ide(self, cookie: str) -> Session | None:
        """The live session whose child the IDE host's cookie is."""
        return self._live(self._by_ide_hash.get(secrets.digest(cookie)))

    def slide(self, session: Session) -> None:
        """Count activity: a navigation, an unsafe request or the editor's report (DECIDED 14)."""
        session.active, session.seen_at, session.unsaved = self._clock.uptime(), self._clock.now(), True

    def fresh(self, session: Session) -> bool:
        """Whether the person proved who they are within the last five minutes (AUTH-10)."""
        return self._clock.uptime() - session.proved <= FRESH_SECONDS

    def expires_in(self, session: Session) -> float:
        """Seconds until the session ends if nothing is done."""
        uptime = self._clock.uptime()
        if session.remember:
            return session.born + self.limits.remembered - uptime
        return min(session.born + self.limits.absolute, session.active + self.limits.idle) - uptime

    def of(self, user_id: str | None = None) -> list[Session]:
        """Live sessions of one person, or of everyone; the most recently used first."""
        live = [
            session
            for session in self._by_hash.values()
            if user_id in (None, session.user.id) and not self._over(session)
        ]
        return sorted(live, key=lambda session: -session.seen_at)

    def get(self, session_id: str) -> Session:
        """The live session with this public id. Raises NotFound."""
        for session in self._by_hash.values():
            if session.id == session_id and not self._over(session):
                return session
        raise NotFound("there is no such session", hint="It may have ended meanwhile.")

    async def end(self, sessions: Iterable[Session], why: str, actor: str) -> None:
        """End sessions now: first in memory, so that nothing more passes, then on disk.

        What the disk does not take (it is full, the caller was cancelled) is tried again by :meth:`save`: a session that stayed
        on disk would be alive again after a restart.
        """
        self._end(list(sessions), why, actor)
        await self.settle()

    def _end(self, sessions: list[Session], why: str, actor: str) -> None:
        for session in sessions:
            if not session.ended:
                self._forget(session)
                self._unrecorded.append((session, why, actor))

    async def settle(self) -> None:
        """Write down what has ended in memory and is not on disk yet."""
        ended = list(self._unrecorded)
        if not ended:
            return
        async with self._db.transaction() as tx:
            for session, why, actor in ended:
                gone = await tx.execute("DELETE FROM sessions WHERE id = ?", (session.id,))
                if gone.rowcount or why == "removed":
                    await self._audit.append(
                        tx,
                        "sign-out" if why == "sign-out" else "session.end",
                        actor,
                        session=session.id,
                        user=session.user.id,
                        why=why,
                    )
        self._unrecorded = [entry for entry in self._unrecorded if entry not in ended]

    async def rotate(self, session: Session) -> str:
        """Give a session a new id after its person's role changed (AUTH-7). Returns the new cookie."""
        cookie, session.rotate = secrets.new("ses"), False
        fresh = secrets.digest(cookie)
        try:
            await self._db.execute("UPDATE sessions SET hash = ? WHERE id = ?", (fresh, session.id))
        except BaseException:
            session.rotate = True
            raise
        self._rekey(session, fresh)
        return cookie

    async def renew(self, tx: Any, session: Session, *, remember: bool | None = None) -> Renewal:
        """Write down, in the caller's transaction, that the person proved again who they are; with ``remember`` they signed in
        anew, so that the session also starts to age anew.

        It counts only after :meth:`renewed`, once that transaction has been committed.
        """
        cookie, uptime = secrets.new("ses"), self._clock.uptime()
        renewal = Renewal(
            cookie,
            session.born if remember is None else uptime,
            session.remember if remember is None else remember,
        )
        await tx.execute(
            "UPDATE sessions SET hash = ?, remember = ?, age = ?, since_auth = 0, seen_at = ?, seen_uptime = ?, boot_id = ? "
            "WHERE id = ?",
            (
                secrets.digest(cookie),
                int(renewal.remember),
                uptime - renewal.born,
                self._clock.now(),
                uptime,
                self._boot,
                session.id,
            ),
        )
        return renewal

    def renewed(self, session: Session, renewal: Renewal) -> None:
        """Let the proof of :meth:`renew` count, under the new cookie alone (AUTH-7, AUTH-10)."""
        session.born, session.remember = renewal.born, renewal.remember
        session.proved, session.rotate = self._clock.uptime(), False
        self.slide(session)
        self._rekey(session, secrets.digest(renewal.cookie))

    def _rekey(self, session: Session, fresh: bytes) -> None:
        self._by_hash.pop(session.hash, None)
        session.hash = fresh
        if not session.ended:
            self._by_hash[fresh] = session

    def follow(self, user: User, gone: bool, actor: str) -> None:
        """The person was changed, or removed, by ``actor``: every session of theirs changes with them, at once (DESIGN 8).
        What ends here is written down by :meth:`settle`."""
        theirs = [session for session in self._by_hash.values() if session.user.id == user.id]
        if gone or user.suspended:
            self._end(theirs, "removed" if gone else "suspended", actor)
            return
        for session in theirs:
            lost = user.role < session.user.role
            session.rotate = session.rotate or session.user.role is not user.role
            session.user = user
            if lost:  # what it may still see, it opens again
                self._tell(session)

    def hand_off(self, session: Session) -> str:
        """A code that carries this session to the IDE host: 30 seconds, one use (DECIDED 16)."""
        uptime = self._clock.uptime()
        self._handoffs = {key: entry for key, entry in self._handoffs.items() if entry[1] > uptime}
        code = secrets.new("hnd")
        self._handoffs[secrets.digest(code)] = (session, uptime + HANDOFF_SECONDS)
        return code

    async def enter_ide(self, code: str) -> tuple[Session, str] | None:
        """Use a hand-off code up. Returns the session and the IDE host's cookie, or None."""
        session, until = self._handoffs.pop(secrets.digest(code), (None, 0.0))
        session = self._live(session)
        if session is None or until < self._clock.uptime():
            return None
        cookie = secrets.new("ide")
        if session.ide_hash:
            self._by_ide_hash.pop(session.ide_hash, None)
        session.ide_hash = secrets.digest(cookie)
        self._by_ide_hash[session.ide_hash] = session
        async with self._db.transaction() as tx:
            await tx.execute("UPDATE sessions SET ide_hash = ? WHERE id = ?", (session.ide_hash, session.id))
            await self._audit.append(tx, "ide.enter", session.user.id, session=session.id)
        return session, cookie

    async def save(self) -> None:
        """Write what activity changed, and end what has run out (called each minute and at stop)."""
        over = [session for session in self._by_hash.values() if self._over(session)]
        await self.end(over, "expired", "daemon")  # and whatever ended earlier but is not on disk yet
        unsaved = [session for session in self._by_hash.values() if session.unsaved]
        if not unsaved:
            return
        uptime = self._clock.uptime()
        async with self._db.transaction() as tx:
            for session in unsaved:
                await tx.execute(
                    "UPDATE sessions SET age = ?, since_auth = ?, seen_at = ?, seen_uptime = ?, boot_id = ? WHERE id = ?",
                    (
                        session.active - session.born,
                        session.active - session.proved,
                        session.seen_at,
                        session.active,
                        self._boot,
                        session.id,
                    ),
                )
                await _seen(tx, session)
        for session in unsaved:
            # Used again while this was being written: the next minute writes that.
            session.unsaved = session.active > uptime

    def _live(self, session: Session | None) -> Session | None:
        return session if session is not None and not session.ended and not self._over(session) else None

    def _over(self, session: Session) -> bool:
        return self.expires_in(session) <= 0

    def _remember(self, session: Session) -> None:
        self._by_hash[session.hash] = session
        if session.ide_hash:
            self._by_ide_hash[session.ide_hash] = session

    def _forget(self, session: Session) -> None:
        session.ended = True
        self._by_hash.pop(session.hash, None)
        if session.ide_hash:
            self._by_ide_hash.pop(session.ide_hash, None)
        self._tell(session)

    def _tell(self, session: Session) -> None:
        for callback in self._on_end:
            callback(session)


async def _seen(tx: Any, session: Session) -> None:
    await tx.execute(
        "UPDATE users SET seen_at = max(coalesce(seen_at, 0), ?) WHERE id = ?", (session.seen_at, session.user.id)
    )
