"""A full disk seen from the pages: people can look and sign out, what must be recorded does not happen, and all heals by itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.front import Front, front

from appliance.errors import CroftError


@pytest.fixture
async def small() -> AsyncIterator[Front]:
    """A front whose state lies on a file system of 2 MiB. Needs root."""
    assert os.geteuid() == 0, "mounting a small disk needs root; ./tests/run runs as root"
    folder = Path(tempfile.mkdtemp(prefix="croft-"))
    await asyncio.to_thread(
        subprocess.run, ["mount", "-t", "tmpfs", "-o", "size=2m", "croft-test", str(folder)], check=True
    )
    try:
        async with front(folder) as opened:
            yield opened
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", str(folder)], check=True)
        shutil.rmtree(folder)


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while os.write(fd, b"x" * 4096):
            pass
    os.close(fd)
    return filler


async def test_a_full_disk(small: Front) -> None:
    """R10, LOG-3."""
    _, cookie = await small.sign_in_as("admin")
    leaving, leaver = await small.sign_in_as("operator")
    filler = fill(small.folder)
    with suppress(CroftError):
        for _ in range(3000):  # the log file has room until it has to grow
            await small.audit.note("export", "test", what="x" * 2000)
    async with small.ask(
        "POST", "/api/services/ide/stop", cookie, headers={"Content-Type": "application/json"}
    ) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "audit_unavailable")
    assert str(small.services.view("ide").want) != "stop", "what could not be recorded did not happen"
    for path in ("/", "/machine", "/sessions", "/api/status", "/api/users", "/api/audit", "/healthz"):
        async with small.ask("GET", path, cookie) as answer:
            assert answer.status == 200, path
    async with small.ask("POST", "/sign-out", leaver, data={}) as answer:
        assert answer.status == 503
    assert leaving.ended
    filler.unlink()
    await small.sessions.save()
    async with small.ask(
        "POST", "/api/services/ide/stop", cookie, headers={"Content-Type": "application/json"}
    ) as answer:
        assert answer.status == 200
    assert await small.store.database.row("SELECT 1 FROM sessions WHERE id = ?", (leaving.id,)) is None
    assert await small.audit.verify() is None
