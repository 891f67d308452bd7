"""Everything the appliance keeps of one person, in one document (PRV-6).

Rule: each room registers a function that tells what it keeps; a room that keeps something of people and does not is a defect.
Secrets are not among it, not even as hashes: they are ways in, not data.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from appliance.audit import Record
from appliance.clock import Clock
from appliance.database import Database
from appliance.identity.users import User

Teller = Callable[[User], Awaitable[Any]]

# Table and columns, by the name people read. ``?`` is the person's id.
_TABLES = {
    "sessions": "SELECT id, agent, address, created_at, seen_at, remember FROM sessions WHERE user_id = ?",
    "devices": "SELECT agent, address, created_at FROM devices WHERE user_id = ?",
    "passkeys": "SELECT name, synced, created_at, used_at FROM passkeys WHERE user_id = ?",
    "recovery_codes": "SELECT created_at FROM recovery_codes WHERE user_id = ?",
    "tokens": "SELECT id, name, note, scopes, role, created_at, expires_at, used_at, used_address FROM api_tokens "
    "WHERE user_id = ?",
    "invitations_sent": "SELECT email, role, note, created_at, expires_at, accepted_at, revoked_at FROM invitations "
    "WHERE inviter_id = ?",
    "invitations_received": "SELECT role, note, inviter, created_at, accepted_at FROM invitations "
    "WHERE email = (SELECT email FROM users WHERE id = ?)",
    "visits": "SELECT at, target FROM visits WHERE user_id = ?",
    "hints": "SELECT name, state, at FROM hints WHERE user_id = ?",
    "sign_in_mails": "SELECT address, created_at, used_at FROM mailed WHERE user_id = ?",
}
# What they did, what their tokens did (revoked ones too), and what was done about them.
_AUDIT = """
WITH theirs AS (SELECT 'token:' || json_extract(detail, '$.token') AS actor FROM audit
                WHERE event = 'token.create' AND json_extract(detail, '$.user') = ?)
SELECT * FROM audit WHERE actor = ? OR json_extract(detail, '$.user') = ? OR actor IN (SELECT actor FROM theirs) ORDER BY seq
"""


class OwnData:
    """What is told of a person, part by part."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db = database
        self._clock = clock
        self._tellers: dict[str, Teller] = {}

    def register(self, name: str, teller: Teller) -> None:
        """Add what a room keeps of people, as JSON values. Raises ValueError for a name that is taken."""
        if name in self._tellers or name in _TABLES:
            raise ValueError(f"{name} is told already")
        self._tellers[name] = teller

    async def of(self, user: User) -> dict[str, Any]:
        """Everything, by part. Times are Unix seconds."""
        told: dict[str, Any] = {"made_at": self._clock.now(), "person": await self._person(user)}
        for name, query in _TABLES.items():
            told[name] = [dict(row) for row in await self._db.rows(query, (user.id,))]
        for name, teller in self._tellers.items():
            told[name] = await teller(user)
        told["audit"] = [_record(Record.of(row)) for row in await self._db.rows(_AUDIT, (user.id,) * 3)]
        return told

    async def _person(self, user: User) -> dict[str, Any]:
        row = await self._db.row(
            "SELECT id, email, name, role, language, theme, created_at, seen_at FROM users WHERE id = ?", (user.id,)
        )
        return dict(row) if row else {}


def _record(record: Record) -> dict[str, Any]:
    return {"seq": record.seq, "at": record.at, "event": record.event, "actor": record.actor, "detail": record.detail}


def as_file(told: dict[str, Any]) -> bytes:
    """The document as people keep it: JSON, indented, in their own letters."""
    return json.dumps(told, ensure_ascii=False, indent=2).encode() + b"\n"
