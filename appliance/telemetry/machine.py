"""What the machine is: facts that do not change while one looks. psutil is imported when somebody first asks.

Rule: nothing here that a viewer may not see: no serial numbers, no names of other programs.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct


class Facts(Struct, frozen=True):
    """Words as the machine gives them; empty where it does not."""

    system: str
    kernel: str
    architecture: str
    processor: str
    cores: int
    threads: int
    addresses: tuple[str, ...]
    started_at: float


def facts(root: Path = Path("/")) -> Facts:
    """Takes some ten milliseconds: call it in a thread."""
    import psutil

    return Facts(
        system=_os_release(root).get("PRETTY_NAME", "Linux"),
        kernel=platform.release(),
        architecture=platform.machine(),
        processor=_processor(root),
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        threads=os.cpu_count() or 1,
        addresses=tuple(_addresses(psutil.net_if_addrs())),
        started_at=psutil.boot_time(),
    )


def _addresses(interfaces: Mapping[str, Sequence[Any]]) -> list[str]:
    """Addresses by which others may reach the machine: no loopback, no link-local, none of containers."""
    import ipaddress
    import socket

    found = []
    for name, entries in interfaces.items():
        if name.startswith(("veth", "docker", "br-", "virbr")):
            continue
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            address = ipaddress.ip_address(entry.address.partition("%")[0])
            if not address.is_loopback and not address.is_link_local:
                found.append(str(address))
    return found


def _os_release(root: Path) -> dict[str, str]:
    try:
        lines = (root / "etc/os-release").read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    return {name: value.strip().strip("\"'") for name, _, value in (line.partition("=") for line in lines)}


def _processor(root: Path) -> str:
    try:
        lines = (root / "proc/cpuinfo").read_text("ascii", "replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
