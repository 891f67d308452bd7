"""The checks a machine must pass: one list that the installer and `croft doctor` both run.

Rule: a check only looks. Each says pass, warn or fail, with what was seen and what to do about it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from appliance.host.machine import Listener, Machine, listeners

# Versions of the two distributions whose packages the installer knows by name.
SUPPORTED = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04")}
ARCHITECTURES = ("x86_64", "aarch64")
KEEP_FREE_MB = 6144  # what an owner was promised for projects on the smallest disk
OLDEST_CLOCK = 1_790_000_000  # September 2026: before this release, so a clock behind it is wrong


class Level(StrEnum):
    """How bad a finding is. Only ``FAIL`` stops an installation."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Need:
    """What a runtime takes, in MiB: on disk for good, on disk at the worst moment, and over the network."""

    disk_mb: int
    peak_mb: int
    download_mb: int
    memory_mb: int


ENGINE = Need(110, 150, 35, 0)


@dataclass(frozen=True)
class Subject:
    """What is being checked. ``own_uids`` are accounts whose listeners are Croft's own."""

    machine: Machine
    runtime: str
    http_port: int = 80
    https_port: int = 443
    behind_proxy: bool = False
    installed: bool = False
    bundled: bool = False
    engine: bool = False
    own_uids: frozenset[int] = frozenset()
    now: Callable[[], float] = time.time
    listeners: Callable[[int], list[Listener]] = listeners


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: the level, what was seen, and the owner's next step."""

    level: Level
    detail: str
    suggestion: str = ""


@dataclass(frozen=True)
class Check:
    """One row of the list."""

    id: str
    title: str
    run: Callable[[Subject], Finding]


def need(runtime: str, *, bundled: bool = False, engine: bool = False) -> Need:
    """What ``runtime`` takes; ``bundled`` means that the programs or images come from a local file, ``engine`` that one for local
    models is installed (measured: 102 MiB unpacked, a wheel of 33).

    Disk figures of the process runtime are a Debian 12 installation's, rounded up; its download and docker's figures
    are estimates on the safe side.
    """
    if runtime == "docker":
        return Need(2600, 3600, 0 if bundled else 1100, 1800)
    plain = Need(900, 1200, 60, 900) if bundled else Need(900, 2400, 420, 900)
    more = ENGINE if engine else Need(0, 0, 0, 0)
    return Need(
        plain.disk_mb + more.disk_mb,
        plain.peak_mb + more.peak_mb,
        plain.download_mb + more.download_mb,
        plain.memory_mb,
    )


def run(subject: Subject) -> list[tuple[Check, Finding]]:
    """Every check in order. A check never raises for what it finds."""
    return [(check, check.run(subject)) for check in CHECKS]


def refused(results: list[tuple[Check, Finding]]) -> bool:
    """Whether any check failed."""
    return any(finding.level is Level.FAIL for _, finding in results)


def _system(subject: Subject) -> Finding:
    machine = subject.machine
    if machine.os_version in SUPPORTED.get(machine.os_id, ()):
        return Finding(Level.PASS, machine.os_name)
    return Finding(
        Level.FAIL,
        f"{machine.os_name} is not one that Croft is tested on",
        "Use Debian 12 or 13, or Ubuntu 22.04 or 24.04.",
    )


def _python(subject: Subject) -> Finding:
    version = ".".join(map(str, subject.machine.python))
    if subject.machine.python >= (3, 11):
        return Finding(Level.PASS, f"Python {version}")
    return Finding(Level.FAIL, f"Python {version} is too old", "Install python3.11 and python3.11-venv with apt.")


def _architecture(subject: Subject) -> Finding:
    machine = subject.machine
    if machine.arch not in ARCHITECTURES:
        return Finding(Level.FAIL, f"processor type {machine.arch}", "Use a 64-bit x86 or ARM machine.")
    if machine.arch == "x86_64" and "avx2" not in machine.cpu_flags:
        return Finding(Level.WARN, "the processor has no AVX2", "Everything works, but local models will be slow.")
    return Finding(Level.PASS, f"{machine.arch}, {machine.cpus} cores")


