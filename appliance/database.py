"""The appliance's store: SQLite through aiosqlite, one writer, readers beside it.

Rules: every write goes through :meth:`Database.transaction` or :meth:`Database.write`; a commit has reached the disk when it returns
(``synchronous=FULL``: with NORMAL a power cut was measured to lose the last commits). Migrations are numbered and append-only.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from appliance.errors import Conflict, CroftError

T = TypeVar("T")
Row = sqlite3.Row
_RESTORE = "Restore a backup with `croft backup restore`."


class DatabaseError(CroftError):
    """The store cannot be opened or is not what this version expects."""

    code = "database"


class Database:
    """Open with :meth:`open`, close with :meth:`close`; use :meth:`transaction` to write and :meth:`rows` to read."""

    def __init__(
        self,
        writer: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        lock_fd: int,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        """``make_room`` is called before each write, for a disk that is full."""
        self._writer = writer
        self._reader = reader
        self._lock_fd = lock_fd
        self._make_room = make_room
        self._turn = asyncio.Lock()

    @classmethod
    async def open(
        cls, path: Path, *, used_before: bool = False, make_room: Callable[[], None] = lambda: None
    ) -> Database:
        """Open or create the database at ``path`` and bring its schema up to date.

        ``used_before`` says that there must be one: a lost or emptied file is then refused, for an empty one would read as an
        appliance that nobody owns yet (R24). Raises Conflict when another process holds it, DatabaseError when it cannot be
        opened, is damaged, or newer than this program.
        """
        async with AsyncExitStack() as undo:
            try:
                make_room()
                lock_fd = _take_lock(path.with_suffix(".lock"))
                undo.callback(os.close, lock_fd)
                _touch(path, used_before)
                writer = await _connect(path, undo)
                await _check(writer)
                await _migrate(writer)
                reader = await _connect(path, undo)
                await reader.execute("PRAGMA query_only = ON")
            except OSError as error:
                raise DatabaseError(
                    f"cannot open the database: {error.strerror}",
                    hint="Run `croft doctor`; it checks owner, mode and free space.",
                ) from error
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise _cannot_open(error) from error
            undo.pop_all()
        return cls(writer, reader, lock_fd, make_room)

    async def close(self) -> None:
        """Checkpoint the log into the file and let go of the lock, which is let go of even where the disk is full."""
        async with self._turn:
            try:
                await self._reader.close()
                with suppress(sqlite3.Error):  # the log stays beside the file and is read at the next start
                    await self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                await self._writer.close()
                os.close(self._lock_fd)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """One write transaction; commits on leaving, rolls back on any exception.

        Cancelling the caller never leaves a transaction open: a statement handed to the database's thread runs there even when
        nobody waits for it any more, so the opening and the closing one are waited for whatever happens.
        """
        async with self._turn:
            self._make_room()
            try:
                await _to_the_end(self._writer.execute("BEGIN IMMEDIATE"))
                yield self._writer
            except BaseException:
                await _to_the_end(_roll_back(self._writer))
                raise
            await _to_the_end(_commit(self._writer))

    async def write(self, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """``work`` as one write transaction that is begun, carried out and committed in one visit to the database's thread.

        For what happens often: in a :meth:`transaction` every statement is such a visit. ``work`` awaits nothing but the
        statements of what it is given (``execute``, ``executemany``, ``execute_fetchall``) and leaves alone whatever the
        event loop may change meanwhile. What it raises undoes it. Raises RuntimeError when it waits for anything else.
        """
        async with self._turn:
            self._make_room()
            # aiosqlite has no public way to run a function of ours between its own, nor one that needs no task to be finished
            # whatever happens: each turn of the event loop on the way is time that the caller waits.
            done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            self._writer._tx.put_nowait((done, partial(_carry_out, self._writer._conn, work)))
            return await _to_the_end(done)

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


class _Direct:
    """The statements of a transaction for who is on the database's thread: each is done as soon as it is awaited."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._connection.execute(sql, values)

    async def executemany(self, sql: str, values: Iterable[Sequence[Any]]) -> sqlite3.Cursor:
        return self._connection.executemany(sql, values)

    async def execute_fetchall(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()


def _carry_out(connection: sqlite3.Connection, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = _at_once(work(_Direct(connection)))
        connection.execute("COMMIT")
    except BaseException:
        # Some failures have ended the transaction already; see _roll_back.
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    return result


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never has to wait."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("a transaction waited for something else than its statements")


async def _to_the_end(work: Awaitable[T]) -> T:
    """Await ``work`` to its end even if the caller is cancelled meanwhile; the cancellation is passed on afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.exception()  # marked as seen: the cancellation is what the caller asked for
        raise cancelled
    return task.result()


async def _roll_back(connection: aiosqlite.Connection) -> None:
    # Some failures (disk full, I/O error) have ended the transaction already: sqlite.org/lang_transaction.html, 3.
    try:
        if connection.in_transaction:
            await connection.execute("ROLLBACK")
    except sqlite3.Error:
        if connection.in_transaction:
            raise


async def _commit(connection: aiosqlite.Connection) -> None:
    try:
        await connection.execute("COMMIT")
    except sqlite3.Error:
        # A failed COMMIT leaves the transaction open; end it so that the next writer can begin.
        await _roll_back(connection)
        raise


def _take_lock(path: Path) -> int:
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise Conflict(
            "the database is in use by a running Croft", hint="Use the running one, or stop it first."
        ) from error
    return fd


def _touch(path: Path, used_before: bool) -> None:
    """Make the file owner-only before SQLite would, and never through a symbolic link."""
    fd = os.open(path, (0 if used_before else os.O_CREAT) | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if used_before and os.fstat(fd).st_size == 0 and not path.with_name(path.name + "-wal").exists():
            raise DatabaseError(
                "cannot open the database: it is empty, but this appliance has been used", hint=_RESTORE
            )
    finally:
        os.close(fd)


_PRAGMAS = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA busy_timeout = 5000;
PRAGMA cache_size = -1000;
PRAGMA temp_store = MEMORY;
PRAGMA trusted_schema = OFF;
"""


async def _connect(path: Path, undo: AsyncExitStack) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level=None, cached_statements=64)
    undo.push_async_callback(connection.close)
    connection.row_factory = sqlite3.Row
    await connection.executescript(_PRAGMAS)
    return connection


async def _check(connection: aiosqlite.Connection) -> None:
    found = list(await connection.execute_fetchall("PRAGMA quick_check(1)"))
    if found[0][0] != "ok":
        raise DatabaseError("cannot open the database: it is damaged", hint=_RESTORE)


def _cannot_open(error: sqlite3.Error | UnicodeDecodeError) -> DatabaseError:
    # A damaged schema is quoted in SQLite's message, which then may not even be text.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if isinstance(error, UnicodeDecodeError) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return DatabaseError("cannot open the database: it is damaged", hint=_RESTORE)
    return DatabaseError(
        f"cannot open the database: {error}", hint="Run `croft doctor`; it checks owner, mode and free space."
    )


def migrations() -> list[tuple[int, str, str]]:
    """Every migration as (number, name, SQL), in order."""
    files = sorted(Path(__file__).with_name("migrations").glob("*.sql"))
    return [(int(file.name.split("_")[0]), file.name, file.read_text("utf-8")) for file in files]


async def _migrate(connection: aiosqlite.Connection) -> None:
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL) STRICT"
    )
    done = {row[0]: row[1] for row in await connection.execute_fetchall("SELECT number, sha256 FROM migrations")}
    known = migrations()
    if done and max(done) > known[-1][0]:
        raise DatabaseError(
            "the database was written by a newer Croft", hint="Install that version again, or restore a backup."
        )
    wanted = []
    for number, name, sql in known:
        digest = hashlib.sha256(sql.encode()).hexdigest()
        if number in done:
            if done[number] != digest:
                raise DatabaseError(f"migration {name} was changed after it had been applied", hint="Reinstall Croft.")
            continue
        record = f"INSERT INTO migrations VALUES ({number}, '{name}', '{digest}');"  # noqa: S608 - file names of the package
        wanted.append(f"{sql}\n{record}\n")
    if wanted:
        # One transaction: an update is there whole or not at all. executescript commits first, so the script begins its own.
        await connection.executescript(f"BEGIN IMMEDIATE;\n{''.join(wanted)}COMMIT;")
