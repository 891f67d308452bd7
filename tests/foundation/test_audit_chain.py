"""The audit chain: whatever is done to it afterwards shows, and nothing written to it can pretend to be something else."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import appliance
from appliance import offline
from appliance.audit import ANNOUNCED, CHECKPOINT_RECORDS, EVENTS, AuditLog, AuditUnavailable
from appliance.clock import ManualClock
from appliance.database import Database
from appliance.errors import CroftError
from appliance.identity import secrets
from appliance.settings import Paths, load
from appliance.store import open_store, read_anchor

ROOT = Path(appliance.__file__).parents[1]


async def write(audit: AuditLog, number: int) -> None:
    for each in range(number):
        await audit.note("export", "u1", what=f"thing {each}")


async def test_an_untouched_chain_holds(audit: AuditLog) -> None:
    assert await audit.verify() is None
    await write(audit, 7)
    assert await audit.verify() is None
    newest = await audit.records(limit=3)
    assert [record.seq for record in newest] == [7, 6, 5]


@pytest.mark.parametrize(
    ("change", "seq"),
    [
        ('UPDATE audit SET detail = \'{"what":"other"}\' WHERE seq = 3', 3),
        ('UPDATE audit SET detail = \'{ "what": "thing 2" }\' WHERE seq = 3', 3),
        ('UPDATE audit SET detail = \'{"what":"hidden","what":"thing 2"}\' WHERE seq = 3', 3),
        ("UPDATE audit SET detail = 'not json' WHERE seq = 3", 3),
        ("UPDATE audit SET detail = '" + "[" * 5000 + "' WHERE seq = 3", 3),
        ("UPDATE audit SET actor = 'u2' WHERE seq = 3", 3),
        ("UPDATE audit SET event = 'sign-in' WHERE seq = 3", 3),
        ("UPDATE audit SET at = at + 1 WHERE seq = 3", 3),
        ("UPDATE audit SET uptime = uptime - 1 WHERE seq = 3", 3),
        ("UPDATE audit SET boot_id = 'boot-2' WHERE seq = 3", 3),
        ("UPDATE audit SET intent = 1 WHERE seq = 3", 3),
        ("UPDATE audit SET hash = x'00' WHERE seq = 3", 3),
        ("DELETE FROM audit WHERE seq = 3", 3),
        ("DELETE FROM audit WHERE seq <= 2", 1),
        (
            "UPDATE audit SET seq = -seq WHERE seq = 4; UPDATE audit SET seq = 4 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = -4",
            3,
        ),
        ("UPDATE audit SET seq = seq + 100 WHERE seq = 7", 7),
        ("UPDATE audit_checkpoints SET signature = zeroblob(64)", 1),
        ("UPDATE audit_checkpoints SET hash = zeroblob(32)", 1),
        ("DELETE FROM audit", 1),
    ],
)
async def test_every_change_is_found(database: Database, audit: AuditLog, change: str, seq: int) -> None:
    """LOG-1."""
    await write(audit, 7)
    for statement in change.split(";"):
        await database.execute(statement)
    fault = await audit.verify()
    assert fault is not None
    assert fault.seq == seq


async def test_a_rewritten_chain_lacks_our_signature(database: Database, audit: AuditLog, clock: ManualClock) -> None:
    """LOG-1: whoever computes every hash anew and signs with a key of their own."""
    await write(audit, 3)
    await database.execute("DELETE FROM audit")
    await database.execute("DELETE FROM audit_checkpoints")
    forger = AuditLog(database, Ed25519PrivateKey.generate(), clock, "boot-1")
    await write(forger, 3)
    assert await forger.verify() is None
    fault = await audit.verify()
    assert fault is not None
    assert "signature" in fault.what


async def test_a_cut_tail_shows_against_the_anchor(
    database: Database, key: Ed25519PrivateKey, clock: ManualClock
) -> None:
    """LOG-1: records after the last checkpoint can only be missed by somebody who kept the head elsewhere."""
    heads: list[tuple[int, bytes]] = []
    audit = AuditLog(database, key, clock, "boot-1", lambda seq, digest: heads.append((seq, digest)))
    await write(audit, 5)
    await audit.checkpoint()
    await database.execute("DELETE FROM audit WHERE seq > 3")
    await database.execute("DELETE FROM audit_checkpoints WHERE seq > 3")
    assert await audit.verify() is None
    fault = await audit.verify(heads[-1])
    assert fault is not None
    assert fault.seq == 5


@asynccontextmanager
async def store_in(folder: Path) -> AsyncIterator[tuple[Database, AuditLog]]:
    async with open_store(load(Paths.under(folder))) as store:
        yield store.database, store.audit


async def test_starting_again_does_not_hide_a_cut_tail(tmp_path: Path) -> None:
    """The head of a cut log must not take the anchor's place: not by verifying, not by starting, not by going on."""
    async with store_in(tmp_path) as (_, audit):
        await write(audit, 5)
    anchor = read_anchor(load(Paths.under(tmp_path)))
    assert anchor is not None
    assert anchor[0] == 5
    with sqlite3.connect(tmp_path / "state/croft.db") as raw:
        raw.execute("DELETE FROM audit WHERE seq > 3")
        raw.execute("DELETE FROM audit_checkpoints WHERE seq > 3")
    raw.close()
    for _ in range(2):
        async with store_in(tmp_path) as (_, audit):
            await write(audit, 6)
            await audit.checkpoint()
            assert await audit.verify(read_anchor(load(Paths.under(tmp_path)))) is not None
    assert read_anchor(load(Paths.under(tmp_path))) == anchor


