"""Reading a service's log file by its descriptor: the last lines, and new ones as they come.

Rule: whatever a service writes (no newline ever, broken UTF-8, gigabytes), memory and line length stay
bounded, and the event loop never waits for the disk.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from appliance.services.model import LogLine

LONGEST = 16 * 1024  # bytes of one line
BLOCK = 64 * 1024
MOST_READ = 4 * 1024 * 1024  # bytes looked through for the last lines
LOOK_EVERY = 0.5  # seconds, while somebody follows
REOPEN_EVERY = 20  # looks; a file that was replaced is noticed then

OpenLog = Callable[[], Awaitable[int | None]]


class Lines:
    """Cuts a stream of bytes into lines; a line that is too long loses its end."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[LogLine]:
        """The lines that ``data`` completes."""
        *whole, rest = (self._rest + data).split(b"\n")
        if self._skipping and whole:
            whole = whole[1:]  # the end of a line whose beginning was given out already
            self._skipping = False
        lines = [_line(one) for one in whole]
        if len(rest) > LONGEST and not self._skipping:
            lines.append(_line(rest))
            self._skipping = True
        self._rest = b"" if self._skipping else rest
        return lines

    def forget(self) -> None:
        """The file began anew."""
        self._rest, self._skipping = b"", False


async def tail(fd: int, lines: int) -> list[LogLine]:
    """The last ``lines`` lines, an unfinished one included. ``fd`` stays open."""
    found, rest, _offset = await asyncio.to_thread(_tail, fd, lines)
    return [_line(one) for one in [*found, *([rest] if rest else [])]][-lines:] if lines else []


async def follow(open_log: OpenLog, lines: int, *, every: float = LOOK_EVERY) -> AsyncGenerator[LogLine, None]:
    """The last lines and then each new one, for as long as it is iterated; outlives truncation and
    replacement.

    ``open_log`` gives a descriptor to read, which is closed here, or None while there is no log yet.
    """
    wanted = lines
    while True:
        fd = await open_log()
        if fd is None:
            await asyncio.sleep(every)
            continue
        try:
            async with aclosing(_follow_one(fd, wanted, every)) as found:
                async for line in found:
                    if line is not None:
                        yield line
                    elif not await _same(fd, open_log):
                        break
        finally:
            os.close(fd)
        wanted = 1 << 20  # a file that took its place is new to us from its beginning


async def _follow_one(fd: int, lines: int, every: float) -> AsyncGenerator[LogLine | None, None]:
    """Lines of one file; None now and then, when it is time to see whether it is still the right file."""
    found, rest, offset = await asyncio.to_thread(_tail, fd, lines)
    for one in found[-lines:] if lines else []:
        yield _line(one)
    cutter = Lines()
    cutter.feed(rest)
    looks = 0
    while True:
        data, start = await asyncio.to_thread(_new, fd, offset)
        if start < offset:
            cutter.forget()
        offset = start + len(data)
        for line in cutter.feed(data):
            yield line
        if data:
            continue
        looks += 1
        if looks % REOPEN_EVERY == 0:
            yield None
        await asyncio.sleep(every)


async def _same(fd: int, open_log: OpenLog) -> bool:
    other = await open_log()
    if other is None:
        return True
    try:
        return os.path.samestat(os.fstat(fd), os.fstat(other))
    finally:
        os.close(other)


def _tail(fd: int, lines: int) -> tuple[list[bytes], bytes, int]:
    """At least the last ``lines`` whole lines as far as looked through, the unfinished one, and the file's
    size."""
    end = start = os.fstat(fd).st_size
    blocks: list[bytes] = []
    newlines = 0
    while start > 0 and newlines <= lines and end - start < MOST_READ:
        size = min(BLOCK, start)
        start -= size
        block = os.pread(fd, size, start)
        blocks.append(block)
        newlines += block.count(b"\n")
    *whole, rest = b"".join(reversed(blocks)).split(b"\n")
    if start > 0 and whole:
        whole = whole[1:]  # its beginning was not read
    return whole, rest[-LONGEST - 1 :], end


def _new(fd: int, offset: int) -> tuple[bytes, int]:
    """Up to a block from ``offset``, or from the beginning of a file that has become shorter; and where it
    began."""
    start = offset if os.fstat(fd).st_size >= offset else 0
    return os.pread(fd, BLOCK, start), start


def _line(raw: bytes) -> LogLine:
    cut = raw[:LONGEST].rstrip(b"\r").decode("utf-8", "replace")
    return LogLine(cut + "…" if len(raw) > LONGEST else cut)
