"""How much of the machine each service may use.

Rule (SYS-5): the hard memory limits of all services together leave at least 256 MiB to the daemon, sshd and
the rest, and no service may take the last tenth of the processors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from appliance.services.model import Limits, ServiceName

RESERVED_MB = 256
ENGINE_MB = 192  # dockerd with containerd: 171 MiB measured at rest
PROXY_MB = 128  # Caddy: 31 MiB at rest, more with many connections
IDE_LEAST_MB = 384
LEAST_MB = 64  # what the broker takes for a limit at all
IDE_SHARE = 0.35  # beside a model; weights and their cache need the rest
IDE_ENOUGH_MB = 800  # a window on a small project: 461 MiB measured; a model that needs it gets what is above
CPU_SHARE = 0.9


class Machine(Struct, frozen=True):
    """What there is to share: MiB of memory and processors, after the limits of a container we may be in."""

    memory_mb: int
    cpus: float


def shares(
    machine: Machine, *, docker: bool, ai: bool, ide_memory_mb: int = 0, model_mb: int = 0
) -> Mapping[ServiceName, Limits]:
    """Limits of every service. ``ai``: the engine is installed. ``ide_memory_mb``: the owner's wish, 0 for
    none; it is granted as far as the rule allows. ``model_mb``: what the engine needs for the model in use, 0 if unknown; for
    it the IDE gives way down to what is enough."""
    reserved = max(RESERVED_MB, machine.memory_mb // 16) + (ENGINE_MB if docker else 0)
    free = max(machine.memory_mb - reserved - PROXY_MB, LEAST_MB)
    ide = min(ide_memory_mb or (_beside(free, model_mb) if ai else free), free)
    cpus = max(round(machine.cpus * CPU_SHARE, 2), 0.1)
    return {
        "proxy": Limits(PROXY_MB, cpus),
        "ide": Limits(ide, cpus),
        "ai": Limits(max(free - ide, LEAST_MB) if ai else free, cpus),
    }


def most_for_the_engine(machine: Machine, *, docker: bool, ide_memory_mb: int = 0) -> int:
    """MiB that a model may need and still be served beside the open editor."""
    wanted = machine.memory_mb  # more than there is: the IDE gives way as far as it does
    return shares(machine, docker=docker, ai=True, ide_memory_mb=ide_memory_mb, model_mb=wanted)["ai"].memory_mb


def _beside(free: int, model_mb: int) -> int:
    share = max(IDE_LEAST_MB, int(free * IDE_SHARE))
    return max(min(share, free - model_mb), min(share, IDE_ENOUGH_MB))


def measure(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Machine:
    """Ask the kernel. Limits of an enclosing container or cage count; those of our own systemd unit do not."""
    total = _meminfo_mb((proc / "meminfo").read_text())
    caps = [total] + [int(limit) >> 20 for limit in _limits(proc, cgroups)]
    return Machine(min(caps), float(len(os.sched_getaffinity(0))))


def _meminfo_mb(text: str) -> int:
    line = next(line for line in text.splitlines() if line.startswith("MemTotal:"))
    return int(line.split()[1]) >> 10


def _limits(proc: Path, cgroups: Path) -> list[int]:
    """Memory limits in bytes of our control group and all above it (v2 and v1)."""
    found = []
    for line in (proc / "self/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        if controllers not in {"", "memory"}:
            continue
        root, name = (cgroups / "memory", "memory.limit_in_bytes") if controllers else (cgroups, "memory.max")
        leaf = root / path.lstrip("/")
        start = leaf.parent if leaf.suffix == ".service" else leaf
        for folder in [start, *start.parents]:
            if folder.is_relative_to(root):
                found.append(_number_in(folder / name))
    return [limit for limit in found if limit]


def _number_in(path: Path) -> int:
    """The limit written there, or 0 for none (v1 writes a huge number, which min() disregards)."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0
