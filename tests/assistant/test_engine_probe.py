"""The probe of the engine: what is loading, what is down, and what is merely busy."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.assembly_engine import engine_probe
from appliance.settings import Paths, Settings, load


@pytest.fixture
async def place() -> AsyncIterator[Settings]:
    """An appliance's folder with a place for the engine's socket; short, because of its path."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="croft-p-", dir="/tmp"))
    settings = load(Paths.under(folder))
    await asyncio.to_thread(settings.paths.socket("ai").parent.mkdir, parents=True)
    yield settings
    await asyncio.to_thread(shutil.rmtree, folder)


async def server(settings: Settings, answer: bytes | None) -> asyncio.Server:
    """An engine that gives this answer, or none."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()

    return await asyncio.start_unix_server(serve, settings.paths.socket("ai"))


async def test_loading_and_ready_are_told_apart_from_down(place: Settings) -> None:
    probe = engine_probe(place, docker=False, in_use=lambda: True)
    down = await probe()
    assert (down.healthy, down.timed_out) == (False, False)
    for status, healthy in ((b"503 Loading", False), (b"200 OK", True)):
        async with await server(place, b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"):
            found = await probe()
            assert found.healthy is healthy
            assert healthy or found.why == "status 503"


async def test_one_that_works_for_somebody_is_not_taken_for_hung(place: Settings) -> None:
    """A small machine may be too busy with an answer to say that it is well; the answer is not ended for that."""
    async with await server(place, None):
        held, left = await asyncio.gather(
            engine_probe(place, docker=False, in_use=lambda: True)(),
            engine_probe(place, docker=False, in_use=lambda: False)(),
        )
    assert (held.healthy, left.healthy) == (True, False)
