"""A file on its way: the part that is here, its running digest, and a note of what it is a part of.

Rules: the final name appears only with the whole, checked file behind it. What an earlier process left counts only after it has been
read and digested again, and only for the same address.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

from appliance import keys

BLOCK = 1 << 20
_NOTE_MOST = 16 * 1024


class Partial:
    """``.FILE.part`` in ``folder``, and ``.FILE.part.json`` beside it. All methods block; call them off the event loop."""

    def __init__(self, folder: Path, file: str, url: str) -> None:
        self._final, self._part = folder / file, folder / f".{file}.part"
        self._note = folder / f".{file}.part.json"
        self._url = url
        self._fd = -1
        self._digest = hashlib.sha256()
        # A caller that was cancelled leaves a write behind in its thread: the file is not closed under it.
        self._turn = threading.RLock()
        self._given_up = False  # whoever reads gigabytes in its thread stops at the next block
        self.size = 0
        self.mark = ""  # the source's own name for this very content: an ETag, or a date
        self.first = b""  # how it begins
        self.pieced = False  # whether it came in more than one part
        self.restarts = 0  # how often the whole turned out wrong

    def open(self) -> None:
        """Take up what is there, or begin anew. Raises OSError."""
        with self._turn:
            self._fd = _opened(self._part, os.O_RDWR | os.O_CREAT)
            note = self._read_note()
            if note.get("url") != self._url or not note.get("mark"):
                self.forget()
                return
            self.mark = str(note["mark"])
            while not self._given_up and (block := os.read(self._fd, BLOCK)):
                self._count(block)
            self.pieced = self.size > 0

    def close(self) -> None:
        """On disk when this returns, as far as it got."""
        self._given_up = True
        with self._turn:
            if self._fd >= 0:
                with contextlib.suppress(OSError):
                    os.fsync(self._fd)
                os.close(self._fd)
                self._fd = -1

    def belongs_to(self, mark: str) -> None:
        """Note what the source calls the content, so that a later part can be asked for. Raises OSError."""
        self.mark = mark
        keys.write_private(self._note, json.dumps({"url": self._url, "mark": mark}).encode())

    def forget(self) -> None:
        """Begin anew. Raises OSError."""
        with self._turn:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            self._note.unlink(missing_ok=True)
            self._digest, self.size, self.mark, self.first, self.pieced = hashlib.sha256(), 0, "", b"", False

    def restart(self) -> None:
        """The same because the whole was wrong. Raises OSError."""
        self.restarts += 1
        self.forget()

    def add(self, block: bytes) -> None:
        """Raises OSError."""
        with self._turn:
            view = memoryview(block)
            while view:
                view = view[os.write(self._fd, view) :]
            self._count(block)

    def _count(self, block: bytes) -> None:
        if len(self.first) < 4:
            self.first = (self.first + block)[:4]
        self._digest.update(block)
        self.size += len(block)

    @property
    def sha256(self) -> str:
        """Of all that is here."""
        return self._digest.hexdigest()

    def place(self) -> None:
        """Give the whole file its name, readable for the folder's group. Raises OSError."""
        os.fchmod(self._fd, 0o640)
        os.fsync(self._fd)
        self._part.rename(self._final)
        self._note.unlink(missing_ok=True)
        folder = os.open(self._final.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self) -> None:
        """Leave nothing behind but a finished file."""
        self._part.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _read_note(self) -> dict[str, Any]:
        try:
            with os.fdopen(_opened(self._note, os.O_RDONLY), "rb") as file:
                note = json.loads(file.read(_NOTE_MOST))
        except (OSError, ValueError, RecursionError):
            return {}
        return note if isinstance(note, dict) else {}


def _opened(path: Path, flags: int) -> int:
    """Without waiting: who reads models writes in their folder too, and may have put a pipe there. Raises OSError for what is not ours."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
        return fd
    os.close(fd)
    raise FileExistsError(errno.EEXIST, "something else has its place", str(path))
