"""The output of a live run: read as it comes, kept up to a cap, told to any number of readers.

Rules: reading never waits for a reader, nor the event loop for a disk. Beyond the cap everything is read and thrown away, so the
run goes on and memory stays flat. A little goes through memory, where readers get its newest part at once; much goes from pipe
to file in a thread (:mod:`splicing`), and readers get it from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Collection
from pathlib import Path

from appliance.commands import display
from appliance.commands.output import HEAD, PIECE, STDERR, STDOUT, Frame, Reader
from appliance.commands.splicing import Splicer, enlarge

log = logging.getLogger(__name__)

RING = 512 * 1024  # bytes of the newest output that live readers get from memory
WAITING_FOR_DISK = 4 << 20  # bytes; more than that is not read until the disk has taken them
BURST = 16  # pieces in one turn of the event loop
BUSY = 16 * 1024  # bytes in one turn: whoever writes that much is read in a thread until it is less
TURN = 0.005  # seconds that a thread moves before readers are told
MOMENT = 0.0003  # seconds in which the quickest fill a pipe of 1 MiB: a thread waits so long for them
BREATH = 0.002  # seconds between turns where nobody is that quick
_AT_ONCE = 256  # frames in one call of writev(2), which takes 1024 parts


class Output:
    """The output of one live run. Made empty; fed by :meth:`read_from` or :meth:`feed`; over when :meth:`ended` returns."""

    def __init__(self, path: Path, cap: int) -> None:
        """``cap`` is in bytes, of both streams together."""
        self.path = path
        self.written = {STDOUT: 0, STDERR: 0}  # bytes the run wrote, kept or not
        self.truncated = False
        self.offset = 0
        self.done = False
        self._room = cap
        self._tail = {STDOUT: b"", STDERR: b""}
        self._ring: deque[Frame] = deque()
        self._ring_bytes = 0
        self._unsaved: deque[Frame] = deque()
        self._unsaved_bytes = 0
        self._open: dict[int, int] = {}  # descriptor to stream
        self._saving: asyncio.Task[None] | None = None
        self._moving: asyncio.Task[None] | None = None
        self._closing = False
        self._stirred = asyncio.Event()
        self._landed = asyncio.Event()
        self._over = asyncio.Event()

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
        self._tail[stream] = whole[cut:]
        self._keep(stream, whole[:cut])

    def close(self) -> None:
        """Read no more: what the pipes still hold is lost, and said to be."""
        self._closing = True
        if self._moving is None or self._moving.done():  # the thread's turn comes to its end first
            self.truncated = self.truncated or bool(self._open)
            self._close(list(self._open))
            self._finish()

    async def ended(self) -> None:
        """Wait until everything was read and is on disk."""
        await self._over.wait()
        while self._saving is not None:
            await asyncio.wait({self._saving})
        self.done = True
        self._land()
        self._stir()

    def end(self) -> None:
        """For what was fed: there is no more."""
        self._finish()

    # The reading side

    async def follow(self, after: int) -> AsyncGenerator[list[Frame], None]:
        """Frames from offset ``after`` on, until the run's end."""
        at = max(0, min(after, self.offset))
        reader: Reader | None = None
        try:
            while True:
                frames = self._newest(at)
                if frames is None:
                    if reader is None:
                        reader = await asyncio.to_thread(Reader, self.path, at)
                    frames = await asyncio.to_thread(reader.more) or list(self._ring)[:1]  # the disk did not take it
                elif frames and reader:
                    reader.go(frames[-1].end)
                if frames:
                    at = frames[-1].end
                    yield frames
                elif self.done:
                    return
                else:
                    await self._stirred.wait()
        finally:
            if reader is not None:
                reader.close()

    async def landed(self, at: int) -> int:
        """Wait until the file is larger than ``at`` bytes. Returns how large; 0 when it grows no more."""
        while self._saved <= at:
            if self.done:
                return 0
            await self._landed.wait()
        return self._saved

    # Inside: a little at a time

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        for fd in self._open:
            loop.add_reader(fd, self._readable, fd)

    def _readable(self, fd: int) -> None:
        size = self._read(fd)
        if fd in self._open and (size > BUSY or self._unsaved_bytes > WAITING_FOR_DISK):
            for each in self._open:
                asyncio.get_running_loop().remove_reader(each)
                enlarge(each)
            self._moving = asyncio.create_task(self._keep_up(), name="much output")

    def _read(self, fd: int) -> int:
        """Read what a pipe holds, and close it at its end. Returns the bytes."""
        stream, size = self._open[fd], 0
        for _ in range(BURST):
            try:
                data = os.read(fd, PIECE)
            except BlockingIOError:
                break
            if not data:
                self._close([fd])
                break
            self.feed(stream, data)
            size += len(data)
        return size

    def _keep(self, stream: int, data: bytes) -> None:
        if len(data) > self._room:
            data, self.truncated = data[: self._room], True
        if not data:
            return
        self._room -= len(data)
        self.offset += HEAD.size + len(data)
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
        while self._ring_bytes > RING and self._ring[0].end <= self._saved:
            self._ring_bytes -= len(self._ring.popleft().data)

    @property
    def _saved(self) -> int:
        return _start(self._unsaved[0]) if self._unsaved else self.offset

    async def _save(self) -> None:
        try:
            while self._unsaved:
                frames = list(self._unsaved)
                await asyncio.to_thread(_append, self.path, frames)
                for _ in frames:
                    self._unsaved_bytes -= len(self._unsaved.popleft().data)
                self._trim()
                self._land()
        except (OSError, RuntimeError) as error:
            self._unsaved.clear()
            self._unsaved_bytes = 0
            self._give_up(error)
        finally:
            self._saving = None

    # Inside: much at a time

    async def _keep_up(self) -> None:
        """Move it, or throw it away, until it is little again."""
        while self._saving is not None:
            await asyncio.wait({self._saving})
        while self._open and not self._closing:
            before = sum(self.written.values())
            emptied = await self._turn()
            if sum(self.written.values()) - before <= BUSY:
                break
            if emptied:
                await asyncio.sleep(BREATH)
        self._moving = None
        if self._closing:
            self.close()
        else:
            self._watch()

    async def _turn(self) -> bool:
        """Whether the pipes were emptied."""
        if self._room <= sum(map(len, self._tail.values())):
            for fd in list(self._open):
                self._read(fd)
            return True
        try:
            ended, emptied = await asyncio.to_thread(self._move)
        except (OSError, RuntimeError) as error:
            self._give_up(error)
            return True
        if not self._ring or self._ring[-1].end < self.offset:
            self._ring.clear()
            self._ring_bytes = 0
        self._land()
        self._stir()
        self._close(ended)
        return emptied

    def _move(self) -> tuple[set[int], bool]:
        """Descriptors that ended, and whether little is left. Meanwhile nothing here is changed by anybody else."""
        ended: set[int] = set()
        until, waited = time.monotonic() + TURN, False
        with contextlib.closing(Splicer(self.path, self.offset)) as splicer:
            while time.monotonic() < until:
                if sum([self._moved(splicer, fd, ended) for fd in self._open if fd not in ended]) > BUSY:
                    waited = False
                elif waited or len(ended) == len(self._open):
                    return ended, True
                else:
                    waited = True
                    time.sleep(MOMENT)
        return ended, False

    def _moved(self, splicer: Splicer, fd: int, ended: set[int]) -> int:
        stream = self._open[fd]
        before = self._tail[stream]
        most = self._room - len(before)
        size = splicer.take(fd, most) if most > 0 else None
        if not size:
            if size == 0:
                ended.add(fd)
            return 0
        self.written[stream] += size
        rest = self._tail[stream] = splicer.put(stream, before, size)
        self._room -= len(before) + size - len(rest)
        self.offset = splicer.end
        return size

    # Inside: both

    def _give_up(self, error: Exception) -> None:
        """A full disk, or a machine without one more thread, costs the output, not the run: from here on it is read and thrown away."""
        log.error("cannot keep the output of a run", exc_info=error)
        self._room, self.truncated = 0, True

    def _close(self, fds: Collection[int]) -> None:
        for fd in fds:
            asyncio.get_running_loop().remove_reader(fd)
            del self._open[fd]
            os.close(fd)
        if fds and not self._open:
            self._finish()

    def _finish(self) -> None:
        for stream in self._tail:
            self.feed(stream, b"")
        self._over.set()

    def _newest(self, at: int) -> list[Frame] | None:
        """Frames in memory from ``at`` on; None where they begin later."""
        if at >= self.offset:
            return []
        if not self._ring or _start(self._ring[0]) > at:
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

    def _land(self) -> None:
        self._landed.set()
        self._landed = asyncio.Event()


def _start(frame: Frame) -> int:
    return frame.end - len(frame.data) - HEAD.size


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
    parts = [part for one in frames for part in (HEAD.pack(one.stream, len(one.data)), one.data)]
    done = os.writev(fd, parts)
    if done < sum(map(len, parts)):  # a signal, or a disk that is nearly full and says so with the next byte
        rest = memoryview(b"".join(parts))[done:]
        while rest:
            rest = rest[os.write(fd, rest) :]
