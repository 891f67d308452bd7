"""The audit log: an append-only hash chain with signed checkpoints.

Rules: a record is on disk before the effect it announces (LOG-2); order is by sequence number, never by time (LOG-8); text is
stored as JSON, so no field can forge a second record (LOG-4). If a record cannot be written, the effect must not happen (LOG-3):
callers let the exception pass.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiosqlite
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

from appliance.clock import Clock
from appliance.database import Database, Row
from appliance.errors import Unavailable
from appliance.log import scrub

log = logging.getLogger(__name__)

CHECKPOINT_RECORDS = 100
CHECKPOINT_SECONDS = 60.0
FIELD_MAX = 4096
PAGE = 500
GENESIS = b"\0" * 32

# Every code that may be written (LOG-6), with what it means. The manual prints this table.
EVENTS: dict[str, str] = {
    "daemon.start": "The daemon started",
    "daemon.stop": "The daemon was stopped",
    "clock.jump": "The wall clock jumped",
    "link.create": "A sign-in link was made",
    "link.mail": "A sign-in mail was asked for",
    "sign-in": "Someone signed in",
    "sign-in.refused": "A sign-in attempt was refused",
    "sign-out": "Someone signed out",
    "step-up": "Someone proved again who they are",
    "passkey.add": "A passkey was added",
    "passkey.remove": "A passkey was removed",
    "passkey.suspect": "A passkey's counter went back: there may be a copy of it, and it is refused",
    "recovery.replace": "Recovery codes were made; earlier ones stopped working",
    "session.end": "A session was ended",
    "access.denied": "A signed-in person was refused something",
    "user.create": "A person was added",
    "user.change": "A person's role or state was changed",
    "user.remove": "A person was removed",
    "invitation.create": "Someone was invited",
    "invitation.renew": "An invitation got a new link",
    "invitation.revoke": "An invitation was withdrawn",
    "invitation.accept": "Someone accepted an invitation",
    "assistant.key": "The key of the endpoint that answers questions was set or forgotten",
    "mail.password": "The password of the mail account was set",
    "mail.test": "A test mail was asked for",
    "ide.enter": "The IDE was opened",
    "token.create": "An API token was made",
    "token.refused": "A token that is not accepted was used",
    "token.revoke": "An API token was revoked",
    "service.start": "A service was started by a person",
    "service.stop": "A service was stopped by a person",
    "service.restart": "A service was restarted by a person",
    "service.update": "A service was brought onto its pinned or installed version by a person",
    "command.ask": "A command waits for a person's decision",
    "command.refuse": "A command was refused",
    "command.approve": "A person approved a command",
    "command.deny": "A person denied a command",
    "command.cancel": "A command was cancelled or withdrawn",
    "command.expire": "A command was not decided in time, or had changed by then",
    "command.run": "A command was started",
    "policy.change": "The command policy was changed",
    "conversation.delete": "A conversation with the assistant was deleted",
    "conversation.export": "A conversation with the assistant was exported",
    "rehearsal.apply": "A person had the changes of a rehearsal merged into the workspace",
    "rehearsal.undo": "A person had the merged changes of a rehearsal taken back",
    "rehearsal.discard": "A person discarded the changes of a rehearsal",
    "lease.give": "A person let one exact command run without asking, for a while",
    "lease.revoke": "A lease was ended",
    "runbook.save": "A runbook was saved",
    "runbook.remove": "A runbook was removed",
    "image.packages": "Packages of the distribution in the workspace's image were chosen",
    "tool.add": "A toolchain was installed for the workspace",
    "tool.remove": "A toolchain of the workspace was removed",
    "model.add": "A language model was downloaded, or a file taken in as one",
    "model.use": "Another language model was chosen",
    "model.remove": "A language model was deleted",
    "model.measure": "The speed of the language model in use was measured",
    "model.check": "The language model in use was given small tasks",
    "settings.change": "A setting was changed on the settings page",
    "daemon.restart": "A restart of the daemon was asked for on the settings page",
    "ai.ask": "The language model was asked: hash of the prompt, tokens, never a text",
    "ai.step": "The assistant used a tool: which, what was decided, how it ended",
    "ai.propose": "The assistant proposed a command or a file",
    "ai.write": "A person accepted a file that the assistant proposed",
    "ai.reject": "A person rejected a file that the assistant proposed",
    "ai.stop": "A person stopped an answer of the assistant",
    "ai.use": "A program used the language model: sums of an hour",
    "export": "Data was exported",
    "outcome": "How an announced action ended",
}

# Events whose effect lies outside the database: an outcome must follow, or the action counts as interrupted.
ANNOUNCED = frozenset(
    {
        *(
            "service.start",
            "service.stop",
            "service.restart",
            "service.update",
            "tool.add",
            "tool.remove",
            "image.packages",
        ),
        *("ai.ask", "ai.write"),
        *("model.add", "model.use", "model.remove", "model.measure", "model.check"),
    }
)


class Record(Struct, frozen=True):
    """One line of the chain. ``at`` is Unix time and ``uptime`` seconds since boot when it was written."""

    seq: int
    at: float
    uptime: float
    boot_id: str
    event: str
    actor: str
    detail: dict[str, Any]
    intent: int | None

    @classmethod
    def of(cls, row: Row) -> Record:
        return cls(
            row["seq"],
            row["at"],
            row["uptime"],
            row["boot_id"],
            row["event"],
            row["actor"],
            json.loads(row["detail"]),
            row["intent"],
        )


class Fault(Struct, frozen=True):
    """Where the chain does not hold, and how."""

    seq: int
    what: str


class AuditUnavailable(Unavailable):
    """The audit log cannot be written, so nothing that needs it may happen."""

    code = "audit_unavailable"


class AuditLog:
    """Appends to and reads the chain. ``anchor`` is told each checkpoint (sequence, hash) so that a cut tail is noticed;
    ``anchored`` is what it was told last. A head that does not continue the anchored one never replaces it."""

    def __init__(
        self,
        database: Database,
        key: Ed25519PrivateKey,
        clock: Clock,
        boot_id: str,
        anchor: Callable[[int, bytes], None] = lambda seq, digest: None,
        anchored: tuple[int, bytes] | None = None,
    ) -> None:
        self._db = database
        self._key = key
        self._clock = clock
        self._boot = boot_id
        self._anchor = anchor
        self._anchored = anchored
        self._signed_at = float("-inf")

    async def append(
        self, tx: aiosqlite.Connection, event: str, actor: str, intent: int | None = None, **detail: Any
    ) -> int:
        """Add a record inside the caller's transaction, so that it and the change it names are one commit."""
        if event not in EVENTS:
            raise ValueError(f"unknown audit event {event}")
        last = list(
            await tx.execute_fetchall("SELECT seq, hash, at, uptime, boot_id FROM audit ORDER BY seq DESC LIMIT 1")
        )
        seq, previous = (last[0]["seq"] + 1, last[0]["hash"]) if last else (1, GENESIS)
        record = Record(
            seq,
            round(self._clock.now(), 3),
            round(self._clock.uptime(), 3),
            self._boot,
            event,
            actor,
            _bounded(detail),
            intent,
        )
        digest = _digest(previous, record)
        await tx.execute(
            "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (seq, record.at, record.uptime, record.boot_id, event, actor, _canonical(record.detail), intent, digest),
        )
        await self._checkpoint(tx, seq, digest)
        return seq

    async def note(self, event: str, actor: str, intent: int | None = None, **detail: Any) -> int:
        """Add one record in a transaction of its own. Raises AuditUnavailable when it cannot be written."""
        try:
            async with self._db.transaction() as tx:
                return await self.append(tx, event, actor, intent, **detail)
        except (sqlite3.Error, OSError) as error:
            raise AuditUnavailable(
                "the audit log cannot be written, so this was not done", hint="Free disk space, then try again."
            ) from error

    @asynccontextmanager
    async def doing(self, event: str, actor: str, **detail: Any) -> AsyncIterator[dict[str, Any]]:
        """Announce an effect, run it, record how it ended. The yielded dict's entries join the outcome."""
        seq = await self.note(event, actor, **detail)
        outcome: dict[str, Any] = {}
        try:
            yield outcome
        except BaseException as error:
            await self.note("outcome", actor, seq, result="failed", cause=type(error).__name__)
            raise
        await self.note("outcome", actor, seq, result="done", **outcome)

    async def interrupted(self) -> int:
        """Close announced actions that never reported an outcome (the daemon died meanwhile). Returns how many."""
        open_ones = await self._db.rows(
            "SELECT seq FROM audit a WHERE event IN (SELECT value FROM json_each(?)) "
            "AND NOT EXISTS (SELECT 1 FROM audit o WHERE o.intent = a.seq)",
            (json.dumps(sorted(ANNOUNCED)),),
        )
        for row in open_ones:
            await self.note("outcome", "daemon", row["seq"], result="interrupted")
        return len(open_ones)

    async def checkpoint(self) -> None:
        """Sign the head if anything was added since, then anchor it (called on a timer and at stop).

        Anchored after the commit only: a head that never reached the disk would later read as a cut tail.
        """
        async with self._db.transaction() as tx:
            last = list(await tx.execute_fetchall("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1"))
            if not last or not await self._continues(tx, last[0]["seq"]):
                return
            if last[0]["seq"] > await _last_signed(tx):
                await self._sign(tx, last[0]["seq"], last[0]["hash"])
        self._anchor(last[0]["seq"], last[0]["hash"])
        self._anchored = (last[0]["seq"], last[0]["hash"])

    async def _continues(self, tx: aiosqlite.Connection, head: int) -> bool:
        """Whether the log has grown since it was anchored, and still holds the record that was anchored."""
        if self._anchored is None:
            return True
        seq, digest = self._anchored
        kept = list(await tx.execute_fetchall("SELECT hash FROM audit WHERE seq = ?", (seq,)))
        if not kept or kept[0]["hash"] != digest:
            log.error("the audit log does not continue its anchored head; the old anchor is kept as evidence")
            return False
        return head > seq

    async def records(
        self, *, before: int | None = None, limit: int = 100, event: str = "", actor: str = ""
    ) -> list[Record]:
        """Newest first; ``before`` is a sequence number for the next page."""
        rows = await self._db.rows(
            "SELECT * FROM audit WHERE (? IS NULL OR seq < ?) AND (? = '' OR event = ?) AND (? = '' OR actor = ?) "
            "ORDER BY seq DESC LIMIT ?",
            (before, before, event, event, actor, actor, min(limit, 1000)),
        )
        return [Record.of(row) for row in rows]

    async def verify(self, anchored: tuple[int, bytes] | None = None) -> Fault | None:
        """Walk the whole chain, a page at a time; None means it holds. ``anchored`` is a head kept elsewhere."""
        marks = await self._db.rows("SELECT * FROM audit_checkpoints ORDER BY seq")
        walk = Walk(marks, self._key.public_key(), anchored)
        while rows := await self._db.rows("SELECT * FROM audit WHERE seq > ? ORDER BY seq LIMIT ?", (walk.seq, PAGE)):
            if fault := walk.step(rows):
                return fault
        return walk.end()

    async def _checkpoint(self, tx: aiosqlite.Connection, seq: int, digest: bytes) -> None:
        if (
            self._clock.uptime() - self._signed_at >= CHECKPOINT_SECONDS
            or seq - await _last_signed(tx) >= CHECKPOINT_RECORDS
        ):
            await self._sign(tx, seq, digest)

    async def _sign(self, tx: aiosqlite.Connection, seq: int, digest: bytes) -> None:
        await tx.execute(
            "INSERT INTO audit_checkpoints VALUES (?, ?, ?, ?)",
            (seq, self._clock.now(), digest, self._key.sign(_signed_part(seq, digest))),
        )
        self._signed_at = self._clock.uptime()


