"""Opening the appliance's store: database, keys and audit log together, as the daemon and the offline commands both need."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from appliance import keys
from appliance.audit import AuditLog
from appliance.clock import Clock, SystemClock
from appliance.database import Database
from appliance.errors import CroftError
from appliance.reserve import Reserve
from appliance.settings import Settings

log = logging.getLogger(__name__)


class Store(Struct, frozen=True):
    """What is open."""

    database: Database
    audit: AuditLog
    clock: Clock
    boot_id: str
    instance: str
    reserve: Reserve


@asynccontextmanager
async def open_store(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Store]:
    """Open everything, sign the audit head on the way out. Raises CroftError."""
    clock = clock or SystemClock()
    anchored = read_anchor(settings)
    try:
        settings.paths.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        reserve = Reserve(settings.paths.state / "reserve")
    except OSError as error:
        raise _unusable(error) from error
    # The database first: its lock keeps two of us from making the keys at once.
    database = await Database.open(
        settings.paths.database, used_before=anchored is not None, make_room=reserve.make_room
    )
    try:
        store = _open_keys(settings, database, clock, anchored, reserve)
        yield store
        await _last_checkpoint(store.audit)
    finally:
        await database.close()


def _open_keys(
    settings: Settings, database: Database, clock: Clock, anchored: tuple[int, bytes] | None, reserve: Reserve
) -> Store:
    try:
        audit_key = keys.ed25519(settings.paths.keys / "audit.key")
        instance = keys.instance_id(settings.paths.keys / "instance")
    except OSError as error:
        raise _unusable(error) from error
    boot, anchor = keys.boot_id(), _anchor_path(settings)
    audit = AuditLog(
        database,
        audit_key,
        clock,
        boot,
        lambda seq, digest: keys.write_private(anchor, json.dumps({"seq": seq, "hash": digest.hex()}).encode()),
        anchored,
    )
    return Store(database, audit, clock, boot, instance, reserve)


async def _last_checkpoint(audit: AuditLog) -> None:
    try:
        await audit.checkpoint()
    except (sqlite3.Error, OSError) as error:
        # The records themselves are on disk; the next start signs them.
        log.error("cannot sign the audit log at stop", exc_info=error)


def read_anchor(settings: Settings) -> tuple[int, bytes] | None:
    """The audit head kept beside the database, so that a cut tail is noticed; None before the first. Raises CroftError."""
    try:
        data = json.loads(_anchor_path(settings).read_bytes())
        return int(data["seq"]), bytes.fromhex(data["hash"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(error) from error
    except (ValueError, TypeError, KeyError) as error:
        raise CroftError(
            "cannot read the head of the audit log kept beside it: the file is damaged",
            hint="Restore a backup with `croft backup restore`.",
        ) from error


def _unusable(error: OSError) -> CroftError:
    return CroftError(
        f"cannot use the state folder: {error.strerror}", hint="Run `croft doctor`; it checks owner and mode."
    )


def _anchor_path(settings: Settings) -> Path:
    return settings.paths.keys / "audit.head"
