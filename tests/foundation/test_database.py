"""The store: what it promises survives kills, cancellation, a full disk and a damaged file."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from support.waiting import poll

from appliance import database as module
from appliance.database import Database, DatabaseError
from appliance.errors import Conflict

PUT = "INSERT INTO used_tokens VALUES (?, 1)"


async def count(database: Database) -> int:
    row = await database.row("SELECT count(*) AS n FROM used_tokens")
    assert row is not None
    return int(row["n"])


@asynccontextmanager
async def opened(path: Path, *, used_before: bool = False) -> AsyncIterator[Database]:
    database = await Database.open(path, used_before=used_before)
    try:
        yield database
    finally:
        await database.close()


async def open_and_close(path: Path) -> None:
    async with opened(path):
        pass


async def put_people(path: Path, number: int) -> None:
    async with opened(path) as database, database.transaction() as tx:
        for each in range(number):
            await tx.execute(
                "INSERT INTO users (id, email, name, role, created_at) VALUES (?, ?, ?, 'admin', 1)",
                (f"u{each}", f"u{each}@example.org", "n" * 200),
            )


def modes_in(folder: Path) -> dict[str, int]:
    return {path.name: path.lstat().st_mode & 0o777 for path in folder.iterdir()}


def fill(folder: Path) -> Path:
    """Use up the last byte of a file system."""
    filler = folder / "filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        with suppress(OSError):
            while os.write(fd, b"x" * 4096):
                pass
        assert os.statvfs(folder).f_bavail == 0
    finally:
        os.close(fd)
    return filler


async def test_migrations_are_applied_once_and_recorded(tmp_path: Path) -> None:
    for _ in range(3):
        await open_and_close(tmp_path / "croft.db")
    with sqlite3.connect(tmp_path / "croft.db") as raw:
        assert [row[0] for row in raw.execute("SELECT number FROM migrations")] == [
            number for number, *_ in module.migrations()
        ]
    raw.close()


def test_migrations_are_numbered_without_gaps() -> None:
    assert [number for number, *_ in module.migrations()] == list(range(1, len(module.migrations()) + 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE migrations SET sha256 = 'other' WHERE number = 1", "was changed"),
        ("INSERT INTO migrations VALUES (9999, '9999_future.sql', 'x')", "newer Croft"),
    ],
)
async def test_a_schema_that_is_not_ours_is_refused(tmp_path: Path, change: str, words: str) -> None:
    path = tmp_path / "croft.db"
    await open_and_close(path)
    with sqlite3.connect(path) as raw:
        raw.execute(change)
    raw.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match=words) as caught:
        await Database.open(path)
    assert caught.value.hint
    assert path.read_bytes() == before, "a refused database must be left as it is"


async def test_a_broken_migration_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R20: half a schema never stays."""
    path = tmp_path / "croft.db"
    await open_and_close(path)
    good = module.migrations()
    bad = (len(good) + 1, "bad.sql", "CREATE TABLE half (a) STRICT;")
    monkeypatch.setattr(module, "migrations", lambda: [*good, bad])
    with pytest.raises(DatabaseError, match="cannot open the database"):
        await Database.open(path)
    bad = (len(good) + 1, "bad.sql", "CREATE TABLE half (a TEXT) STRICT; CREATE TABLE half (a TEXT) STRICT;")
    with pytest.raises(DatabaseError, match="already exists"):
        await Database.open(path)
    monkeypatch.undo()
    async with opened(path) as database:
        assert await database.rows("SELECT name FROM sqlite_master WHERE name = 'half'") == []


@pytest.mark.parametrize("damage", ["header", "garbage", "schema", "middle", "empty", "gone"])
async def test_a_damaged_file_is_refused_and_never_reset(tmp_path: Path, damage: str) -> None:
    """R24: the table of people never silently becomes an empty one."""
    path = tmp_path / "croft.db"
    await put_people(path, 400)
    content = bytearray(path.read_bytes())
    if damage == "header":
        content[:16] = b"x" * 16
    elif damage == "garbage":
        content[:] = os.urandom(len(content))
    elif damage == "schema":
        content[100:400] = b"\xff" * 300
    elif damage == "middle":
        for page in range(4, len(content) // 4096):
            content[page * 4096 : page * 4096 + 64] = b"\x0a" * 64
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else bytes(content))
    before = path.read_bytes() if path.exists() else None
    threads = threading.active_count()
    for _ in range(2):
        with pytest.raises(DatabaseError, match="cannot open the database"):
            await Database.open(path, used_before=True)
    assert (path.read_bytes() if path.exists() else None) == before
    poll(lambda: threading.active_count() <= threads, "no thread was left behind")


async def test_random_flips_never_lose_people_without_a_word(tmp_path: Path) -> None:
    """R24: fifty random bytes; it opens with everybody there, or it refuses."""
    path, chance = tmp_path / "croft.db", random.Random(24)  # noqa: S311 - damage, not a secret
    await put_people(path, 50)
    good = path.read_bytes()
    for _ in range(50):
        content = bytearray(good)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(content))
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        with suppress(DatabaseError):
            async with opened(path, used_before=True) as database:
                assert len(await database.rows("SELECT id FROM users")) == 50


