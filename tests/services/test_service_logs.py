"""Reading log files: real files that grow, shrink, are replaced and hold anything."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.services import logs
from appliance.services.logs import LONGEST, Lines


@contextmanager
def opened(path: Path):
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


async def tail(path: Path, lines: int) -> list[str]:
    with opened(path) as fd:
        return [line.text for line in await logs.tail(fd, lines)]


@pytest.mark.parametrize(
    ("content", "lines", "expected"),
    [
        (b"", 5, []),
        (b"\n", 5, [""]),
        (b"one", 5, ["one"]),
        (b"one\ntwo\n", 5, ["one", "two"]),
        (b"one\ntwo\n", 1, ["two"]),
        (b"one\ntwo\nthr", 2, ["two", "thr"]),
        (b"one\r\n", 1, ["one"]),
        (b"\xff\xfe ok\n", 1, ["�� ok"]),
        (b"one\n", 0, []),
    ],
)
async def test_tail(tmp_path, content, lines, expected) -> None:
    (tmp_path / "log").write_bytes(content)
    assert await tail(tmp_path / "log", lines) == expected


async def test_tail_of_a_large_file_reads_its_end_only(tmp_path) -> None:
    with (tmp_path / "log").open("wb") as file:
        for number in range(300_000):
            file.write(b"line %d of a log that is quite long\n" % number)
    found = await tail(tmp_path / "log", 50)
    assert len(found) == 50
    assert found[-1] == "line 299999 of a log that is quite long"


async def test_a_line_without_end_is_cut(tmp_path) -> None:
    (tmp_path / "log").write_bytes(b"x" * (logs.MOST_READ * 2) + b"\nlast\n")
    found = await tail(tmp_path / "log", 10)
    assert found[-1] == "last"
    assert all(len(line) <= LONGEST + 1 for line in found)


@given(st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=20), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_however_the_bytes_come_the_lines_are_the_same(lines, data) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cutter, found = Lines(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += cutter.feed(stream[:size])
        stream = stream[size:]
    assert [line.text for line in found] == [line.rstrip(b"\r").decode("utf-8", "replace") for line in lines]


def test_a_long_line_is_given_once_and_the_next_one_is_whole() -> None:
    cutter = Lines()
    found = cutter.feed(b"x" * (LONGEST + 5)) + cutter.feed(b"x" * LONGEST * 3) + cutter.feed(b"y\nnext\n")
    assert [len(line.text) for line in found] == [LONGEST + 1, 4]
    assert found[-1].text == "next"


class Following:
    """Collects what follow() gives, in the background."""

    def __init__(self, path: Path, lines: int) -> None:
        self.path, self.found = path, []
        self.task = asyncio.create_task(self._run(lines))

    async def _open(self) -> int | None:
        try:
            return os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return None

    async def _run(self, lines: int) -> None:
        async with aclosing(logs.follow(self._open, lines, every=0.005)) as stream:
            async for line in stream:
                self.found.append(line.text)

    async def until(self, *expected: str) -> None:
        async with asyncio.timeout(10):
            while self.found != list(expected):  # noqa: ASYNC110 - another task appends
                await asyncio.sleep(0.005)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


async def test_follow_gives_the_last_lines_and_then_each_new_one(tmp_path) -> None:
    path = tmp_path / "log"
    append(path, b"old\none\ntwo\nhalf")
    following = Following(path, 2)
    await following.until("one", "two")
    append(path, b" and half\n\xff\n")
    await following.until("one", "two", "half and half", "�")
    await following.end()


async def test_follow_outlives_truncation_replacement_and_a_log_that_is_not_there_yet(tmp_path) -> None:
    path = tmp_path / "log"
    following = Following(path, 10)
    await asyncio.sleep(0.02)
    append(path, b"first line of all\n")
    await following.until("first line of all")
    os.truncate(path, 0)
    await asyncio.sleep(0.05)
    append(path, b"after\n")
    await following.until("first line of all", "after")
    path.rename(tmp_path / "log.1")
    append(path, b"new file\n")
    await following.until("first line of all", "after", "new file")
    await following.end()


async def test_following_leaves_no_descriptor_behind(tmp_path) -> None:
    path = tmp_path / "log"
    append(path, b"one\n")
    before = descriptors()
    for _ in range(5):
        following = Following(path, 1)
        await following.until("one")
        await following.end()
    assert descriptors() == before
