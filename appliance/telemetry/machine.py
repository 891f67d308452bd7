"""The machine's figures of this moment, read when somebody looks (psutil; no sampling in the background yet)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil


class Machine:
    """Reads figures; CPU is the share since the last reading."""

    def __init__(self, state: Path) -> None:
        self._state = state
        psutil.cpu_percent(interval=None)

    def __call__(self) -> dict[str, Any]:
        """Bytes, percent, seconds; ``load`` is the one-minute load average."""
        memory, swap, disk = psutil.virtual_memory(), psutil.swap_memory(), psutil.disk_usage(str(self._state))
        return {
            "cpu_percent": psutil.cpu_percent(interval=None),
            "cpus": os.cpu_count() or 1,
            "load": os.getloadavg()[0],
            "memory_used": memory.total - memory.available,
            "memory_total": memory.total,
            "swap_used": swap.used,
            "swap_total": swap.total,
            "disk_used": disk.used,
            "disk_total": disk.used + disk.free,
            "uptime": float(Path("/proc/uptime").read_text("ascii").split()[0]),
        }
