"""Opening the appliance's store: database, keys and audit log together, as the daemon and the offline commands both need."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance import keys
from appliance.audit import AuditLog
from appliance.clock import Clock, SystemClock
from appliance.database import Database
from appliance.errors import CroftError
from appliance.settings import Settings


@dataclass(frozen=True)
class Store:
    """What is open."""

    database: Database
    audit: AuditLog
    clock: Clock
    boot_id: str
    instance: str


@asynccontextmanager
async def open_store(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Store]:
    """Open everything, sign the audit head on the way out. Raises CroftError."""
    clock = clock or SystemClock()
    try:
        settings.paths.state.mkdir(parents=True, exist_ok=True)
        audit_key = keys.ed25519(settings.paths.keys / "audit.key")
        instance = keys.instance_id(settings.paths.keys / "instance")
    except OSError as error:
        raise CroftError(f"cannot use the state folder: {error.strerror}",
                         hint="Run `croft doctor`; it checks owner and mode.") from error
    database = await Database.open(settings.paths.database)
    try:
        boot = keys.boot_id()
        anchor = _anchor_path(settings)
        audit = AuditLog(database, audit_key, clock, boot, lambda seq, digest: keys.write_private(
            anchor, json.dumps({"seq": seq, "hash": digest.hex()}).encode()))
        yield Store(database, audit, clock, boot, instance)
        await audit.checkpoint()
    finally:
        await database.close()


def read_anchor(settings: Settings) -> tuple[int, bytes] | None:
    """The audit head kept beside the database, so that a cut tail is noticed; None before the first."""
    try:
        data = json.loads(_anchor_path(settings).read_bytes())
        return int(data["seq"]), bytes.fromhex(data["hash"])
    except FileNotFoundError:
        return None


def _anchor_path(settings: Settings) -> Path:
    return settings.paths.keys / "audit.head"
