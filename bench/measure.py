"""Measuring: rounds that interleave what is compared, load by wrk, memory and CPU of whole process trees.

Rule: a figure is the ratio of two things measured in turn within one run; an absolute number only stands beside it.
"""

from __future__ import annotations

import json
import re
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path


class NotRun(Exception):
    """The item cannot be measured here; the words say why."""


@dataclass
class Figure:
    """One line of the table. ``value`` is compared with ``must``: at least it, or at most it when ``at_most``."""

    id: str
    what: str
    must: float
    stretch: float
    at_most: bool
    value: float | None = None
    why: str = ""
    detail: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.value is None:
            return f"not run: {self.why}"

        def reached(goal: float) -> bool:
            return self.value <= goal if self.at_most else self.value >= goal

        return "stretch" if reached(self.stretch) else "ok" if reached(self.must) else "MISSED"

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"verdict": self.verdict}


def interleave(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure every variant once a round, turning the order round by round."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants)
    for number in range(rounds):
        for name in order if number % 2 == 0 else reversed(order):
            found[name].append(variants[name]())
    return found


def ratio(found: Mapping[str, list[float]], above: str, below: str) -> float:
    """The median of the rounds' own ratios: what drifts between rounds cancels out."""
    return statistics.median(a / b for a, b in zip(found[above], found[below], strict=True))


def medians(found: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in found.items()}


@dataclass(frozen=True)
class Load:
    """What wrk saw: requests per second, answers that were not 2xx or 3xx, latencies in milliseconds."""

    rate: float
    bad: int
    p50: float
    p99: float


def wrk(url: str, connections: int, seconds: int, headers: Iterable[str] = ()) -> Load:
    """Load ``url`` from two threads. Raises RuntimeError when wrk cannot run."""
    threads = min(2, connections)
    command = ["wrk", "-t", str(threads), "-c", str(connections), "-d", f"{seconds}s", "--latency", "--timeout", "10s"]
    for header in headers:
        command += ["-H", header]
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=seconds + 30, check=False)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if done.returncode or not rate:
        raise RuntimeError(f"cannot load {url}: {done.stderr or done.stdout}")
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    return Load(float(rate[1]), int(bad[1]) if bad else 0, _latency(done.stdout, "50%"), _latency(done.stdout, "99%"))


def _latency(text: str, row: str) -> float:
    match = re.search(rf"{row}\s+([\d.]+)(us|ms|s)", text)
    return float(match[1]) * {"us": 0.001, "ms": 1, "s": 1000}[match[2]] if match else 0.0


def tree(pid: int) -> list[int]:
    """``pid`` and everything beneath it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found


def pss_mb(pids: Iterable[int]) -> float:
    """Proportional set size of the processes, in MB (smaps_rollup)."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU used so far by all threads of the processes, to the nanosecond (schedstat)."""
    total = 0
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(path.read_text().split()[0])
            except OSError:
                continue
    return total / 1e9


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"timed out: {what}")
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def save(path: Path, figures: list[Figure], facts: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"machine": facts, "figures": [figure.as_json() for figure in figures]}, indent=1) + "\n"
    )
