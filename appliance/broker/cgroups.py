"""One cgroup per run and service: its limits, its figures, and a kill that nothing inside can outrun.

Rule: a group is removed only when it is empty, and it is empty only after everything in it was killed. Works on
cgroup v2 (a delegated subtree) and v1 (one folder per controller). Source: Linux Documentation/admin-guide/cgroup-v1
and cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CPU_PERIOD = 100_000  # microseconds, the kernel's default
_WANTED = ("memory", "pids", "cpu", "cpuacct", "freezer")
_MIB = 1 << 20
BOUNDLESS = 1 << 60  # v1 writes a number near 2^63 for no limit
_FILES_V1 = ("total_active_file", "total_inactive_file")


@dataclass(frozen=True)
class Limits:
    """Upper bounds of a group; None means none."""

    memory_mb: int | None = None
    cpus: float | None = None
    pids: int | None = None
    swap: bool = True


class Group:
    """The folders of one group: one under v2, one per controller under v1."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders

    @property
    def name(self) -> str:
        return next(iter(self.folders.values())).name

    @property
    def unified(self) -> bool:
        return "unified" in self.folders

    def join_paths(self) -> list[str]:
        """Files into which a process writes ``0`` to enter."""
        return [str(folder / "cgroup.procs") for folder in self._unique()]

    def limit(self, limits: Limits) -> None:
        """Set the limits. Raises OSError when the kernel refuses one that its controller should take."""
        for name, value in _v2(limits) if self.unified else _v1(limits):
            self._write(name, value)

    def memory_limit(self) -> int | None:
        """Its memory limit in bytes; None where there is none, or nothing to hold it."""
        limit = self._number("memory.max" if self.unified else "memory.limit_in_bytes")
        return limit if limit is not None and limit < BOUNDLESS else None

    def memory_held(self) -> int | None:
        """Bytes that the kernel could not take back: all but the file cache that no program has mapped. None where nobody counts."""
        total = "memory.current" if self.unified else "memory.usage_in_bytes"
        rows = ("active_file", "inactive_file", "slab_reclaimable") if self.unified else _FILES_V1
        idle = sum(self._keyed("memory.stat", row) or 0 for row in rows)
        mapped = self._keyed("memory.stat", "file_mapped" if self.unified else "total_mapped_file") or 0
        count = self._number(total)
        return None if count is None else max(0, count - idle + mapped)

    def limit_memory(self, megabytes: int) -> bool:
        """Write another memory limit while something runs inside. False where that would not fit: nothing is ended for it."""
        with self.pressed(megabytes) as fits:
            if not fits:
                return False
            try:
                self.limit(Limits(megabytes))
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                return False
        return True

    @contextlib.contextmanager
    def pressed(self, megabytes: int) -> Iterator[bool]:
        """Have the kernel take back what it can, down to so much, and tell whether that was enough to write it as a limit.

        v2 would end processes for a limit below what they hold, and for one that they outgrow in the same moment: ``memory.high``
        slows them meanwhile. v1 needs none of it: it refuses such a limit (EBUSY).
        """
        if not self.unified:
            yield True
            return
        most = megabytes * _MIB
        self._write("memory.high", str(most))
        try:
            yield (self._number("memory.current") or 0) <= most
        finally:
            self._write("memory.high", "max")

    def members(self) -> list[int]:
        """Pids inside, over all folders: a process forked while entering may not be in every one yet."""
        return sorted({pid for folder in self._unique() for pid in _pids(folder)})

    def kill(self) -> bool:
        """Kill everything inside once; True when the group was found empty. Repeat until then.

        v2: cgroup.kill. v1: no new processes, freeze so that nothing forks between listing and signal, signal, thaw.
        """
        if not self.members():
            return True
        if self.unified:
            self._write("cgroup.kill", "1")
            return False
        self._write("pids.max", "0")
        self.freeze()
        try:
            for some in _slices(self.members(), 100):
                self._kill_some(some)
        finally:
            self.thaw()
        return False

    def freeze(self) -> None:
        self._write("cgroup.freeze", "1") if self.unified else self._write("freezer.state", "FROZEN")

    def thaw(self) -> None:
        self._write("cgroup.freeze", "0") if self.unified else self._write("freezer.state", "THAWED")

    def figures(self) -> dict[str, int | None]:
        """``memory_bytes`` and what :meth:`spent` tells; None where the kernel does not say."""
        use = ("memory.current", "inactive_file") if self.unified else ("memory.usage_in_bytes", "total_inactive_file")
        return {"memory_bytes": self._in_use(*use), **self.spent()}

    def spent(self) -> dict[str, int | None]:
        """``memory_peak_bytes cpu_usec oom_kills pids_refused``, which last beyond the group's last process."""
        if self.unified:
            return {
                "memory_peak_bytes": self._number("memory.peak"),
                "cpu_usec": self._keyed("cpu.stat", "usage_usec"),
                "oom_kills": self._keyed("memory.events", "oom_kill"),
                "pids_refused": self._keyed("pids.events", "max"),
            }
        nanoseconds = self._number("cpuacct.usage")
        return {
            "memory_peak_bytes": self._number("memory.max_usage_in_bytes"),
            "cpu_usec": None if nanoseconds is None else nanoseconds // 1000,
            "oom_kills": self._keyed("memory.oom_control", "oom_kill"),
            "pids_refused": self._keyed("pids.events", "max"),
        }

    def remove(self) -> bool:
        """Remove the empty group; False while the kernel still counts something in it."""
        for folder in self._unique():
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True

    def _kill_some(self, pids: list[int]) -> None:
        """A pidfd first, then a second look: what is still listed is what the pidfd names, never a reused number."""
        with contextlib.ExitStack() as stack:
            found = {}
            for pid in pids:
                try:
                    found[pid] = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue
                stack.callback(os.close, found[pid])
            inside = set(self.members())
            for pid, pidfd in found.items():
                if pid in inside:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _unique(self) -> list[Path]:
        return list(dict.fromkeys(self.folders.values()))

    def _file(self, name: str) -> str | None:
        folder = self.folders.get("unified" if self.unified else name.split(".")[0])
        return f"{folder}/{name}" if folder else None

    def _write(self, name: str, value: str) -> None:
        path = self._file(name)
        if path is None:
            return
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # the controller is not there; `hello` says so as limits: false
        try:
            os.write(fd, value.encode("ascii"))
        finally:
            os.close(fd)

    def _read(self, name: str) -> str:
        path = self._file(name)
        try:
            return _text(path) if path else ""
        except OSError:
            return ""

    def _number(self, name: str) -> int | None:
        value = self._read(name).strip()
        return int(value) if value.isdigit() else None

    def _in_use(self, total: str, idle_cache: str) -> int | None:
        """Without the file cache that the kernel gives back when asked: a program that read a large tree does not use it."""
        count = self._number(total)
        return None if count is None else max(0, count - (self._keyed("memory.stat", idle_cache) or 0))

    def _keyed(self, name: str, key: str) -> int | None:
        for line in self._read(name).splitlines():
            word, _, value = line.partition(" ")
            if word == key and value.isdigit():
                return int(value)
        return None


