"""Counting the terminals of the workspace in which something is running, so that nobody's work counts as idle.

Rule: read only; it looks at /proc and signals nothing.
"""

from __future__ import annotations

import os

from appliance.broker import kernel


def foreground(uid: int, below: int | None = None) -> int:
    """How many terminals of ``uid`` have another process group in front than the shell that leads the session.

    ``below`` keeps to descendants of that pid: where everything runs as one person, their other terminals do not count.
    """
    table = dict(_processes(uid))
    leaders = [
        pid
        for pid, fields in table.items()
        if int(fields[3]) == pid and int(fields[4]) != 0 and int(fields[5]) not in (-1, int(fields[2]))
    ]
    return sum(1 for pid in leaders if below is None or _descends(pid, below, table))


def _processes(uid: int) -> list[tuple[int, list[str]]]:
    found = []
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                found.append((int(entry.name), kernel.stat_fields(int(entry.name))))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _descends(pid: int, ancestor: int, table: dict[int, list[str]]) -> bool:
    while pid in table and pid != ancestor:
        pid = int(table[pid][1])
    return pid == ancestor
