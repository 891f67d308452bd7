"""What this machine is: read from /proc, /sys and /etc, never by running a program.

Rule: standard library only and no side effects; the installer reads it before anything is installed.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

DOCKER_SOCKET = "/var/run/docker.sock"
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp (include/net/tcp_states.h)


@dataclass(frozen=True)
class Machine:
    """Facts about one machine. Sizes are in MiB."""

    os_id: str
    os_version: str
    os_name: str
    arch: str
    python: tuple[int, int]
    systemd: bool
    container: str
    memory_mb: int
    swap_mb: int
    cpus: int
    cpu_flags: frozenset[str]
    disk_free_mb: int
    ipv6: bool
    docker: bool


def read(root: Path = Path("/")) -> Machine:
    """Read the facts. ``root`` is another machine's file tree in tests."""
    release = _os_release(root)
    memory = _meminfo(root)
    return Machine(
        os_id=release.get("ID", ""),
        os_version=release.get("VERSION_ID", ""),
        os_name=release.get("PRETTY_NAME", "an unknown system"),
        arch=platform.machine(),
        python=sys.version_info[:2],
        systemd=(root / "run/systemd/system").is_dir(),
        container=_container(root),
        memory_mb=memory.get("MemTotal", 0) // 1024,
        swap_mb=memory.get("SwapTotal", 0) // 1024,
        cpus=os.cpu_count() or 1,
        cpu_flags=_cpu_flags(root),
        disk_free_mb=shutil.disk_usage(root).free >> 20,
        ipv6=_has_global_ipv6(root),
        docker=docker_answers(root),
    )


def docker_answers(root: Path = Path("/")) -> bool:
    """Whether a Docker engine answers on its usual socket."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(3)
            client.connect(str(root / DOCKER_SOCKET.lstrip("/")))
            client.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in client.recv(256)
    except OSError:
        return False


@dataclass(frozen=True)
class Listener:
    """Who listens on a TCP port; ``pid`` is 0 where the owner cannot be seen."""

    port: int
    pid: int
    program: str
    uid: int


def listeners(port: int, proc: Path = Path("/proc")) -> list[Listener]:
    """Everything that listens on TCP ``port``, on any address, IPv4 or IPv6 (proc(5), net/tcp)."""
    inodes: dict[str, int] = {}
    for name in ("net/tcp", "net/tcp6"):
        inodes |= _listening_inodes(proc / name, port)
    owners = _owners(proc, set(inodes)) if inodes else {}
    found = {Listener(port, *owners.get(inode, (0, "another program")), uid) for inode, uid in inodes.items()}
    return sorted(found, key=lambda listener: listener.pid)


def _listening_inodes(table: Path, port: int) -> dict[str, int]:
    try:
        rows = table.read_text("ascii").splitlines()[1:]
    except OSError:
        return {}
    found = {}
    for row in rows:
        columns = row.split()
        if columns[3] == _LISTEN and int(columns[1].rsplit(":", 1)[1], 16) == port:
            found[columns[9]] = int(columns[7])
    return found


def _owners(proc: Path, inodes: set[str]) -> dict[str, tuple[int, str]]:
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    owners: dict[str, tuple[int, str]] = {}
    for process in proc.iterdir():
        if process.name.isdigit():
            for inode in _sockets_of(process, wanted):
                owners[inode] = (int(process.name), _name_of(process))
    return owners


def _sockets_of(process: Path, wanted: dict[str, str]) -> list[str]:
    found = []
    try:
        for descriptor in (process / "fd").iterdir():
            inode = wanted.get(str(descriptor.readlink()))
            if inode is not None:
                found.append(inode)
    except OSError:  # the process ended, or belongs to somebody else
        pass
    return found


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return "another program"


def _os_release(root: Path) -> dict[str, str]:
    """os-release(5): shell-like assignments."""
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            lines = (root / name).read_text("utf-8").splitlines()
        except OSError:
            continue
        pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        return {key: value.strip().strip("\"'") for key, value in pairs}
    return {}


def _meminfo(root: Path) -> dict[str, int]:
    """Kibibytes by name, lowered to the limit of the memory cgroup this process lives in, if there is one."""
    try:
        lines = (root / "proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return {}
    values = {line.split(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = (root / name).read_text("ascii").strip()
        except OSError:
            continue
        if limit.isdigit():
            values["MemTotal"] = min(values.get("MemTotal", 0), int(limit) // 1024)
    return values


def _cpu_flags(root: Path) -> frozenset[str]:
    try:
        lines = (root / "proc/cpuinfo").read_text("ascii", "replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _container(root: Path) -> str:
    """The kind of container, or an empty text; OpenVZ and LXC plans are sold as servers too."""
    if (root / "proc/vz").exists() and not (root / "proc/bc").exists():
        return "openvz"
    if (root / ".dockerenv").exists():
        return "docker"
    try:
        words = (root / "proc/1/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    kinds = [word.partition(b"=")[2].decode("ascii", "replace") for word in words if word.startswith(b"container=")]
    return kinds[0] if kinds else ""


def _has_global_ipv6(root: Path) -> bool:
    """proc net/if_inet6: the fourth column is the scope, 00 is global."""
    try:
        rows = (root / "proc/net/if_inet6").read_text("ascii").splitlines()
    except OSError:
        return False
    return any(row.split()[3] == "00" for row in rows)
