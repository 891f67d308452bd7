"""What a run wrote, on disk: one file of frames (stream, length, bytes), read from any offset while it grows or later.

Rule: an event id is an offset in the file, so a reader that comes back misses nothing and sees nothing twice. A frame is there
once its head is: whoever writes puts the head down last, or at the end of the file.
"""

from __future__ import annotations

import asyncio
import io
import os
import struct
from collections.abc import AsyncGenerator
from pathlib import Path

from msgspec import Struct

from appliance.commands import display

STDOUT, STDERR = 1, 2
CHUNK = 256 * 1024  # bytes read of a file at once
PIECE = 64 * 1024  # bytes of a pipe that pass through memory at once
HEAD = struct.Struct(">BI")
# Larger frames are told in slices; those that passed through memory, with what was held back before, are told whole.
_SLICE = PIECE + display.LONGEST_SEQUENCE
_AHEAD = 4096  # bytes read with a head: many small frames at once, and of a large one little in vain


class Frame(Struct, frozen=True):
    """Bytes of one stream that can be shown by themselves. ``end`` is the offset just after them: the id of their event."""

    stream: int
    data: bytes
    end: int


class Span(Struct, frozen=True):
    """Where bytes of one stream are in the file: ``size`` of them from offset ``start`` on."""

    stream: int
    start: int
    size: int


class Reader:
    """Reads a record in order, frame by frame. Blocks on the disk."""

    def __init__(self, path: Path, after: int = 0) -> None:
        """From the first frame that ends after offset ``after`` on: a reader may come back with any number.

        Raises FileNotFoundError where nothing was written."""
        self._file = io.FileIO(path, opener=_no_link)
        self._after = after
        self._at = 0
        self._part: Span | None = None  # what is left of a frame that was read in part
        self._data, self._begin = b"", 0

    def close(self) -> None:
        self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()

    def go(self, at: int) -> None:
        """Read on from offset ``at``, where a frame begins."""
        self._at, self._part = at, None

    def span(self) -> Span | None:
        """What comes next; None at the end of what is there."""
        if self._part is not None:
            return self._part
        for _ in range(2):  # what was read ahead may be older than the head
            head = self._read(self._at, HEAD.size, _AHEAD)
            if len(head) == HEAD.size:
                stream, size = HEAD.unpack(head)
                found = Span(stream, self._at + HEAD.size, size)
                if stream in (STDOUT, STDERR) and found.start + size <= os.fstat(self.fileno()).st_size:
                    return found
            self._data = b""  # a power cut, or a frame that is about to be there
        return None

    def take(self, span: Span, size: int) -> int:
        """Go past the first ``size`` bytes of what comes next. Returns the offset after them."""
        self._at = span.start + size
        self._part = Span(span.stream, self._at, span.size - size) if size < span.size else None
        return self._at

    def more(self) -> list[Frame]:
        """The next frames, about a chunk of them; empty at the end of what is there."""
        found: list[Frame] = []
        size = 0
        while size < CHUNK and (span := self.span()):
            if span.start + span.size <= self._after:
                self.take(span, span.size)
                continue
            data = self._read(span.start, min(span.size, _SLICE), CHUNK)
            if len(data) < span.size:
                data = data[: display.complete(data)]
            end = self.take(span, len(data))
            if end > self._after:
                found.append(Frame(span.stream, data, end))
                size += len(data) + HEAD.size
        return found

    def _read(self, start: int, size: int, ahead: int) -> bytes:
        place = start - self._begin
        if place < 0 or place + size > len(self._data):
            self._data, self._begin, place = os.pread(self.fileno(), max(size, ahead), start), start, 0
        return self._data[place : place + size]


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def frames_at(path: Path, after: int) -> list[Frame]:
    """About a chunk of a record from offset ``after`` on; empty at its end. Blocks on the disk."""
    try:
        reader = Reader(path, after)
    except FileNotFoundError:
        return []
    try:
        return reader.more()
    finally:
        reader.close()


async def saved(path: Path, after: int) -> AsyncGenerator[list[Frame], None]:
    """The frames of a record from offset ``after`` on."""
    try:
        reader = await asyncio.to_thread(Reader, path, after)
    except FileNotFoundError:
        return
    try:
        while frames := await asyncio.to_thread(reader.more):
            yield frames
    finally:
        reader.close()
