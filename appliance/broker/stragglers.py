"""Killing a run where cgroups cannot be written: by session and by a mark in the environment.

Rule: this is the weaker way, and `hello` says so (`containment: "session"`): a process that leaves the session and
clears its environment is not found. Without root only processes of the broker's own user are ever looked at.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from appliance.broker import kernel

MARK = "CROFT_RUN"  # set in the environment of everything the broker starts
_AT_ONCE = 200


def kill(name: str, pid: int, pidfd: int, ended: bool) -> bool:
    """Kill the run called ``name`` whose first process is or was ``pid``; True when nothing of it was found."""
    found = _opened(_members(name, pid))
    try:
        # A second look: what is still a member is what its pidfd names, never a number that was used again.
        for one in found.keys() & set(_members(name, pid)):
            _kill(found[one])
    finally:
        for opened in found.values():
            os.close(opened)
    if not ended:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return not found and ended


def _members(name: str, session: int) -> Iterator[int]:
    mark = f"{MARK}={name}".encode()
    for pid in _mine():
        try:
            fields = kernel.stat_fields(pid)
            if fields[0] not in "ZX" and (int(fields[3]) == session or mark in _environment(pid)):
                yield pid
        except (ProcessLookupError, PermissionError):
            continue


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


def _opened(pids: Iterable[int]) -> dict[int, int]:
    """A pidfd for each, at most as many as leave descriptors for everything else; the rest is found at the next look."""
    found = {}
    for pid in itertools.islice(pids, _AT_ONCE):
        with contextlib.suppress(ProcessLookupError):
            found[pid] = os.pidfd_open(pid)
    return found


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
