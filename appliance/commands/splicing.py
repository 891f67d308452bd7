"""From pipes into a run's record without passing through memory: for runs that write much.

Rule: a frame's head is written after its bytes, and what cannot be shown yet is cut off again, so that whoever reads the file
meanwhile finds whole frames and then nothing. Nothing here is for the event loop: a disk may make it wait.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from appliance.commands.display import LONGEST_SEQUENCE, complete
from appliance.commands.output import HEAD, PIECE

PIPE_BYTES = 1 << 20  # what an account without privileges may have (fcntl(2), F_SETPIPE_SZ)


def enlarge(pipe: int) -> None:
    """Let a pipe hold more, if the account's share of all pipes allows it; the usual size does as well, with more turns."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class Splicer:
    """The end of one record. Close it after use."""

    def __init__(self, path: Path, end: int) -> None:
        """``end`` is the offset where the next frame begins. Raises OSError."""
        self.end = end
        with contextlib.ExitStack() as undone:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            undone.callback(os.close, self._file)
            # A pipe is locked while it is written to a file, and who fills it waits: the pages go through one of ours first.
            self._out, self._in = os.pipe2(os.O_CLOEXEC)
            undone.pop_all()
        enlarge(self._in)

    def close(self) -> None:
        for fd in (self._file, self._out, self._in):
            os.close(fd)

    def take(self, pipe: int, most: int) -> int | None:
        """Take up to ``most`` bytes out of ``pipe`` for the next frame. Returns how many: 0 at its end; None when it holds none now."""
        try:
            return os.splice(pipe, self._in, min(most, PIPE_BYTES), flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return None

    def put(self, stream: int, before: bytes, size: int) -> bytes:
        """Make a frame of ``before`` and of the ``size`` bytes that were taken. Returns what cannot be shown without what follows.

        Raises OSError when the disk does not take it: nothing of it is in the file then, and this is of no more use."""
        try:
            return self._put(stream, before, size)
        except OSError:
            os.ftruncate(self._file, self.end)
            raise

    def _put(self, stream: int, before: bytes, size: int) -> bytes:
        start = self.end + HEAD.size
        self._write(before, start)
        self._splice(start + len(before), size)
        end = start + len(before) + size
        tail = os.pread(self._file, LONGEST_SEQUENCE, max(start, end - LONGEST_SEQUENCE))
        rest = tail[complete(tail) :]
        end -= len(rest)
        if end > start:
            self._write(HEAD.pack(stream, end - start), self.end)
            self.end = end
        if rest:
            os.ftruncate(self._file, self.end)
        return rest

    def _splice(self, at: int, size: int) -> None:
        while size:
            try:
                done = os.splice(self._out, self._file, size, offset_dst=at)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                done = self._write(os.read(self._out, PIECE), at)  # a file system that cannot
            at, size = at + done, size - done

    def _write(self, data: bytes, at: int) -> int:
        rest = memoryview(data)
        while rest:
            done = os.pwrite(self._file, rest, at)
            rest, at = rest[done:], at + done
        return len(data)