def test_verifying_with_the_daemon_down_can_be_repeated(tmp_path: Path) -> None:
    """DECIDED 9."""
    settings = load(Paths.under(tmp_path))

    async def once() -> None:
        async with store_in(tmp_path) as (_, audit):
            await write(audit, 3)

    asyncio.run(once())
    for _ in range(3):
        assert offline.audit_verify(settings) == {"ok": True, "fault": None}


async def test_a_damaged_anchor_is_said(tmp_path: Path) -> None:
    async with store_in(tmp_path) as (_, audit):
        await write(audit, 1)
    for content in (b"", b"{}", b"[1]", b'{"seq": "x", "hash": ""}', b'{"seq": 1, "hash": "zz"}'):
        (tmp_path / "state/keys/audit.head").write_bytes(content)
        with pytest.raises(CroftError, match="damaged"):
            async with store_in(tmp_path):
                pass


async def test_checkpoints_by_number_and_by_time(database: Database, audit: AuditLog, clock: ManualClock) -> None:
    """LOG-1: each 100 records or 60 seconds."""

    async def signed() -> list[int]:
        return [row["seq"] for row in await database.rows("SELECT seq FROM audit_checkpoints ORDER BY seq")]

    async with database.transaction() as tx:
        for _ in range(CHECKPOINT_RECORDS + 1):
            await audit.append(tx, "export", "u1")
    assert await signed() == [1, CHECKPOINT_RECORDS + 1]
    await audit.note("export", "u1")
    assert len(await signed()) == 2
    clock.advance(60)
    await audit.note("export", "u1")
    assert await signed() == [1, CHECKPOINT_RECORDS + 1, CHECKPOINT_RECORDS + 3]
    await audit.checkpoint()
    await audit.note("export", "u1")
    await audit.checkpoint()
    await audit.checkpoint()
    assert (await signed())[-1] == CHECKPOINT_RECORDS + 4


