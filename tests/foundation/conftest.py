"""A database and an audit log in a folder of their own, with a clock the test turns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.audit import AuditLog
from appliance.clock import ManualClock
from appliance.database import Database


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "croft.db")
    yield opened
    await opened.close()


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def audit(database: Database, key: Ed25519PrivateKey, clock: ManualClock) -> AuditLog:
    return AuditLog(database, key, clock, "boot-1")
