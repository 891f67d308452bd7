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
    found = set(_members(name, pid))
    for one in found:
        _kill(one)
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


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
