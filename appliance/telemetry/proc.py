"""The machine's counters, read from procfs through files that stay open: 0.05 ms a look instead of psutil's 0.2.

Rule: what a kernel does not tell, or tells in another shape, is left out; a look never raises.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct, field

FILES = ("stat", "meminfo", "loadavg", "net/dev", "vmstat", "diskstats", "pressure/memory")
# The dear ones, read at every tenth look: counters grow by as much over ten seconds, so the means of a row are the same.
SLOW, SLOW_EVERY = ("vmstat", "diskstats", "pressure/memory"), 10
QUICK = tuple(name for name in FILES if name not in SLOW)
MOST = 64 * 1024  # bytes read of one file; hundreds of CPUs or disks fit
PAGE = os.sysconf("SC_PAGE_SIZE")
SECTOR = 512  # of /proc/diskstats, whatever the disk's own is (Documentation/admin-guide/iostats.rst)

# Whole disks: partitions and mapped devices would count the same bytes again.
_DISK = re.compile(r"(?:sd|vd|xvd|hd)[a-z]+|nvme\d+n\d+|mmcblk\d+")
# Inside the machine: traffic of containers passes a real interface too, if it leaves.
_INNER = re.compile(r"lo|veth|docker|br-|virbr|ifb|dummy|cni|tap")


class Look(Struct):
    """One reading. ``counters`` only grow while the machine runs; ``levels`` are of this moment."""

    counters: dict[str, float] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)


class Readings:
    """Keeps the files open. ``root`` is where procfs is; ``slow_every`` says at which looks the dear files are read."""

    def __init__(self, root: Path = Path("/proc"), *, slow_every: int = SLOW_EVERY) -> None:
        self._files: dict[str, int] = {}
        self._slow_every = slow_every
        self._looks = 0
        self._slow = Look()
        for name in FILES:
            with contextlib.suppress(OSError):  # no pressure on older kernels, no diskstats in some containers
                self._files[name] = os.open(root / name, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def look(self) -> Look:
        """Everything that can be read now."""
        if self._looks % self._slow_every == 0:
            self._slow = Look()
            self._read(SLOW, self._slow)
        self._looks += 1
        look = Look(dict(self._slow.counters), dict(self._slow.levels))
        self._read(QUICK, look)
        return look

    def _read(self, names: tuple[str, ...], look: Look) -> None:
        for name in names:
            if name in self._files:
                with contextlib.suppress(OSError, ValueError, IndexError):
                    _PARSERS[name](os.pread(self._files[name], MOST, 0), look)


def _stat(raw: bytes, look: Look) -> None:
    """user nice system idle iowait irq softirq steal guest guest_nice, in ticks; guests are counted in user already."""
    ticks = [float(word) for word in raw.split(b"\n", 1)[0].split()[1:9]]
    idle = ticks[3] + (ticks[4] if len(ticks) > 4 else 0.0)
    steal = ticks[7] if len(ticks) > 7 else 0.0
    total = sum(ticks)
    look.counters |= {"cpu_total": total, "cpu_busy": total - idle - steal, "cpu_steal": steal}


def _meminfo(raw: bytes, look: Look) -> None:
    rows = _rows(raw, (b"MemTotal:", b"MemAvailable:", b"SwapTotal:", b"SwapFree:"))
    total, available, swap, free = (1024 * row for row in rows)
    look.levels |= {
        "memory_total": total,
        "memory": total - available,
        "swap_total": swap,
        "swap": swap - free,
    }


def _vmstat(raw: bytes, look: Look) -> None:
    paged_in, paged_out = _rows(raw, (b"\npswpin ", b"\npswpout "))
    look.counters["swapped"] = (paged_in + paged_out) * PAGE
    if b"\noom_kill " in raw:
        look.counters["oom_kills"] = _rows(raw, (b"\noom_kill ",))[0]


def _loadavg(raw: bytes, look: Look) -> None:
    look.levels["load"] = float(raw.split()[0])


def _diskstats(raw: bytes, look: Look) -> None:
    read = written = 0
    for line in raw.decode("ascii", "replace").splitlines():
        words = line.split()
        if len(words) > 9 and _DISK.fullmatch(words[2]):
            read, written = read + int(words[5]), written + int(words[9])
    look.counters |= {"disk_read": float(read * SECTOR), "disk_write": float(written * SECTOR)}


def _net(raw: bytes, look: Look) -> None:
    received = sent = 0
    for line in raw.decode("ascii", "replace").splitlines()[2:]:
        name, _, rest = line.partition(":")
        words = rest.split()
        if not _INNER.match(name.strip()) and len(words) > 8:
            received, sent = received + int(words[0]), sent + int(words[8])
    look.counters |= {"net_in": float(received), "net_out": float(sent)}


def _pressure(raw: bytes, look: Look) -> None:
    """``some avg10=0.12 avg60=...``: percent of the last ten seconds (Documentation/accounting/psi.rst)."""
    look.levels["pressure"] = float(raw.split(b"avg10=", 1)[1].split(b" ", 1)[0])


def _rows(raw: bytes, heads: tuple[bytes, ...]) -> list[int]:
    """The number after each of ``heads``. Raises IndexError where one is missing."""
    return [int(raw.split(head, 1)[1].split(None, 1)[0]) for head in heads]


_PARSERS: dict[str, Callable[[bytes, Look], None]] = dict(
    zip(FILES, (_stat, _meminfo, _loadavg, _net, _vmstat, _diskstats, _pressure), strict=True)
)


def between(before: Look, after: Look, seconds: float) -> dict[str, float]:
    """Series of the time between two looks. A counter that went back (an interface left) is not known."""
    found: dict[str, float] = {
        name: after.levels[name] for name in ("load", "memory", "swap", "pressure") if name in after.levels
    }
    grown = {
        name: value - before.counters[name]
        for name, value in after.counters.items()
        if value >= before.counters.get(name, value + 1)
    }
    if (ticks := grown.get("cpu_total", 0.0)) > 0:
        for name, counter in (("cpu", "cpu_busy"), ("steal", "cpu_steal")):
            if counter in grown:
                found[name] = min(100.0, 100 * grown[counter] / ticks)
    rates = {"swapped": "swapping"} | {name: name for name in ("disk_read", "disk_write", "net_in", "net_out")}
    if seconds > 0:
        found |= {series: grown[counter] / seconds for counter, series in rates.items() if counter in grown}
    return found
