"""The reserve for a full disk, on a small disk that really fills up (R10)."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.front import Front, front

from appliance.errors import CroftError
from appliance.reserve import Reserve

MIB = 1 << 20


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 64 MiB."""
    assert os.geteuid() == 0, "mounting a file system takes root"
    folder = Path(tempfile.mkdtemp(prefix="croft-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=0755", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def fill(disk: Path) -> Path:
    """Take every block there is. As somebody in the workspace would."""
    greedy = disk / "greedy"
    with greedy.open("ab", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    assert free(disk) == 0
    return greedy


def free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def test_it_is_made_of_real_blocks_given_up_once_and_made_again(small_disk: Path) -> None:
    reserve = Reserve(small_disk / "reserve")
    assert reserve.size == 2 * MIB
    reserve.make_room()
    before = free(small_disk)
    reserve.keep()
    assert reserve.held
    assert before - free(small_disk) >= 2 * MIB
    reserve.make_room()
    assert reserve.held, "given up although there is room"
    greedy = fill(small_disk)
    assert Reserve(small_disk / "reserve").held, "another start finds it"
    reserve.make_room()
    assert not reserve.held
    assert free(small_disk) >= 2 * MIB
    reserve.keep()
    assert not reserve.held, "made again where there is no room"
    greedy.unlink()
    reserve.keep()
    assert reserve.held


def test_half_a_reserve_is_none(small_disk: Path) -> None:
    """Killed while it was being made, or a link that somebody put there."""
    path = small_disk / "reserve"
    path.write_bytes(b"x" * MIB)
    reserve = Reserve(path)
    assert not reserve.held
    reserve.keep()
    assert reserve.held
    path.unlink()
    target = small_disk / "target"
    path.symlink_to(target)
    linked = Reserve(path)
    linked.keep()
    assert not target.exists()


async def test_people_sign_in_and_the_audit_log_goes_on_with_a_full_disk(small_disk: Path) -> None:
    async with front(small_disk) as door:
        await door.sign_in_as("admin")
        door.store.reserve.keep()
        assert door.store.reserve.held
        greedy = fill(small_disk)
        session, cookie = await door.sign_in_as("admin")
        await door.audit.note("service.start", "console", service="ide")
        assert not door.store.reserve.held
        async with door.ask("GET", "/", cookie, headers={"Accept": "text/html"}) as answer:
            assert answer.status == 200
        greedy.unlink()
        door.store.reserve.keep()
        assert door.store.reserve.held
        assert session.user.email == "admin@example.org"


async def test_without_it_nobody_gets_in(small_disk: Path) -> None:
    """What the test above would look like."""
    async with front(small_disk) as door:
        await door.sign_in_as("admin")
        greedy = fill(small_disk)
        with pytest.raises((sqlite3.OperationalError, CroftError)):
            await sign_in_often(door)
        greedy.unlink()


async def sign_in_often(door: Front) -> None:
    for _ in range(200):
        await door.sign_in_as("admin")
