"""A folder that somebody else may change meanwhile, held open: what is in it is reached through folders, never through a link.

Rule: every path is relative and is walked by the kernel (openat2(2)); a link on the way is an OSError, at its end too. Only
remove, rename and link touch links, and those themselves.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from appliance.broker import kernel

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_MOST = 1 << 20  # bytes of a file that is read whole


class Folder:
    """Owns the descriptor ``fd``. Everything raises OSError."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def at(cls, path: Path) -> Self:
        """The one to begin with; its path is ours to trust."""
        return cls(os.open(path, _FOLDER | os.O_CLOEXEC))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self.fd)

    def open(self, path: str, flags: int) -> int:
        """A descriptor; never waits, whatever lies there."""
        flags |= 0 if flags & os.O_PATH else os.O_NONBLOCK
        return kernel.open_beneath(self.fd, path, flags, 0o666 if flags & os.O_CREAT else 0, links=False)

    def folder(self, path: str, *, make: bool = False) -> Folder:
        """The one beneath; ``make``: as :meth:`make` would."""
        if make:
            self.make(path)
        return Folder(self.open(path, _FOLDER))

    def make(self, path: str) -> None:
        """A folder and those above it, where they are missing."""
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            with self._above("/".join(parts[:depth])) as (above, name), contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=above)

    def is_folder(self, path: str) -> bool:
        """A link to one is none."""
        try:
            os.close(self.open(path, os.O_PATH | os.O_DIRECTORY))
        except OSError:
            return False
        return True

    def names(self) -> list[str]:
        """Sorted."""
        return sorted(os.listdir(self.fd))  # noqa: PTH208 - of a descriptor

    def matching(self, pattern: str) -> list[str]:
        """Paths that fit ``pattern`` (``*`` within one name), sorted."""
        first, _, rest = pattern.partition("/")
        fitting, found = fnmatch.filter(self.names(), first), []
        for name in fitting if rest else ():
            with contextlib.suppress(OSError), self.folder(name) as inner:
                found += [f"{name}/{path}" for path in inner.matching(rest)]
        return found if rest else fitting

    def read(self, path: str) -> str:
        """A plain file of up to 1 MiB; what is not UTF-8 in it comes back by :meth:`write`."""
        with os.fdopen(self.open(path, os.O_RDONLY), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a plain file", path)
            content = file.read(_MOST + 1)
        if len(content) > _MOST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return content.decode("utf-8", "surrogateescape")

    def write(self, path: str, text: str) -> None:
        """A new file, in place of what has that name."""
        self.remove(path)
        with os.fdopen(self.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))

    def chmod(self, path: str, mode: int) -> None:
        """Of a file or a folder."""
        fd = self.open(path, os.O_RDONLY)
        try:
            os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def remove(self, path: str) -> None:
        """A file, a link or a folder with all that is in it; nothing where there is none."""
        with contextlib.suppress(FileNotFoundError), self._above(path) as (above, name):
            try:
                os.unlink(name, dir_fd=above)
            except IsADirectoryError:
                shutil.rmtree(name, dir_fd=above)

    def remove_empty(self, path: str) -> None:
        """A folder that has nothing in it."""
        with self._above(path) as (above, name):
            os.rmdir(name, dir_fd=above)

    def rename(self, old: str, new: str) -> None:
        """Both may be anywhere beneath."""
        with self._above(old) as (source, was), self._above(new) as (target, name):
            os.rename(was, name, src_dir_fd=source, dst_dir_fd=target)

    def link(self, path: str, target: str) -> None:
        """A link that says ``target``, in place of what has that name."""
        self.remove(path)
        with self._above(path) as (above, name):
            os.symlink(target, name, dir_fd=above)

    def size(self) -> int:
        """Bytes on the disk; what has two names counts once, what goes away meanwhile not at all."""
        seen = {}
        for _, _, files, fd in os.fwalk(dir_fd=self.fd):
            for file in files:
                with contextlib.suppress(FileNotFoundError):
                    found = os.lstat(file, dir_fd=fd)
                    seen[found.st_ino] = found.st_blocks * 512
        return sum(seen.values())

    @contextlib.contextmanager
    def _above(self, path: str) -> Iterator[tuple[int, str]]:
        """The folder that a path lies in, and its name there."""
        parent, _, name = path.rpartition("/")
        fd = self.open(parent or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            yield fd, name
        finally:
            os.close(fd)