async def _last_signed(tx: aiosqlite.Connection) -> int:
    """Read each time: what a rolled back transaction signed does not count."""
    found = list(await tx.execute_fetchall("SELECT max(seq) AS seq FROM audit_checkpoints"))
    return int(found[0]["seq"] or 0)


class Walk:
    """The pure check of a chain, its signatures and a head kept elsewhere. Feed every record in order, then ask for the end."""

    def __init__(self, marks: list[Row], key: Ed25519PublicKey, anchored: tuple[int, bytes] | None) -> None:
        self._marks = marks
        self._key = key
        self._anchored = anchored
        self._named = {mark["seq"] for mark in marks} | ({anchored[0]} if anchored else set())
        self._hashes: dict[int, bytes] = {}
        self._previous = GENESIS
        self.seq = 0

    def step(self, rows: list[Row]) -> Fault | None:
        """The first fault among the next records."""
        for row in rows:
            if row["seq"] != self.seq + 1:
                return Fault(self.seq + 1, "a record is missing")
            if _digest_of(self._previous, row) != row["hash"]:
                return Fault(row["seq"], "a record was changed")
            self.seq, self._previous = row["seq"], row["hash"]
            if self.seq in self._named:
                self._hashes[self.seq] = row["hash"]
        return None

    def end(self) -> Fault | None:
        """The first fault of checkpoints and anchor, once every record was fed."""
        for mark in self._marks:
            if self._hashes.get(mark["seq"]) != mark["hash"]:
                return Fault(mark["seq"], "a signed checkpoint has no matching record: the log was cut or rewritten")
            try:
                self._key.verify(mark["signature"], _signed_part(mark["seq"], mark["hash"]))
            except InvalidSignature:
                return Fault(mark["seq"], "a checkpoint's signature is not ours")
        if self._anchored and self._hashes.get(self._anchored[0]) != self._anchored[1]:
            return Fault(
                self._anchored[0], "the log does not reach the head that was anchored: its end was cut or rewritten"
            )
        return None


