"""An engine that was taken over, by a model made for that: what it says of itself and what it plants beside the models."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.assistant import choice, gguf
from appliance.assistant.choice import Choice
from appliance.assistant.engine import EngineState
from appliance.assistant.engine_http import idle_backend, idle_slots
from appliance.assistant.local_engine import WORDS, LocalEngine, Look, Place
from appliance.errors import Invalid, Unavailable


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="croft-u-", dir="/tmp"))  # a socket's address is short
    yield made
    shutil.rmtree(made)


class AtRest:
    """A service that sleeps."""

    def look(self) -> Look:
        return Look(EngineState.ASLEEP)


def status_of(models: Path) -> str:
    return LocalEngine(AtRest(), models, None, None, None).status().reason  # type: ignore[arg-type]


def test_what_is_planted_in_the_place_of_a_model_is_none_and_holds_nobody_up(folder: Path) -> None:
    """AI-8: opened as it came, a pipe would stop the daemon until somebody writes into it."""
    choice.write(folder, Choice("m", "m.gguf", 512))
    file = folder / "m.gguf"
    os.mkfifo(file)
    assert status_of(folder) == "no_model"
    with pytest.raises(Invalid):
        gguf.read(file)
    file.unlink()
    (folder / "real").write_bytes(b"GGUF and more")
    file.symlink_to(folder / "real")
    assert status_of(folder) == "no_model"
    file.unlink()
    file.mkdir()
    assert status_of(folder) == "no_model"
    file.rmdir()
    (folder / "real").rename(file)
    assert status_of(folder) == ""


@pytest.mark.parametrize("planted", ["[" * 4096, "\xff", "{}", "a folder", "a link"])
def test_what_is_planted_in_the_place_of_the_choice_is_a_problem_with_words(folder: Path, planted: str) -> None:
    """AI-8: the engine's account may write into the folder; what it leaves there must not take the page Models down."""
    path = folder / choice.NAME
    if planted == "a folder":
        path.mkdir()
    elif planted == "a link":
        (folder / "elsewhere").write_text("{}")
        path.symlink_to(folder / "elsewhere")
    else:
        path.write_text(planted, encoding="latin-1")
    assert status_of(folder) == "unclear"
    assert WORDS["unclear"]
    if planted != "a folder":
        choice.write(folder, Choice("m", "m.gguf", 512))  # where it is not another account's it is replaced
        assert status_of(folder) == "no_model"
    if planted == "a link":
        assert (folder / "elsewhere").read_text() == "{}"


@pytest.mark.parametrize(
    "said",
    [b"\r\n\r\n", b"HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n{}", b"HTTP/1.0 200 OK\r\n\r\n7",
     b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 100_000],
)  # fmt: skip
async def test_what_cannot_be_read_is_no_answer(folder: Path, said: bytes) -> None:
    """AI-13: whoever asks whether it works hears that this cannot be told, and never fails over it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    place = Place("http://engine/v1", socket=folder / "ai.sock")
    async with await asyncio.start_unix_server(serve, place.socket):
        with pytest.raises(Unavailable):
            await idle_slots(place, "m")


async def test_slots_that_are_none_count_as_busy(folder: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n[null]")
        writer.close()

    place = Place("http://engine/v1", socket=folder / "ai.sock")
    async with await asyncio.start_unix_server(serve, place.socket):
        assert not await idle_slots(place, "m")
        assert await idle_backend(place, "m") is None, "LocalAI says nothing: the processor's time tells"