async def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    path = tmp_path / "croft.db"
    script = (
        f"import asyncio, pathlib\nfrom appliance.database import Database\nfrom appliance.errors import Conflict\n"
        f"try:\n    asyncio.run(Database.open(pathlib.Path({str(path)!r})))\nexcept Conflict as error:\n    print(error.message)"
    )
    async with opened(path):
        said = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
        )
        assert "in use by a running Croft" in said.stdout
        with pytest.raises(Conflict):
            await Database.open(path)
    await open_and_close(path)


async def test_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    """SEC-1."""
    before = os.umask(0)
    try:
        async with opened(tmp_path / "croft.db") as database:
            await database.execute(PUT, ("a",))
            modes = modes_in(tmp_path)
    finally:
        os.umask(before)
    assert len(modes) == 4
    assert set(modes.values()) == {0o600}, modes


async def test_a_link_in_the_databases_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "croft.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatabaseError, match="cannot open"):
        await Database.open(tmp_path / "croft.db")
    assert "elsewhere" not in modes_in(tmp_path)


async def test_an_exception_rolls_back(database: Database) -> None:
    async def fails() -> None:
        async with database.transaction() as tx:
            await tx.execute(PUT, ("a",))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fails()
    assert await count(database) == 0
    await database.execute(PUT, ("a",))
    with pytest.raises(sqlite3.IntegrityError):
        await database.execute(PUT, ("a",))
    assert await count(database) == 1


async def test_readers_see_nothing_before_the_commit_and_cannot_write(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute(PUT, ("a",))
        assert await count(database) == 0
    assert await count(database) == 1
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await database.rows("DELETE FROM used_tokens RETURNING jti")


async def test_cancelling_at_any_moment_leaves_no_transaction_open(database: Database) -> None:
    """A client that hangs up must not wedge the one writer."""

    async def write(name: str) -> None:
        async with database.transaction() as tx:
            await tx.execute(PUT, (name,))
            await tx.execute(PUT, (name + "-2",))

    for steps in range(60):
        task = asyncio.create_task(write(f"n{steps}"))
        for _ in range(steps % 20):
            await asyncio.sleep(0)
        if steps >= 40:
            await asyncio.sleep(0.0003 * (steps - 40))
        task.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(5):
            await database.execute(PUT, (f"after-{steps}",))
    rows = await database.rows("SELECT jti FROM used_tokens WHERE jti LIKE 'n%'")
    assert len(rows) % 2 == 0, "a transaction was committed by half"


async def test_many_writers_take_turns(database: Database) -> None:
    await asyncio.gather(*(database.execute(PUT, (str(number),)) for number in range(50)))
    assert await count(database) == 50


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB. Needs root."""
    assert os.geteuid() == 0, "mounting a small disk needs root; ./tests/run runs as root"
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "croft-test", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_is_said_cleanly_and_gone_when_freed(small_disk: Path) -> None:
    """R10: no corruption, reads go on, writes fail cleanly, all is well once there is room."""
    acknowledged = 0
    async with opened(small_disk / "croft.db") as database:
        filler = fill(small_disk)
        with suppress(sqlite3.OperationalError):
            while acknowledged < 5000:
                await database.execute(PUT, (f"{acknowledged}" + "x" * 500,))
                acknowledged += 1
        assert acknowledged < 5000
        for _ in range(3):
            with pytest.raises(sqlite3.OperationalError):
                await database.execute(PUT, ("y" * 100_000,))
            assert await count(database) == acknowledged
        filler.unlink()
        await database.execute(PUT, ("after",))
        assert await count(database) == acknowledged + 1
    await open_and_close(small_disk / "croft.db")


async def test_closing_on_a_full_disk_lets_go(small_disk: Path) -> None:
    async with opened(small_disk / "croft.db") as database:
        await database.execute(PUT, ("kept",))
        filler = fill(small_disk)
    filler.unlink()
    async with opened(small_disk / "croft.db") as again:
        assert await count(again) == 1


WRITER = """
import asyncio, pathlib, sys
from appliance.database import Database
async def main():
    database = await Database.open(pathlib.Path(sys.argv[1]))
    number = int((await database.row("SELECT count(*) AS n FROM used_tokens"))["n"])
    while True:
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO used_tokens VALUES (?, ?)", (f"{number:08}", 1.0))
            await tx.execute("INSERT INTO bans VALUES (?, '[]', 0, 0)", (f"{number:08}",))
        print(number, flush=True)
        number += 1
asyncio.run(main())
"""


def test_acknowledged_rows_survive_a_kill(tmp_path: Path) -> None:
    """AUTH-12, R1: killed in the middle of commits, again and again; nothing acknowledged is lost, nothing is there by half."""
    path, chance = tmp_path / "croft.db", random.Random(1)  # noqa: S311
    acknowledged = -1
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(chance.randrange(1, 60)):
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
        acknowledged = int(rest[-1]) if rest else acknowledged
        writer.wait()
        writer.stdout.close()
        raw = sqlite3.connect(path)
        tokens = [row[0] for row in raw.execute("SELECT jti FROM used_tokens ORDER BY jti")]
        bans = [row[0] for row in raw.execute("SELECT key FROM bans ORDER BY key")]
        raw.close()
        assert tokens == bans
        assert acknowledged + 1 <= len(tokens) <= acknowledged + 2
