"""Room kept for the writes that must go on when somebody has filled the disk: signing in, the audit log (R10).

A file of real blocks, given up the moment a write finds too little room and made again once there is plenty. Rule: it
never stands in the way of a write, and what fails about it is logged, not raised.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

MOST = 64 << 20  # bytes: months of signing in and auditing
SHARE = 32  # of a disk too small for that
AGAIN = 4  # made again when so many times its size is free


class Reserve:
    """``path`` lies on the disk that it is for. Its methods block for as long as a file takes to be made or removed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = min(MOST, self._room().f_blocks * self._room().f_frsize // SHARE)
        self.held = self._is_whole()

    def make_room(self) -> None:
        """Give it up if next to nothing else is free. Cheap: before every write."""
        if not self.held or self._free() >= self.size // AGAIN:
            return
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self.held = False
        log.error("the disk is full: the reserve is given up", extra={"bytes": self.size})

    def keep(self) -> None:
        """Make it, or make it again, if there is room for it and for others."""
        if self.held or self._free() < self.size * AGAIN:
            return
        try:
            self._make()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._path.unlink()
            log.warning("cannot make the reserve", extra={"cause": error.strerror})
        self.held = self._is_whole()

    def _make(self) -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self.size)
        finally:
            os.close(fd)

    def _is_whole(self) -> bool:
        try:
            return self._path.stat(follow_symlinks=False).st_blocks * 512 >= self.size
        except OSError:
            return False

    def _free(self) -> int:
        room = self._room()
        return room.f_bavail * room.f_frsize

    def _room(self) -> os.statvfs_result:
        return os.statvfs(self._path.parent)
