"""What a run writes: read as it comes, kept up to a cap, its newest part in memory, told to any number of readers.

Rules: reading never waits for a disk or a reader. Beyond the cap everything is read and thrown away, so the run goes on and
memory stays flat. On disk each run is one file of frames (stream, length, bytes); an event id is an offset in it, so a
reader that comes back misses nothing and sees nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

from msgspec import Struct

from appliance.commands import display

log = logging.getLogger(__name__)

STDOUT, STDERR = 1, 2
RING = 512 * 1024  # bytes of the newest output that live readers get from memory
WAITING_FOR_DISK = 4 << 20  # bytes; more than that is not read until the disk has taken some
CHUNK = 256 * 1024  # bytes read of a file at once
# Bytes read of a pipe at once. Larger ones are memory the kernel hands out anew each time, page by page: half of all the work.
PIECE = 64 * 1024
BURST = 16  # pieces in one turn of the event loop: what a pipe holds
BUSY = 16 * 1024  # bytes in one turn: whoever writes that much is read again a moment later, in larger pieces
BREATH = 0.002  # seconds; what a pipe of 1 MiB takes meanwhile is half a gigabyte a second
_HEAD = struct.Struct(">BI")
_AT_ONCE = 256  # frames in one call of writev(2), which takes 1024 parts


class Frame(Struct, frozen=True):
    """Bytes of one stream. ``end`` is the offset just after it: the id of the event it is told in."""

    stream: int
    data: bytes
    end: int

    @property
    def start(self) -> int:
        return self.end - len(self.data) - _HEAD.size


class Output:
    """The output of one live run. Made empty; fed by :meth:`read_from` or :meth:`feed`; over when :meth:`ended` returns."""

    def __init__(self, path: Path, cap: int) -> None:
        """``cap`` is in bytes, of both streams together."""
        self.path = path
        self.written = {STDOUT: 0, STDERR: 0}  # bytes the run wrote, kept or not
        self.truncated = False
        self.offset = 0
        self._room = cap
        self._tail = {STDOUT: b"", STDERR: b""}
        self._ring: deque[Frame] = deque()
        self._ring_bytes = 0
        self._unsaved: deque[Frame] = deque()
        self._unsaved_bytes = 0
        self._saving: asyncio.Task[None] | None = None
        self._open: dict[int, int] = {}  # descriptor to stream
        self._paused = False
        self._stirred = asyncio.Event()
        self._over = asyncio.Event()
        self.done = False

    # The writing side

    def read_from(self, pipes: dict[int, int]) -> None:
        """Take over descriptors (each with its stream) and read them to their ends."""
        for fd, stream in pipes.items():
            os.set_blocking(fd, False)
            self._open[fd] = stream
        self._watch()

    def feed(self, stream: int, data: bytes) -> None:
        """Bytes from elsewhere than a pipe. Empty ones mean that this stream has ended."""
        if not data:
            tail, self._tail[stream] = self._tail[stream], b""
            self._keep(stream, tail)
            return
        self.written[stream] += len(data)
        if self._room <= 0:
            self.truncated = True
            return
        whole = self._tail[stream] + data
        cut = display.complete(whole)
        if len(whole) - cut > display.LONGEST_SEQUENCE:
            cut = len(whole)
        self._tail[stream] = whole[cut:]
        self._keep(stream, whole[:cut])

    def close(self) -> None:
        """Read no more: what the pipes still hold is lost."""
        for fd in list(self._open):
            self._close(fd)
        self._finish()

    async def ended(self) -> None:
        """Wait until everything was read and is on disk."""
        await self._over.wait()
        while self._saving is not None:
            await asyncio.wait({self._saving})
        self.done = True
        self._stir()

    def end(self) -> None:
        """For what was fed: there is no more."""
        self._finish()

    # The reading side

    async def follow(self, after: int) -> AsyncGenerator[list[Frame], None]:
        """Frames from offset ``after`` on, until the run's end."""
        at, known = max(0, min(after, self.offset)), False
        while True:
            frames = self._newest(at)
            if frames is None:
                frames = await asyncio.to_thread(_aligned if not known else frames_at, self.path, at)
                if not frames:  # the disk did not take it
                    frames = list(self._ring)[:1]
            if frames:
                at, known = frames[-1].end, True
                yield frames
            elif self.done:
                return
            else:
                await self._stirred.wait()

    # Inside

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        for fd in self._open:
            loop.add_reader(fd, self._readable, fd)

    def _readable(self, fd: int) -> None:
        stream, size = self._open[fd], 0
        for _ in range(BURST):
            try:
                data = os.read(fd, PIECE)
            except BlockingIOError:
                break
            self.feed(stream, data)
            if not data:
                self._close(fd)
                if not self._open:
                    self._finish()
                return
            size += len(data)
        self._took(fd, size)

    def _took(self, fd: int, size: int) -> None:
        if self._unsaved_bytes > WAITING_FOR_DISK:
            self._pause()
        elif size > BUSY:
            loop = asyncio.get_running_loop()
            loop.remove_reader(fd)
            loop.call_later(BREATH, self._read_on, fd)

    def _read_on(self, fd: int) -> None:
        if fd in self._open and not self._paused:
            asyncio.get_running_loop().add_reader(fd, self._readable, fd)

    def _keep(self, stream: int, data: bytes) -> None:
        if len(data) > self._room:
            data, self.truncated = data[: self._room], True
        if not data:
            return
        self._room -= len(data)
        self.offset += _HEAD.size + len(data)
        frame = Frame(stream, data, self.offset)
        self._ring.append(frame)
        self._ring_bytes += len(data)
        self._unsaved.append(frame)
        self._unsaved_bytes += len(data)
        if self._saving is None:
            self._saving = asyncio.create_task(self._save(), name="run output")
        self._trim()
        self._stir()

    def _trim(self) -> None:
        """Forget the oldest frames in memory, but for those the disk does not have yet."""
        saved = self._unsaved[0].start if self._unsaved else self.offset
        while self._ring_bytes > RING and self._ring[0].end <= saved:
            self._ring_bytes -= len(self._ring.popleft().data)

    async def _save(self) -> None:
        try:
            while self._unsaved:
                frames = list(self._unsaved)
                await asyncio.to_thread(_append, self.path, frames)
                for _ in frames:
                    self._unsaved_bytes -= len(self._unsaved.popleft().data)
                self._trim()
                if self._paused:
                    self._paused = False
                    self._watch()
        except OSError as error:
            # A full disk costs the output, not the run: from here on it is read and thrown away.
            log.error("cannot keep the output of a run", exc_info=error)
            self._room, self.truncated = 0, True
            self._unsaved.clear()
            self._unsaved_bytes = 0
            if self._paused:
                self._paused = False
                self._watch()
        finally:
            self._saving = None

    def _pause(self) -> None:
        self._paused = True
        for fd in self._open:
            asyncio.get_running_loop().remove_reader(fd)

    def _close(self, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        del self._open[fd]
        os.close(fd)

    def _finish(self) -> None:
        for stream in self._tail:
            self.feed(stream, b"")
        self._over.set()

    def _newest(self, at: int) -> list[Frame] | None:
        """Frames in memory from ``at`` on; None where they begin later."""
        if at >= self.offset:
            return []
        if not self._ring or self._ring[0].start > at:
            return None
        found: list[Frame] = []
        for frame in reversed(self._ring):
            if frame.end <= at:
                break
            found.append(frame)
        return found[::-1]

    def _stir(self) -> None:
        self._stirred.set()
        self._stirred = asyncio.Event()


def frames_at(path: Path, at: int) -> list[Frame]:
    """Whole frames of a kept output from offset ``at``, about a chunk of them; empty at its end. Blocks on the disk."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    with contextlib.closing(os.fdopen(fd, "rb", buffering=0)) as file:
        file.seek(at)
        return list(_frames(file.read(CHUNK + _HEAD.size) or b"", at, file.fileno()))


async def saved(path: Path, after: int) -> AsyncGenerator[list[Frame], None]:
    """The frames of a kept output from offset ``after`` on."""
    frames = await asyncio.to_thread(_aligned, path, after)
    while frames:
        yield frames
        frames = await asyncio.to_thread(frames_at, path, frames[-1].end)


def _frames(data: bytes, at: int, fd: int) -> Iterator[Frame]:
    place = 0
    while place + _HEAD.size <= len(data):
        stream, length = _HEAD.unpack_from(data, place)
        body = data[place + _HEAD.size : place + _HEAD.size + length]
        if len(body) < length:
            if place:
                return  # the rest comes with the next read
            body += os.pread(fd, length - len(body), at + _HEAD.size + len(body))
        if stream not in (STDOUT, STDERR) or len(body) < length:
            return  # cut off by a power cut
        place += _HEAD.size + length
        yield Frame(stream, body, at + place)


def _aligned(path: Path, at: int) -> list[Frame]:
    """As :func:`frames_at`, from the first frame that ends after ``at``: a reader may come back with any number."""
    place = 0
    while place < at:
        frames = frames_at(path, place)
        if not frames:
            return []
        for number, frame in enumerate(frames):
            if frame.end > at:
                return frames[number:]
        place = frames[-1].end
    return frames_at(path, at)


def _append(path: Path, frames: list[Frame]) -> None:
    """Write whole frames or none: what a full disk took of one is cut off again."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        before = os.fstat(fd).st_size
        try:
            for start in range(0, len(frames), _AT_ONCE):
                _write(fd, frames[start : start + _AT_ONCE])
        except OSError:
            os.ftruncate(fd, before)
            raise
    finally:
        os.close(fd)


def _write(fd: int, frames: list[Frame]) -> None:
    parts = [part for one in frames for part in (_HEAD.pack(one.stream, len(one.data)), one.data)]
    done = os.writev(fd, parts)
    if done < sum(map(len, parts)):  # a signal, or a disk that is nearly full and says so with the next byte
        rest = memoryview(b"".join(parts))[done:]
        while rest:
            rest = rest[os.write(fd, rest) :]
