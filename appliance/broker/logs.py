"""The log files of services: opened for the service to append to, rotated by copying and truncating.

Rule: the folder belongs to root, so no name in it can be somebody's link; a file never grows much past its bound.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

from appliance.broker.accounts import Accounts
from appliance.errors import NotFound
from appliance.settings import Settings


class Logs:
    """The files ``paths.log/SERVICE.log`` and their one predecessor, ``SERVICE.log.1``."""

    def __init__(self, settings: Settings, accounts: Accounts) -> None:
        self._folder = settings.paths.log
        self._most = settings.log_service_mb << 20
        self._gid = accounts.daemon.gid

    def append(self, service: str) -> int:
        """A descriptor that only appends, for the service's stdout and stderr."""
        fd = os.open(self._path(service), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        os.fchown(fd, os.geteuid(), self._gid)
        os.fchmod(fd, 0o640)
        return fd

    def read(self, service: str) -> int:
        """A descriptor that only reads. Raises NotFound before the first start."""
        try:
            return os.open(self._path(service), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound(f"the {service} service has not written a log yet") from error

    def rotate(self, service: str) -> bool:
        """Keep the end of a file that has grown too large as the old one, and empty it. True if it was."""
        path = self._path(service)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return False
        if size < self._most:
            return False
        with path.open("rb+") as source, self._old(service) as target:
            try:
                _copy_end(source.fileno(), target.fileno(), size, self._most)
            finally:
                source.truncate(0)  # also when the disk is too full to keep the old lines
        return True

    def _old(self, service: str) -> BinaryIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(f"{self._path(service)}.1", flags, 0o640)
        os.fchown(fd, os.geteuid(), self._gid)
        os.fchmod(fd, 0o640)
        return os.fdopen(fd, "wb")

    def _path(self, service: str) -> Path:
        return self._folder / f"{service}.log"


def rotate(logs: Logs, service: str) -> None:
    """Rotate if it is time; a disk that refuses is said, and tried again later."""
    try:
        logs.rotate(service)
    except OSError as error:
        sys.stderr.write(f"croft broker: cannot rotate the log of {service}: {error.strerror}\n")


def _copy_end(source: int, target: int, size: int, most: int) -> None:
    position = max(0, size - most)
    while position < size:
        copied = os.sendfile(target, source, position, min(size - position, 1 << 20))
        if copied == 0:
            return
        position += copied