def _memory(subject: Subject) -> Finding:
    machine, least = subject.machine, need(subject.runtime).memory_mb
    seen = f"{machine.memory_mb} MB of memory, {machine.swap_mb} MB of swap"
    if machine.memory_mb < least:
        other = " or use --runtime process" if subject.runtime == "docker" else ""
        return Finding(Level.FAIL, f"{seen}; {subject.runtime} needs {least} MB", f"Use a larger machine{other}.")
    if machine.memory_mb < 1800 and machine.swap_mb < 512:
        return Finding(Level.WARN, seen, "Add 2 GB of swap, or large projects will run out of memory.")
    return Finding(Level.PASS, seen)


def _disk(subject: Subject) -> Finding:
    needs = need(subject.runtime, bundled=subject.bundled, engine=subject.engine)
    free = subject.machine.disk_free_mb
    if subject.installed:
        level = Level.PASS if free >= 1024 else Level.WARN
        return Finding(level, f"{free / 1024:.1f} GB free", "" if level is Level.PASS else "Free some disk space.")
    takes = (
        f"{needs.disk_mb / 1024:.1f} GB on disk ({needs.peak_mb / 1024:.1f} GB at the worst moment), "
        f"{needs.download_mb} MB to download"
    )
    if free - needs.disk_mb < KEEP_FREE_MB or free < needs.peak_mb:
        return Finding(
            Level.FAIL,
            f"{free / 1024:.1f} GB free; {subject.runtime} takes {takes}",
            f"Have {(KEEP_FREE_MB + needs.disk_mb) / 1024:.1f} GB free: 6 GB must stay for your work.",
        )
    return Finding(Level.PASS, f"{free / 1024:.1f} GB free; {subject.runtime} takes {takes}")


def _ports(subject: Subject) -> Finding:
    ports = (subject.http_port,) if subject.behind_proxy else (subject.http_port, subject.https_port)
    found = [listener for port in ports for listener in subject.listeners(port)]
    taken = [listener for listener in found if listener.uid not in subject.own_uids]
    if taken:
        return _taken(taken[0])
    if subject.installed and not found:
        return Finding(Level.WARN, f"nothing of Croft listens on port {ports[-1]}", "See `croft services list`.")
    return Finding(Level.PASS, f"{'port' if len(ports) == 1 else 'ports'} {' and '.join(map(str, ports))}")


def _taken(listener: Listener) -> Finding:
    who = listener.program + (f" (process {listener.pid})" if listener.pid else "")
    kind = {"nginx": "nginx", "apache2": "apache", "caddy": "caddy"}.get(listener.program)
    front = f"--behind-proxy {kind}" if kind else "--behind-proxy nginx|apache|caddy"
    return Finding(
        Level.FAIL,
        f"port {listener.port} is taken by {who}",
        f"Stop it, choose --http-port and --https-port, or keep it in front with {front}.",
    )


def _clock(subject: Subject) -> Finding:
    now = subject.now()
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < OLDEST_CLOCK:
        return Finding(
            Level.FAIL,
            f"the clock says {shown}, which is in the past",
            "Set it (timedatectl set-ntp true): certificates and sign-in links depend on it.",
        )
    return Finding(Level.PASS, shown)


def _place(subject: Subject) -> Finding:
    machine = subject.machine
    if subject.runtime == "docker" and not machine.docker and machine.container:
        # Only where Docker was asked for by name: some hosts let containers nest.
        return Finding(
            Level.WARN if machine.systemd else Level.FAIL,
            f"this is a {machine.container} container without a Docker engine",
            "If the engine does not start here, use --runtime process.",
        )
    manager = "systemd" if machine.systemd else "no systemd: Croft runs in the foreground"
    return Finding(Level.PASS, f"{machine.container or 'a whole machine'}, {manager}")


def _network(subject: Subject) -> Finding:
    return Finding(Level.PASS, "IPv4 and IPv6" if subject.machine.ipv6 else "IPv4 only")


CHECKS: tuple[Check, ...] = (
    Check("system", "Operating system", _system),
    Check("python", "Python", _python),
    Check("processor", "Processor", _architecture),
    Check("memory", "Memory", _memory),
    Check("disk", "Disk", _disk),
    Check("ports", "Ports", _ports),
    Check("clock", "Clock", _clock),
    Check("place", "Kind of machine", _place),
    Check("network", "Network", _network),
)
