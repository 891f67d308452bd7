"""How much of the machine each service may use, at its start and while it runs.

Rule (SYS-5): the hard memory limits of all services together leave at least 256 MiB to the daemon, sshd and the rest, and no service
may take the last tenth of the processors. A limit never goes below what a service holds: whoever needs that room waits for it, and
nobody's work is ended. Pure, but for :func:`measure`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from appliance.errors import Unavailable

RESERVED_MB = 256
ENGINE_MB = 192  # dockerd with containerd: 171 MiB measured at rest
PROXY_MB = 128  # Caddy: 31 MiB at rest, more with many connections
IDE_LEAST_MB = 384
LEAST_MB = 64  # no service does anything with less
IDE_SHARE = 0.35  # beside a model; weights and their cache need the rest
IDE_ENOUGH_MB = 800  # a window on a small project: 461 MiB measured; a model that needs it gets what is above
SLACK_MB = 64  # what a service keeps beyond what it holds: a limit at its very edge would end it with the next page
CPU_SHARE = 0.9
_SHARING = ("ide", "ai")  # the proxy's is its own, whatever the others take


class NoRoom(Unavailable):
    """What runs holds the memory that a service needs to start."""

    code = "no_room"


class Machine(NamedTuple):
    """What there is to share: MiB of memory and processors, after the limits of a container we may be in."""

    memory_mb: int
    cpus: float


class Share(NamedTuple):
    """What one service may use: MiB, and cores (1.5 = one and a half)."""

    memory_mb: int
    cpus: float


class Use(NamedTuple):
    """One running service in MiB: the limit written for it, and what it holds that the kernel could not take back."""

    limit_mb: int
    held_mb: int


class Plan(NamedTuple):
    """``shares`` has the engine only where a model is chosen. ``free_mb`` is what IDE and engine share; with less than ``need_mb``
    the engine does not start."""

    shares: Mapping[str, Share]
    free_mb: int
    need_mb: int


def plan(machine: Machine, *, docker: bool, ide_memory_mb: int = 0, model_mb: int | None = None) -> Plan:
    """``ide_memory_mb``: the owner's wish, 0 for none; it is granted as far as the rule allows. ``model_mb``: what the engine needs for
    the model in use, 0 if unknown, None without a model; for it the IDE gives way down to what is enough."""
    reserved = max(RESERVED_MB, machine.memory_mb // 16) + (ENGINE_MB if docker else 0)
    free = max(machine.memory_mb - reserved - PROXY_MB, LEAST_MB)
    cpus = max(round(machine.cpus * CPU_SHARE, 2), 0.1)
    ide = min(ide_memory_mb or (free if model_mb is None else _beside(free, model_mb)), free)
    shares = {"proxy": Share(PROXY_MB, cpus), "ide": Share(ide, cpus)}
    if model_mb is None:
        return Plan(shares, free, 0)
    ai = max(free - ide, LEAST_MB)
    return Plan(shares | {"ai": Share(ai, cpus)}, free, min(model_mb or ai, ai))


def most_for_the_engine(machine: Machine, *, docker: bool, ide_memory_mb: int = 0) -> int:
    """MiB that a model may need and still be served beside the open editor."""
    wanted = machine.memory_mb  # more than there is: the IDE gives way as far as it does
    return plan(machine, docker=docker, ide_memory_mb=ide_memory_mb, model_mb=wanted).shares["ai"].memory_mb


def given(plan: Plan, service: str, running: Mapping[str, Use]) -> Share:
    """What ``service`` starts with beside what runs: its share, or what is left where another still holds some of that. Raises NoRoom
    for an engine that could not load its model in that; the IDE always starts."""
    share = plan.shares[service]
    if service not in _SHARING:
        return share
    left = plan.free_mb - sum(running[name].limit_mb for name in _SHARING if name in running and name != service)
    if service == "ai" and left < plan.need_mb:
        raise NoRoom("the ide service holds memory that the ai service needs")
    return share._replace(memory_mb=max(min(share.memory_mb, left), LEAST_MB))


def lowered(plan: Plan, running: Mapping[str, Use]) -> dict[str, int]:
    """The limits to write that are lower than now, in MiB: down to the share, or as far as what the service holds allows."""
    wanted = {
        name: max(plan.shares[name].memory_mb, use.held_mb + SLACK_MB)
        for name, use in running.items()
        if name in plan.shares
    }
    return {name: limit for name, limit in wanted.items() if limit < running[name].limit_mb}


def raised(plan: Plan, running: Mapping[str, Use]) -> dict[str, int]:
    """The limits to write that are higher than now, in MiB: up to the share, as far as the others leave it."""
    limits = {name: use.limit_mb for name, use in running.items()}
    found = {}
    for name in (name for name in _SHARING if name in running and name in plan.shares):
        left = plan.free_mb - sum(limits[other] for other in _SHARING if other in limits and other != name)
        wanted = min(plan.shares[name].memory_mb, left)
        if wanted > limits[name]:
            found[name] = limits[name] = wanted
    return found


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
