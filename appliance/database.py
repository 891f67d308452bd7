"""The appliance's store: SQLite through aiosqlite, one writer, readers beside it.

Rules: every write goes through :meth:`Database.transaction`; a commit has reached the disk when it returns
(``synchronous=FULL``: with NORMAL a power cut was measured to lose the last commits). Migrations are numbered and append-only.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import aiosqlite

from appliance.errors import Conflict, CroftError

Row = sqlite3.Row


class DatabaseError(CroftError):
    """The store cannot be opened or is not what this version expects."""

    code = "database"


class Database:
    """Open with :meth:`open`, close with :meth:`close`; use :meth:`transaction` to write and :meth:`rows` to read."""

    def __init__(self, writer: aiosqlite.Connection, reader: aiosqlite.Connection, lock_fd: int) -> None:
        self._writer = writer
        self._reader = reader
        self._lock_fd = lock_fd
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path) -> Database:
        """Open or create the database at ``path`` and bring its schema up to date.

        Raises Conflict when another process holds it, DatabaseError when it is damaged or newer than this program.
        """
        lock_fd = _take_lock(path.with_suffix(".lock"))
        try:
            fresh = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.close(fresh)
            writer = await _connect(path)
        except BaseException:
            os.close(lock_fd)
            raise
        try:
            await _check(writer)
            await _migrate(writer)
            reader = await _connect(path)
            await reader.execute("PRAGMA query_only = ON")
        except BaseException:
            await writer.close()
            os.close(lock_fd)
            raise
        return cls(writer, reader, lock_fd)

    async def close(self) -> None:
        """Checkpoint the log into the file and let go of the lock."""
        async with self._turn:
            await self._reader.close()
            await self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            await self._writer.close()
            os.close(self._lock_fd)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """One write transaction; commits on leaving, rolls back on any exception.

        Cancelling the caller never leaves a transaction open: the closing statement is shielded and waited for.
        """
        async with self._turn:
            await self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                await _finish(self._writer, "ROLLBACK")
                raise
            await _finish(self._writer, "COMMIT")

    async def execute(self, sql: str, values: Iterable[Any] = ()) -> int:
        """One statement in a transaction of its own; returns the number of rows it changed."""
        async with self.transaction() as tx:
            cursor = await tx.execute(sql, tuple(values))
            return cursor.rowcount

    async def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows of a read, seen as of the last commit."""
        return list(await self._reader.execute_fetchall(sql, tuple(values)))

    async def row(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        """The first row of a read, or None."""
        found = await self.rows(sql, values)
        return found[0] if found else None


async def _finish(connection: aiosqlite.Connection, statement: str) -> None:
    ending = asyncio.ensure_future(connection.execute(statement))
    try:
        await asyncio.shield(ending)
    except asyncio.CancelledError:
        await ending
        raise
    except sqlite3.Error:
        # A failed COMMIT (disk full, I/O error) leaves the transaction open; end it so that the next writer can begin.
        if statement == "COMMIT" and connection.in_transaction:
            await connection.execute("ROLLBACK")
        raise


def _take_lock(path: Path) -> int:
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise Conflict("the database is in use by a running Croft", hint="Use the running one, or stop it first.") from error
    return fd


async def _connect(path: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level=None, cached_statements=64)
    connection.row_factory = sqlite3.Row
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 5000",
                   "cache_size = -1000", "temp_store = MEMORY", "trusted_schema = OFF"):
        await connection.execute(f"PRAGMA {pragma}")
    return connection


async def _check(connection: aiosqlite.Connection) -> None:
    try:
        found = list(await connection.execute_fetchall("PRAGMA quick_check(1)"))
    except sqlite3.DatabaseError as error:
        raise DatabaseError("cannot open the database: it is damaged", hint="Restore a backup with `croft backup restore`.") from error
    if found[0][0] != "ok":
        raise DatabaseError("cannot open the database: it is damaged", hint="Restore a backup with `croft backup restore`.")


def migrations() -> list[tuple[int, str, str]]:
    """Every migration as (number, name, SQL), in order."""
    folder = resources.files("appliance") / "migrations"
    files = sorted((entry.name, entry) for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name.split("_")[0]), name, entry.read_text("utf-8")) for name, entry in files]


async def _migrate(connection: aiosqlite.Connection) -> None:
    await connection.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL) STRICT")
    done = {row[0]: row[1] for row in await connection.execute_fetchall("SELECT number, sha256 FROM migrations")}
    known = migrations()
    if done and max(done) > known[-1][0]:
        raise DatabaseError("the database was written by a newer Croft", hint="Install that version again, or restore a backup.")
    for number, name, sql in known:
        digest = hashlib.sha256(sql.encode()).hexdigest()
        if number in done:
            if done[number] != digest:
                raise DatabaseError(f"migration {name} was changed after it had been applied", hint="Reinstall Croft.")
            continue
        # sqlite3's executescript commits first; the statement list is ours, so one script carries its own transaction.
        record = f"INSERT INTO migrations VALUES ({number}, '{name}', '{digest}');"  # noqa: S608 - file names of the package
        await connection.executescript(f"BEGIN IMMEDIATE;\n{sql}\n{record}\nCOMMIT;")