@dataclass(frozen=True)
class Hierarchy:
    """Where groups are made. ``bases`` is empty where cgroups cannot be written."""

    bases: dict[str, Path]

    @property
    def limits(self) -> bool:
        """Whether memory and process limits really hold."""
        if "unified" in self.bases:
            return {"memory", "pids"} <= set(_controllers(self.bases["unified"] / "cgroup.subtree_control"))
        return {"memory", "pids", "freezer"} <= set(self.bases)

    @property
    def contains(self) -> bool:
        """Whether everything a run leaves behind can be found and killed."""
        return "unified" in self.bases or "freezer" in self.bases

    def create(self, name: str) -> Group | None:
        """A fresh empty group, or None where there are no cgroups. Raises FileExistsError for a name in use."""
        if not self.contains:
            return None
        group = self.group(name)
        for folder in dict.fromkeys(group.folders.values()):
            folder.mkdir()
        return group

    def group(self, name: str) -> Group:
        return Group({controller: base / name for controller, base in self.bases.items()})

    def leftovers(self) -> Iterator[str]:
        """Names of groups that exist, from this life of the broker or an earlier one."""
        seen = {entry.name for base in self.bases.values() for entry in base.iterdir() if entry.is_dir()}
        yield from sorted(seen)

    def close(self) -> None:
        """Remove the bases if nothing is left in them."""
        for base in self.bases.values():
            try:
                base.rmdir()
            except OSError:
                continue


OWN = "croft-own"  # leaf for the broker itself: a v2 group that hands out controllers may hold no process


