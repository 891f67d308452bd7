"""The processes the broker answers for: watched by pidfd, recorded on disk, adopted by the next broker, buried when
gone.

Rule: a process is named by pid and start time together, and signalled only through its pidfd, so a reused pid is
never hit. It counts as gone only when its whole group is empty. The record lies in a folder that only root may write.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.broker import kernel, launch, stragglers
from appliance.broker.cgroups import Group, Hierarchy

_VERSION = 1
_AGAIN, _AGAIN_MOST = 0.02, 1.0  # seconds between looks at a group that is dying: doubled each time


@dataclass
class Process:
    """One live run or service. Times named ``*_at`` are seconds of CLOCK_BOOTTIME; ``since`` is Unix time."""

    id: str
    kind: str
    pid: int
    start: int
    since: float
    group: Group | None
    started_by: str = ""
    kill_at: float | None = None
    child: bool = True
    reason: str = ""
    began_at: float = 0.0
    note: dict[str, Any] = field(default_factory=dict)
    pidfd: int = -1
    ended: bool = False
    look_at: float = 0.0
    patience: float = _AGAIN
    outcome: dict[str, Any] = field(default_factory=dict)

    def send(self, number: int) -> None:
        """Signal the first process alone; nothing happens when it has ended."""
        if self.ended:
            return
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return


Gone = Callable[[Process], None]


class Processes:
    """All of them."""

    def __init__(self, record: Path, hierarchy: Hierarchy, selector: selectors.BaseSelector) -> None:
        self.hierarchy = hierarchy
        self._record = record
        self._gone: dict[str, Gone] = {}
        self._live: dict[str, Process] = {}
        self._selector = selector

    def adopt(self) -> None:
        """Take over what an earlier broker recorded, and kill groups that nobody recorded."""
        for row in self._recorded():
            self._adopt(row)
        held = {process.id for process in self._live.values() if process.group}
        for name in self.hierarchy.leftovers():
            if name not in held:
                self._bury_group(name)
        self._save()

    def on_gone(self, kind: str, gone: Gone) -> None:
        """Call ``gone`` once for each process of ``kind`` that is gone, after the record has been written."""
        self._gone[kind] = gone

    def add(self, process: Process) -> None:
        """Watch a process that has just been started. Raises OSError; it is ended then, since nobody would do it later."""
        process.began_at = process.began_at or now()
        try:
            process.pidfd = os.pidfd_open(process.pid)
            process.start = process.start or kernel.start_time(process.pid)
        except OSError:
            launch.end(process.pid)
            if process.group:
                process.group.kill()
                process.group.remove()
            raise
        self._watch(process)
        self._save()

    def get(self, name: str) -> Process | None:
        return self._live.get(name)

    def of_kind(self, kind: str) -> list[Process]:
        return [process for process in self._live.values() if process.kind == kind]

    def stop(self, process: Process, grace: float, reason: str) -> None:
        """Ask with SIGTERM, kill the group ``grace`` seconds later. A second call can only bring the end nearer."""
        process.reason = process.reason or reason
        end = now() + grace
        process.kill_at = end if process.kill_at is None else min(end, process.kill_at)
        process.look_at = 0.0
        if grace > 0:
            _thaw(process)
            process.send(signal.SIGTERM)
        self._save()

    def pump(self) -> float | None:
        """Kill what is overdue, bury what is empty. Seconds until there may be more to do."""
        for process in list(self._live.values()):
            due = _due(process)
            if due is not None and due <= now():
                self._finish(process)
        due = min((at for at in map(_due, self._live.values()) if at is not None), default=None)
        return None if due is None else max(0.0, due - now())

    def __bool__(self) -> bool:
        return bool(self._live)

    def _finish(self, process: Process) -> None:
        process.reason = process.reason or ("exit" if process.ended else "timeout")
        collected = process.ended and self._collected(process)
        if self._emptied(process) and collected and self._clear(process):
            del self._live[process.id]
            os.close(process.pidfd)
            self._save()
            self._gone.get(process.kind, _nothing)(process)
        else:
            process.look_at, process.patience = now() + process.patience, min(_AGAIN_MOST, process.patience * 2)

    def _emptied(self, process: Process) -> bool:
        """Kill what is left; True when there was nothing. A kernel that refuses is asked again."""
        try:
            if process.group:
                return process.group.kill()
            # A service has the same id in every appliance; only this start of it is ours to kill.
            mark = process.note.get("run_id", process.id)
            return stragglers.kill(mark, process.pid, process.pidfd, process.ended)
        except OSError as error:
            sys.stderr.write(f"croft broker: cannot end {process.id}: {error.strerror}\n")
            return False

    def _clear(self, process: Process) -> bool:
        if process.group is None:
            return True
        process.outcome.setdefault("figures", process.group.figures())
        return process.group.remove()

    def _watch(self, process: Process) -> None:
        self._live[process.id] = process
        self._selector.register(process.pidfd, selectors.EVENT_READ, lambda mask: self._ended(process))

    def _ended(self, process: Process) -> None:
        """The first process has exited. Its status and the rest of its group are seen to in :meth:`pump`."""
        self._selector.unregister(process.pidfd)
        process.ended, process.look_at = True, 0.0
        process.outcome |= {"exit_code": None, "signal": None, "wall": now() - process.began_at}

    def _collected(self, process: Process) -> bool:
        """Collect its status. False while a tracer keeps it from us (ptrace(2)): whoever waited would wait for that."""
        if not process.child:
            return True  # adopted: its status went to another parent
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid == 0:
            return False
        process.child = False
        code = os.waitstatus_to_exitcode(status)
        process.outcome |= {
            "exit_code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "user": usage.ru_utime,
            "system": usage.ru_stime,
            "maxrss_bytes": usage.ru_maxrss * 1024,
        }
        return True

    def _adopt(self, row: dict[str, Any]) -> None:
        folders = {name: Path(path) for name, path in row.pop("folders").items()}
        process = Process(**row, child=False, group=Group(folders) if folders else None)
        try:
            process.pidfd = os.pidfd_open(process.pid)
            if kernel.start_time(process.pid) != process.start:
                raise ProcessLookupError(process.pid)
        except ProcessLookupError:
            self._adopt_remains(process)
            return
        self._watch(process)

    def _adopt_remains(self, process: Process) -> None:
        """It ended while no broker watched. Its group may still hold others, so it takes the usual way out."""
        process.pidfd = process.pidfd if process.pidfd >= 0 else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        process.ended = True
        process.outcome |= {"exit_code": None, "signal": None, "wall": now() - process.began_at}
        self._live[process.id] = process

    def _bury_group(self, name: str) -> None:
        group = self.hierarchy.group(name)
        deadline = now() + 2.0
        while not (group.kill() and group.remove()) and now() < deadline:
            time.sleep(_AGAIN)

    def _recorded(self) -> list[dict[str, Any]]:
        try:
            document = json.loads(self._record.read_text("utf-8"))
        except FileNotFoundError:
            return []
        except ValueError:  # cut off by a power cut, so nothing it named is alive
            return []
        if document.get("version") != _VERSION or document.get("boot_id") != kernel.boot_id():
            return []
        return list(document["processes"])

    def _save(self) -> None:
        """Write the record. A full disk costs adoption after a crash, not the service that is running."""
        try:
            self._write_record()
        except OSError as error:
            sys.stderr.write(f"croft broker: cannot record the processes: {error.strerror}\n")

    def _write_record(self) -> None:
        rows = [_recorded_row(one) for one in self._live.values()]
        document = {"version": _VERSION, "boot_id": kernel.boot_id(), "processes": rows}
        fresh = self._record.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(document, file)
        fresh.replace(self._record)


def _thaw(process: Process) -> None:
    """So that it hears the signal. A kernel that refuses costs the grace, not the end."""
    try:
        if process.group:
            process.group.thaw()
    except OSError as error:
        sys.stderr.write(f"croft broker: cannot thaw {process.id}: {error.strerror}\n")


def _due(process: Process) -> float | None:
    """When it needs looking at: at once after its end, or at its time limit; then again and again until it is gone."""
    if process.ended:
        return process.look_at
    return None if process.kill_at is None else max(process.kill_at, process.look_at)


def _recorded_row(process: Process) -> dict[str, Any]:
    names = ("id", "kind", "pid", "start", "since", "started_by", "kill_at", "reason", "began_at", "note")
    folders = process.group.folders if process.group else {}
    places = {key: str(path) for key, path in folders.items()}
    return {name: getattr(process, name) for name in names} | {"folders": places}


def _nothing(process: Process) -> None:
    """For kinds whose end nobody waits for."""


def now() -> float:
    """Seconds of CLOCK_BOOTTIME, which no change of the wall clock moves."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
