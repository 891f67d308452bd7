"""Database.write: a whole transaction in one visit to the database's thread, with the promises of the other kind."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from appliance.audit import AuditLog
from appliance.database import Database
from appliance.errors import Conflict

PUT = "INSERT INTO used_tokens VALUES (?, 1)"


async def tokens(database: Database) -> list[str]:
    return [row[0] for row in await database.rows("SELECT * FROM used_tokens ORDER BY 1")]


async def test_it_commits_and_returns(database: Database) -> None:
    async def work(tx: Any) -> int:
        await tx.executemany(PUT, [("a",), ("b",)])
        done = await tx.execute("DELETE FROM used_tokens WHERE rowid > 0")
        await tx.execute(PUT, ("c",))
        return len(await tx.execute_fetchall("SELECT * FROM used_tokens")) + 10 * int(done.rowcount)

    assert await database.write(work) == 21
    assert await tokens(database) == ["c"]


async def test_what_it_raises_undoes_it(database: Database) -> None:
    async def work(tx: Any) -> None:
        await tx.execute(PUT, ("a",))
        raise Conflict("no")

    with pytest.raises(Conflict):
        await database.write(work)
    await database.execute(PUT, ("b",))
    assert await tokens(database) == ["b"]


async def test_waiting_for_anything_else_undoes_it(database: Database) -> None:
    async def work(tx: Any) -> None:
        await tx.execute(PUT, ("a",))
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waited for something else"):
        await database.write(work)
    await database.execute(PUT, ("b",))
    assert await tokens(database) == ["b"]


async def test_cancelling_leaves_all_or_nothing(database: Database) -> None:
    """Whenever the caller goes away, no transaction stays open and none is half done."""
    for turns in range(8):

        async def work(tx: Any, turns: int = turns) -> None:
            await tx.execute(PUT, (f"{turns}-1",))
            await tx.execute(PUT, (f"{turns}-2",))

        task = asyncio.create_task(database.write(work))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        found = await tokens(database)
        assert (f"{turns}-1" in found) == (f"{turns}-2" in found)
    await database.execute(PUT, ("still",))
    assert "still" in await tokens(database)


async def test_both_kinds_take_turns_and_the_chain_holds(database: Database, audit: AuditLog) -> None:
    """LOG-8: records of both kinds of transaction are one chain."""

    async def work(tx: Any) -> None:
        await audit.append(tx, "sign-in", "user:a")

    async def other() -> None:
        async with database.transaction() as tx:
            await audit.append(tx, "sign-in", "user:b")

    await asyncio.gather(*(job for _ in range(20) for job in (database.write(work), other())))
    rows = await database.rows("SELECT seq, actor FROM audit ORDER BY seq")
    assert [row["seq"] for row in rows] == list(range(1, 41))
    assert {row["actor"] for row in rows} == {"user:a", "user:b"}
    assert await audit.verify() is None