def detect(name: str, mounts: str | None = None, own: str | None = None) -> Hierarchy:
    """Find the writable cgroups beneath the broker's own and make a base called ``name`` in each."""
    mounts = Path("/proc/self/mountinfo").read_text("utf-8") if mounts is None else mounts
    own = Path("/proc/self/cgroup").read_text("utf-8") if own is None else own
    folders = dict(_own_folders(mounts, own))
    v1 = {controller: folders[controller] for controller in _WANTED if controller in folders}
    if "freezer" in v1:
        return Hierarchy(dict(_made(v1, name)))
    if "unified" in folders:
        return Hierarchy(dict(_delegated(folders["unified"], name)))
    return Hierarchy({})


def _made(parents: dict[str, Path], name: str) -> Iterator[tuple[str, Path]]:
    for controller, parent in parents.items():
        try:
            (parent / name).mkdir(exist_ok=True)
        except OSError:
            continue
        if os.access(parent / name, os.W_OK):
            yield controller, parent / name


def _delegated(parent: Path, name: str) -> Iterator[tuple[str, Path]]:
    try:
        parent = parent.parent if parent.name == OWN else parent
        wanted = [word for word in _controllers(parent / "cgroup.controllers") if word in _WANTED]
        if wanted and _pids(parent) and parent.joinpath("cgroup.type").exists():
            _step_aside(parent)
        for folder in (parent, parent / name):
            folder.mkdir(exist_ok=True)
            for word in wanted:
                (folder / "cgroup.subtree_control").write_text(f"+{word}", "ascii")
    except OSError:
        return
    yield "unified", parent / name


def _step_aside(parent: Path) -> None:
    """Move the broker, and the supervisor with its children, into a leaf: but nobody else's processes."""
    ours = {os.getpid(), os.getppid()}
    if any(pid not in ours and _parent(pid) not in ours for pid in _pids(parent)):
        raise PermissionError("other processes share this cgroup")
    (parent / OWN).mkdir(exist_ok=True)
    for pid in _pids(parent):
        (parent / OWN / "cgroup.procs").write_text(str(pid), "ascii")


def _parent(pid: int) -> int:
    text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    return int(text[text.rindex(")") + 2 :].split()[1])


def _own_folders(mounts: str, own: str) -> Iterator[tuple[str, Path]]:
    """Controller (or ``unified``) and the folder of this process in it."""
    places = {}
    for line in own.splitlines():
        number, controllers, path = line.split(":", 2)
        for controller in ["unified"] if number == "0" else controllers.split(","):
            places[controller] = path
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        root, point = before.split()[3:5]
        kind, _, options = after.partition(" ")
        names = ["unified"] if kind == "cgroup2" else options.split()[-1].split(",") if kind == "cgroup" else []
        for controller in names:
            if controller in places:
                inside = os.path.relpath(places[controller], root)
                yield controller, Path(point) / ("" if inside.startswith("..") else inside)


def _controllers(path: Path) -> list[str]:
    try:
        return path.read_text("ascii").split()
    except OSError:
        return []


def _slices(numbers: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _pids(folder: Path) -> list[int]:
    try:
        return [int(word) for word in _text(f"{folder}/cgroup.procs").split()]
    except OSError:
        return []


def _text(path: str) -> str:
    """A small file of the kernel's. A run costs a dozen of them, and Python's own files four times as much each."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65_536):
            parts.append(part)
        return b"".join(parts).decode("ascii")
    finally:
        os.close(fd)


def _v2(limits: Limits) -> Iterator[tuple[str, str]]:
    if limits.memory_mb is not None:
        yield "memory.max", str(limits.memory_mb * _MIB)
        if not limits.swap:
            yield "memory.swap.max", "0"
    if limits.cpus is not None:
        yield "cpu.max", f"{int(limits.cpus * CPU_PERIOD)} {CPU_PERIOD}"
    if limits.pids is not None:
        yield "pids.max", str(limits.pids)


def _v1(limits: Limits) -> Iterator[tuple[str, str]]:
    if limits.memory_mb is not None:
        yield "memory.limit_in_bytes", str(limits.memory_mb * _MIB)
        if not limits.swap:
            yield "memory.memsw.limit_in_bytes", str(limits.memory_mb * _MIB)
    if limits.cpus is not None:
        yield "cpu.cfs_period_us", str(CPU_PERIOD)
        yield "cpu.cfs_quota_us", str(int(limits.cpus * CPU_PERIOD))
    if limits.pids is not None:
        yield "pids.max", str(limits.pids)