async def test_a_rolled_back_checkpoint_is_made_again(database: Database, audit: AuditLog) -> None:
    async def fails() -> None:
        async with database.transaction() as tx:
            await audit.append(tx, "export", "u1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fails()
    await audit.note("export", "u1")
    await audit.checkpoint()
    assert len(await database.rows("SELECT * FROM audit_checkpoints")) == 1


async def test_a_long_chain_is_walked_in_pages(database: Database, audit: AuditLog) -> None:
    async with database.transaction() as tx:
        for _ in range(1203):
            await audit.append(tx, "export", "u1")
    assert await audit.verify() is None
    await database.execute("DELETE FROM audit WHERE seq = 1001")
    fault = await audit.verify()
    assert fault is not None
    assert fault.seq == 1001


@pytest.mark.parametrize(
    "text",
    [
        "a\r\nb",
        "\x1b[2J\x1b]8;;x\x07",
        "</script>",
        "\u202e\u2066",
        '","actor":"root',
        "\udcff",
        "\0",
        "م" * 3,
        "x" * 1_000_000,
    ],
)
async def test_no_field_forges_or_breaks_a_record(database: Database, audit: AuditLog, text: str) -> None:
    """LOG-4."""
    await audit.note("export", "u1", what=text, deep={"a": [text]})
    rows = await database.rows("SELECT detail FROM audit")
    assert len(rows) == 1
    stored = rows[0]["detail"]
    assert stored.isascii()
    assert stored.isprintable()
    assert json.loads(stored)["what"] == text[:4096]
    assert len(stored) < 60_000
    assert await audit.verify() is None


async def test_interrupted_actions_are_closed_once(database: Database, audit: AuditLog) -> None:
    """LOG-2: an announced effect without an outcome is interrupted, and said so once."""
    with pytest.raises(RuntimeError):
        async with audit.doing("service.stop", "u1", service="ide"):
            raise RuntimeError
    async with audit.doing("service.start", "u1", service="ide") as outcome:
        outcome["note"] = "fine"
        announced = await database.rows("SELECT event FROM audit ORDER BY seq")
        assert announced[-1]["event"] == "service.start", "announced before the effect"
    await audit.note("service.restart", "u1", service="ide")
    assert await audit.interrupted() == 1
    assert await audit.interrupted() == 0
    results = [record.detail["result"] for record in reversed(await audit.records(event="outcome"))]
    assert results == ["failed", "done", "interrupted"]


async def test_nothing_happens_that_cannot_be_written(database: Database, audit: AuditLog) -> None:
    """LOG-3: privileged actions stop with a clean error."""
    happened = []
    await database._writer.execute("PRAGMA query_only = ON")
    with pytest.raises(AuditUnavailable) as caught:
        async with audit.doing("service.stop", "u1", service="ide"):
            happened.append(1)
    assert not happened
    assert caught.value.status == 503
    await database._writer.execute("PRAGMA query_only = OFF")
    async with audit.doing("service.stop", "u1", service="ide"):
        happened.append(1)
    assert happened


async def test_unknown_codes_are_refused(audit: AuditLog) -> None:
    with pytest.raises(ValueError, match="unknown audit event"):
        await audit.note("made.up", "u1")


def test_every_code_is_written_somewhere() -> None:
    """LOG-6: a code nobody emits is a hole in the log; codes are written whole, or as ``area.{action}``."""
    source = "\n".join(
        path.read_text("utf-8")
        for folder in ("appliance", "webui", "control_sync")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "audit.py"
    )
    source += re.sub(r"EVENTS.*?\n}", "", (ROOT / "appliance/audit.py").read_text("utf-8"), flags=re.S)
    emitted: Callable[[str], bool] = lambda code: (  # noqa: E731
        f'"{code}"' in source or f'f"{code.split(".")[0]}.{{action}}"' in source
    )
    assert [code for code in EVENTS if not emitted(code)] == []
    assert ANNOUNCED.issubset(EVENTS)


async def test_canaries_never_reach_the_log(database: Database, audit: AuditLog) -> None:
    """LOG-5: a thousand tokens in every place a field can hold them."""
    marks: tuple[secrets.Mark, ...] = ("ses", "ide", "lnk", "dev", "hnd")
    canaries = [secrets.new(marks[number % 5]) for number in range(1000)]
    async with database.transaction() as tx:
        for number, canary in enumerate(canaries):
            wrap = (canary, f"x{canary}", f"https://h/?t={canary}&a", f"a\n{canary}", [canary], {"k": {"d": canary}})[
                number % 6
            ]
            await audit.append(tx, "export", "u1", what=wrap)
    stored = "\n".join(row["detail"] for row in await database.rows("SELECT detail FROM audit"))
    assert [canary for canary in canaries if canary[10:] in stored] == []