def _digest_of(previous: bytes, row: Row) -> bytes | None:
    """What the hash of a stored record must be; None when its text is not as we write it."""
    try:
        record = Record.of(row)
        return _digest(previous, record) if _canonical(record.detail) == row["detail"] else None
    except (ValueError, RecursionError):
        return None


def _bounded(value: Any) -> Any:
    """``value`` with every text in it scrubbed and cut, however deep."""
    if isinstance(value, str):
        return scrub(value)[:FIELD_MAX]
    if isinstance(value, dict):
        return {key: _bounded(each) for key, each in value.items()}
    return [_bounded(each) for each in value] if isinstance(value, (list, tuple)) else value


def _canonical(detail: dict[str, Any]) -> str:
    return json.dumps(detail, ensure_ascii=True, sort_keys=True, separators=(",", ":"))


def _digest(previous: bytes, record: Record) -> bytes:
    body = _canonical(
        {
            "seq": record.seq,
            "at": record.at,
            "uptime": record.uptime,
            "boot": record.boot_id,
            "event": record.event,
            "actor": record.actor,
            "detail": record.detail,
            "intent": record.intent,
        }
    )
    return hashlib.sha256(previous + body.encode()).digest()


def _signed_part(seq: int, digest: bytes) -> bytes:
    return b"croft-audit-checkpoint-1\0" + seq.to_bytes(8, "big") + digest
