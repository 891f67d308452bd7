"""The record of a run where things go wrong around it: nothing is missed in silence, and every run comes to its end."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from support.waiting import until

from appliance.commands import recording
from appliance.commands.output import HEAD, STDOUT, Frame, Reader, saved
from appliance.commands.recording import Output
from appliance.commands.splicing import Splicer


def test_what_came_since_the_reader_read_ahead_is_told(tmp_path: Path) -> None:
    """The bytes of the last frame are there when the reader passes by, its head is not yet."""
    part = b"x" * 60_000
    frame = HEAD.pack(STDOUT, len(part)) + part
    path = tmp_path / "run"
    path.write_bytes(frame * 5 + bytes(HEAD.size) + part)
    with path.open("r+b", buffering=0) as writer:
        reader = Reader(path)
        try:
            assert len(reader.more()) == 5
            os.pwrite(writer.fileno(), HEAD.pack(STDOUT, len(part)), 5 * len(frame))
            assert reader.more() == [Frame(STDOUT, part, 6 * len(frame))]
            assert reader.more() == []
        finally:
            reader.close()


@pytest.mark.parametrize("size", [1000, 60_000], ids=["little", "much"])
async def test_a_machine_without_one_more_thread_costs_the_output_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """What comes of what was asked of a thread that could not start, once there are some again, is a whole record."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())  # no thread of it has started yet
    output, write = written_to(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        os.write(write, b"x" * size)
        await until(lambda: output.truncated, "it is given up", 5)
        os.write(write, b"y" * size)
        os.close(write)
        await asyncio.wait_for(output.ended(), 5)
    assert (output.written[STDOUT], output.truncated) == (2 * size, True)
    told = [frame async for some in output.follow(0) for frame in some]
    kept = [frame async for some in saved(output.path, 0) for frame in some]
    assert kept == told[: len(kept)]


async def test_no_thread_to_move_much_costs_the_output_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before is kept."""
    output, write = written_to(tmp_path)
    in_thread = asyncio.to_thread

    async def refused(work, *what):  # type: ignore[no-untyped-def]
        if getattr(work, "__name__", "") == "_move":
            no_thread()
        return await in_thread(work, *what)

    monkeypatch.setattr(asyncio, "to_thread", refused)
    os.write(write, b"x" * 60_000)
    await until(lambda: output.truncated, "it is given up", 5)
    os.write(write, b"y" * 60_000)
    os.close(write)
    await asyncio.wait_for(output.ended(), 5)
    assert output.written[STDOUT] == 120_000
    assert [frame.data async for some in saved(output.path, 0) for frame in some] == [b"x" * 60_000]


async def test_closing_ends_an_output_that_failed_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> int:
        raise MemoryError

    # Told of by the collector otherwise, in the middle of whatever test it comes in.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    monkeypatch.setattr(Splicer, "take", fails)
    output, write = written_to(tmp_path)
    os.write(write, b"x" * 60_000)
    await until(lambda: output.written[STDOUT], "it is read", 5)
    await until(lambda: "much output" not in [task.get_name() for task in asyncio.all_tasks()], "it has failed", 5)
    output.close()
    await asyncio.wait_for(output.ended(), 5)
    os.close(write)


async def test_what_is_lost_after_a_disk_that_stood_still_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is over and let go before the disk took its first bytes: the others are still in the pipe."""
    goes_on, append = threading.Event(), recording._append

    def stands_still(path: Path, frames: list[Frame]) -> None:
        goes_on.wait(10)
        append(path, frames)

    monkeypatch.setattr(recording, "_append", stands_still)
    output, write = written_to(tmp_path)
    os.write(write, b"x" * 60_000)
    await until(lambda: output.written[STDOUT], "it is read", 5)
    os.write(write, b"y" * 60_000)
    os.close(write)
    output.close()
    goes_on.set()
    await asyncio.wait_for(output.ended(), 5)
    assert [frame.data async for some in saved(output.path, 0) for frame in some] == [b"x" * 60_000]
    assert output.truncated


def test_too_few_descriptors_leave_none_open(tmp_path: Path) -> None:
    """One is left for the record, none for the pipe."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    with ExitStack() as undone:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 3, hard))
        undone.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with suppress(OSError):
            while True:
                undone.callback(os.close, last := os.dup(0))
        os.close(last)
        with pytest.raises(OSError, match="Too many open files"):
            Splicer(tmp_path / "run", 0)
        assert os.dup(0) == last


def written_to(folder: Path) -> tuple[Output, int]:
    """An output, and the end of the pipe that it reads."""
    output = Output(folder / "run", 1 << 20)
    read, write = os.pipe2(os.O_CLOEXEC)
    output.read_from({read: STDOUT})
    return output, write


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")
