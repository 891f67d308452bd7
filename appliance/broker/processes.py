"""The processes the broker answers for: watched by pidfd, recorded on disk, adopted by the next broker, buried when
gone.

Rule: a process is named by pid and start time together, and signalled only through its pidfd, so a reused pid is
never hit. It counts as gone only when its whole group is empty. The record lies in a folder that only root may write: one
document, and after it a line for each run that was started since that was written.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from appliance.broker import kernel, launch, stragglers
from appliance.broker.cgroups import Group, Hierarchy

_VERSION = 1
# Seconds that a run which is gone may stand in the record: whoever adopts it sees that nothing of it is there.
_REST = 0.2
_STOPPED = "Tt"  # by a signal, by a tracer (proc_pid_stat(5))
_AGAIN, _AGAIN_MOST = 0.02, 1.0  # seconds between looks at a group that is dying: doubled each time


@dataclass
class Stage:
    """A further process of a pipeline: it shares the group, the limits and the end of the first."""

    pid: int
    start: int = 0
    child: bool = True
    pidfd: int = -1
    exited: bool = False
    status: int | None = None
    usage: tuple[float, float, int] = (0.0, 0.0, 0)


@dataclass
class Process:
    """One live run or service. Times named ``*_at`` are seconds of CLOCK_BOOTTIME; ``since`` is Unix time.

    ``exited`` says that its first process is gone, ``ended`` that the first process of every stage is.
    """

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
    later: list[Stage] = field(default_factory=list)
    pidfd: int = -1
    exited: bool = False
    ended: bool = False
    status: int | None = None
    usage: tuple[float, float, int] = (0.0, 0.0, 0)
    look_at: float = 0.0
    patience: float = _AGAIN
    outcome: dict[str, Any] = field(default_factory=dict)

    @property
    def stages(self) -> list[Process | Stage]:
        return [self, *self.later]

    def send(self, number: int) -> None:
        """Signal the first process of each stage alone; nothing happens to those that have exited."""
        for one in self.stages:
            if not one.exited:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(one.pidfd, number)


Gone = Callable[[Process], None]


class Processes:
    """All of them."""

    def __init__(self, record: Path, hierarchy: Hierarchy, selector: selectors.BaseSelector) -> None:
        self.hierarchy = hierarchy
        self._record = record
        self._gone: dict[str, Gone] = {}
        self._live: dict[str, Process] = {}
        self._selector = selector
        self._save_at: float | None = None
        self._file: int | None = None  # the record, to add lines to
        self._empty: list[Group] = []
        self._sweep_at: float | None = None

    def adopt(self) -> None:
        """Take over what an earlier broker recorded, and kill groups that nobody recorded."""
        for row in self._recorded():
            self._adopt(row)
        held = {process.group.name for process in self._live.values() if process.group}
        for name in self.hierarchy.leftovers():
            if name not in held:
                self.bury(name)
        self._save()

    def on_gone(self, kind: str, gone: Gone) -> None:
        """Call ``gone`` once for each process of ``kind`` that is gone."""
        self._gone[kind] = gone

    def add(self, process: Process) -> None:
        """Watch a process that has just been started. Raises OSError; it is ended then, since nobody would do it later."""
        process.began_at = process.began_at or now()
        try:
            for one in process.stages:
                one.pidfd = os.pidfd_open(one.pid)
                one.start = one.start or kernel.start_time(one.pid)
        except OSError:
            for one in process.stages:
                launch.end(one.pid)
                _close(one)
            if process.group:
                process.group.kill()
                process.group.remove()
            raise
        self._watch(process)
        if process.kind == "run":
            self._add_line(process)
        else:
            self._save()

    def bury(self, name: str) -> None:
        """End everything in a group that is no process's of ours, and remove it. Takes at most two seconds."""
        group = self.hierarchy.group(name)
        deadline = now() + 2.0
        while not (group.kill() and group.remove()) and now() < deadline:
            time.sleep(_AGAIN)

    def get(self, name: str) -> Process | None:
        return self._live.get(name)

    def of_kind(self, kind: str) -> list[Process]:
        return [process for process in self._live.values() if process.kind == kind]

    def end_stopped(self, kind: str) -> None:
        """Kill those of ``kind`` that somebody has stopped: every process of their account may do that, and nobody would wake them."""
        for process in self.of_kind(kind):
            with contextlib.suppress(ProcessLookupError):
                if kernel.stat_fields(process.pid)[0] in _STOPPED:
                    self.stop(process, 0, "killed")

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
        if self._sweep_at is not None and self._sweep_at <= now():
            self._empty = [group for group in self._empty if not group.remove()]
            self._sweep_at = now() + _AGAIN if self._empty else None
        if self._save_at is not None and self._save_at <= now():
            self._save()
        waits = [_due(process) for process in self._live.values()] + [self._save_at, self._sweep_at]
        due = min((at for at in waits if at is not None), default=None)
        return None if due is None else max(0.0, due - now())

    def close(self) -> None:
        """Write down what is left, at the broker's end."""
        for group in self._empty:
            group.remove()
        if self._save_at is not None:
            self._save()

    def __bool__(self) -> bool:
        return bool(self._live)

    def _finish(self, process: Process) -> None:
        process.reason = process.reason or ("exit" if process.ended else "timeout")
        collected = process.ended and self._collected(process)
        if self._emptied(process) and collected and self._cleared(process):
            del self._live[process.id]
            for one in process.stages:
                _close(one)
            if process.kind == "service":
                self._save()  # its end is told once: it counts towards a crash loop
            self._gone.get(process.kind, _nothing)(process)
            self._save_at = self._save_at or now() + _REST
        else:
            process.look_at, process.patience = now() + process.patience, min(_AGAIN_MOST, process.patience * 2)

    def _emptied(self, process: Process) -> bool:
        """Kill what is left; True when there was nothing. A kernel that refuses is asked again."""
        try:
            if process.group:
                return process.group.kill()
            # A service has the same id in every appliance; only this start of it is ours to kill.
            mark = process.note.get("run_id", process.id)
            return all([stragglers.kill(mark, one.pid, one.pidfd, one.exited) for one in process.stages])
        except OSError as error:
            sys.stderr.write(f"croft broker: cannot end {process.id}: {error.strerror}\n")
            return False

    def _cleared(self, process: Process) -> bool:
        """Take its figures and remove its group. A run's name is never used again, so nobody has to wait for its folders."""
        if process.group is None:
            return True
        process.outcome.setdefault("figures", process.group.spent())
        if process.kind != "run":
            return process.group.remove()
        self._empty.append(process.group)
        self._sweep_at = self._sweep_at or now() + _AGAIN
        return True

    def _watch(self, process: Process) -> None:
        self._live[process.id] = process
        for one in process.stages:
            if not one.exited:
                self._selector.register(one.pidfd, selectors.EVENT_READ, partial(self._exited, process, one))

    def _exited(self, process: Process, one: Process | Stage, mask: int) -> None:
        """A stage's first process has exited. After the last, statuses and the rest of the group are seen to in :meth:`pump`."""
        self._selector.unregister(one.pidfd)
        one.exited = True
        if all(stage.exited for stage in process.stages):
            process.ended, process.look_at = True, 0.0
            process.outcome |= {"wall": now() - process.began_at}

    def _collected(self, process: Process) -> bool:
        """Collect every stage's status. False while a tracer keeps one from us (ptrace(2)): whoever waited would wait for that."""
        if not all([_wait(one) for one in process.stages]):
            return False
        process.outcome["statuses"] = [one.status for one in process.stages]
        if any(one.status is not None for one in process.stages):
            user, system, most = zip(*(one.usage for one in process.stages), strict=True)
            process.outcome |= {"user": sum(user), "system": sum(system), "maxrss_bytes": max(most)}
        return True

    def _adopt(self, row: dict[str, Any]) -> None:
        folders = {name: Path(path) for name, path in row.pop("folders").items()}
        later = [Stage(pid, start, child=False) for pid, start in row.pop("later", ())]
        process = Process(**row, child=False, later=later, group=Group(folders) if folders else None)
        for one in process.stages:
            one.exited = not _found(one)
        if all(one.exited for one in process.stages):
            self._adopt_remains(process)
        else:
            self._watch(process)

    def _adopt_remains(self, process: Process) -> None:
        """It ended while no broker watched. Its group may still hold others, so it takes the usual way out."""
        for one in process.stages:
            one.exited = True
        process.ended = True
        process.outcome |= {"wall": now() - process.began_at}
        self._live[process.id] = process

    def _recorded(self) -> list[dict[str, Any]]:
        try:
            first, *later = self._record.read_text("utf-8").splitlines()
            document = json.loads(first)
        except FileNotFoundError:
            return []
        except ValueError:  # cut off by a power cut, so nothing it named is alive
            return []
        if document.get("version") != _VERSION or document.get("boot_id") != kernel.boot_id():
            return []
        rows = list(document["processes"])
        for line in later:
            with contextlib.suppress(ValueError):  # a full disk took half of this one
                rows.append(json.loads(line))
        return rows

    def _save(self) -> None:
        """Write the record. A full disk costs adoption after a crash, not the service that is running."""
        self._save_at = None
        try:
            self._write_record()
        except OSError as error:
            _not_recorded(error)

    def _add_line(self, process: Process) -> None:
        """Runs come often, and a whole new file each time would be much of what one costs."""
        if self._file is None:
            self._save()
            return
        line = b"\n" + json.dumps(_recorded_row(process)).encode("ascii")
        try:
            whole = os.write(self._file, line) == len(line)
        except OSError as error:
            _not_recorded(error)
            return
        if not whole:
            self._save()  # without the runs that have ended since, it may fit

    def _write_record(self) -> None:
        rows = [_recorded_row(one) for one in self._live.values()]
        document = {"version": _VERSION, "boot_id": kernel.boot_id(), "processes": rows}
        fresh = self._record.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb", closefd=False) as file:
                file.write(json.dumps(document).encode("ascii"))
            fresh.replace(self._record)
        except OSError:
            os.close(fd)
            raise
        if self._file is not None:
            os.close(self._file)
        self._file = fd


def _not_recorded(error: OSError) -> None:
    sys.stderr.write(f"croft broker: cannot record the processes: {error.strerror}\n")


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
    later = [(one.pid, one.start) for one in process.later]
    return {name: getattr(process, name) for name in names} | {"folders": places, "later": later}


def _found(one: Process | Stage) -> bool:
    """Whether a recorded process still runs; it is held by its pidfd then."""
    try:
        one.pidfd = os.pidfd_open(one.pid)
        return kernel.start_time(one.pid) == one.start
    except ProcessLookupError:
        return False


def _wait(one: Process | Stage) -> bool:
    """Collect one status, once; an adopted process's went to another parent."""
    if not one.child:
        return True
    pid, status, usage = os.wait4(one.pid, os.WNOHANG)
    if pid == 0:
        return False
    one.child, one.status = False, os.waitstatus_to_exitcode(status)
    one.usage = (usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024)
    return True


def _close(one: Process | Stage) -> None:
    if one.pidfd >= 0:
        os.close(one.pidfd)


def _nothing(process: Process) -> None:
    """For kinds whose end nobody waits for."""


def now() -> float:
    """Seconds of CLOCK_BOOTTIME, which no change of the wall clock moves."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
