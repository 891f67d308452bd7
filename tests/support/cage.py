"""A cage as small as the smallest machine Croft is for: 2 GB of memory (or as much as asked), 2 GB of swap, by cgroup limits.

The two processors are the test machine's own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.broker.containers import group
from support.waiting import poll

GIB = 1 << 30


@dataclass(frozen=True)
class Cage:
    """``memory`` is the group that counts memory; ``folders`` are all that a process must enter; ``forgiven`` kills came before."""

    memory: Path
    folders: tuple[Path, ...]
    unified: bool
    forgiven: int = 0

    def enter(self) -> None:
        """Put the calling process, and all it will start, inside."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text("0")

    def oom_kills(self) -> int:
        """How often the kernel killed something for memory, anywhere in the cage."""
        name = "memory.events" if self.unified else "memory.oom_control"
        counts = (dict(line.split() for line in path.read_text().splitlines()) for path in self.memory.rglob(name))
        return sum(int(count.get("oom_kill", 0)) for count in counts) - self.forgiven

    def peak_mib(self) -> int:
        """The most memory the cage ever held, file cache included."""
        name = "memory.peak" if self.unified else "memory.max_usage_in_bytes"
        return int((self.memory / name).read_text()) >> 20


@contextlib.contextmanager
def small_machine(memory_mb: int = 2048) -> Iterator[Cage]:
    """The cage. Fails where cgroups cannot be written (the tests need root)."""
    name = f"croft-cage-{os.getpid()}"
    v1 = Path("/sys/fs/cgroup/memory")
    if v1.is_dir():
        memory = v1 / name
        cage = Cage(memory, (memory,), False)
        memory.mkdir()
        (memory / "memory.limit_in_bytes").write_text(str(memory_mb << 20))
        with contextlib.suppress(OSError):  # kernels without swap accounting
            (memory / "memory.memsw.limit_in_bytes").write_text(str((memory_mb << 20) + 2 * GIB))
    else:
        memory = Path("/sys/fs/cgroup") / name
        cage = Cage(memory, (memory,), True)
        memory.mkdir()
        (memory / "memory.max").write_text(str(memory_mb << 20))
        (memory / "memory.swap.max").write_text(str(2 * GIB))
    try:
        yield cage
    finally:
        poll(lambda: _removed(memory), "everything in the cage has ended", 20)


@contextlib.contextmanager
def small_machine_of_containers() -> Iterator[Cage]:
    """The same around all of the engine's containers, with a place for Croft itself beside them.

    The engine runs outside, so what it and containerd need at rest (171 MiB measured) is taken off.
    """
    v1 = Path("/sys/fs/cgroup/memory/docker")
    memory, unified = (v1, False) if v1.parent.is_dir() else (Path("/sys/fs/cgroup/docker"), True)
    inside = memory / f"croft-cage-{os.getpid()}"
    limit = "memory.max" if unified else "memory.limit_in_bytes"
    inside.mkdir(parents=True)
    (memory / limit).write_text(str(2 * GIB - (192 << 20)))
    cage = Cage(memory, (inside,), unified)
    before = cage.oom_kills()
    try:
        yield Cage(memory, (inside,), unified, before)
    finally:
        poll(lambda: _removed(inside), "everything in the cage has ended", 20)
        (memory / limit).write_text("max" if unified else "-1")


def _removed(folder: Path) -> bool:
    """Whether the group, with whatever empty groups are left in it, could be removed."""
    for inner in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            inner.rmdir()
    try:
        folder.rmdir()
    except OSError:
        return not folder.exists()
    return True


@contextlib.contextmanager
def holding(megabytes: int, beside: int) -> Iterator[subprocess.Popen[bytes]]:
    """A program that holds so much memory, in the groups of the process ``beside``."""
    folders = {*group(beside).folders.values()}

    def enter() -> None:
        for folder in folders:
            (folder / "cgroup.procs").write_text("0")

    code = f"held = bytearray(b'x') * ({megabytes} << 20); print('holds', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], preexec_fn=enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holds\n"
        yield process
        process.kill()
