"""Killing a run where cgroups cannot be written: by session and by a mark in the environment.

Rule: this is the weaker way, and `hello` says so (`containment: "session"`): a process that leaves the session and
clears its environment is not found. Without root only processes of the broker's own user are ever looked at.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from appliance.broker import kernel

MARK = "CROFT_RUN"  # set in the environment of everything the broker starts


def kill(name: str, pid: int, pidfd: int, ended: bool) -> bool:
    """Kill the run called ``name`` whose first process is or was ``pid``; True when nothing of it was found."""
    found = False
    for one in _mine():
        if _belongs(one, name, pid):
            found = True
            _kill(one, name, pid)
    if not ended:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return not found and ended


def _belongs(pid: int, name: str, session: int) -> bool:
    try:
        fields = kernel.stat_fields(pid)
    except (ProcessLookupError, PermissionError):
        return False
    mark = f"{MARK}={name}".encode()
    return fields[0] not in "ZX" and (int(fields[3]) == session or mark in _environment(pid))


def _mine() -> Iterator[int]:
    own = os.geteuid()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                mine = own in (0, entry.stat().st_uid)
            except FileNotFoundError:
                continue
            if mine and int(entry.name) != os.getpid():
                yield int(entry.name)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _kill(pid: int, name: str, session: int) -> None:
    """A pidfd first, then a second look: what belongs still is what the pidfd names, never a number used again."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _belongs(pid, name, session):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)
