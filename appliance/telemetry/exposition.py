"""Prometheus' text format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). Pure.

Rule: names end in their base unit, counters in ``_total``; nothing here names a person, a file, an address or a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]


class Metric(Struct, frozen=True):
    """One family: name, type, help, and a value for each set of labels."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    values: Sequence[tuple[Labels, float]] = ()


def render(metrics: Iterable[Metric]) -> str:
    """The document; families without values are left out."""
    lines: list[str] = []
    for metric in metrics:
        if not metric.values:
            continue
        lines += [f"# HELP {metric.name} {_plain(metric.help)}", f"# TYPE {metric.name} {metric.kind}"]
        lines += [f"{metric.name}{_labels(labels)} {_number(value)}" for labels, value in metric.values]
    return "\n".join(lines) + "\n"


def of_machine(now: Mapping[str, float], counters: Mapping[str, float], ticks: int) -> list[Metric]:
    """Families of the machine. ``ticks`` of ``counters`` are a second (SC_CLK_TCK)."""

    def gauge(name: str, text: str, value: float) -> Metric:
        return Metric(f"croft_machine_{name}", "gauge", text, [({}, value)])

    def counter(name: str, text: str, source: str, unit: float = 1.0) -> Metric:
        values: list[tuple[Labels, float]] = [({}, counters[source] / unit)] if source in counters else []
        return Metric(f"croft_machine_{name}", "counter", text, values)

    return [
        counter("cpu_busy_seconds_total", "CPU time spent working, all cores together.", "cpu_busy", ticks),
        counter(
            "cpu_seconds_total", "CPU time that passed, all cores together, idle time included.", "cpu_total", ticks
        ),
        counter("cpu_steal_seconds_total", "CPU time the host gave to others.", "cpu_steal", ticks),
        gauge("cpus", "Cores of the machine.", now["cpus"]),
        gauge("load1", "Load average of one minute.", now["load"]),
        gauge("memory_total_bytes", "Memory of the machine.", now["memory_total"]),
        gauge("memory_used_bytes", "Memory that is not available to new programs.", now["memory_used"]),
        gauge("swap_total_bytes", "Swap space of the machine.", now["swap_total"]),
        gauge("swap_used_bytes", "Swap space in use.", now["swap_used"]),
        counter("swap_io_bytes_total", "Bytes moved to and from swap.", "swapped"),
        counter("oom_kills_total", "Processes the kernel ended for lack of memory.", "oom_kills"),
        gauge("disk_total_bytes", "Size of the disk that holds the state.", now["disk_total"]),
        gauge("disk_used_bytes", "Space in use on the disk that holds the state.", now["disk_used"]),
        counter("disk_read_bytes_total", "Bytes read from disks.", "disk_read"),
        counter("disk_written_bytes_total", "Bytes written to disks.", "disk_write"),
        counter("network_receive_bytes_total", "Bytes received from outside the machine.", "net_in"),
        counter("network_transmit_bytes_total", "Bytes sent out of the machine.", "net_out"),
        gauge("uptime_seconds", "Time since the machine started.", now["uptime"]),
    ]


def _labels(labels: Labels) -> str:
    inner = ",".join(f'{name}="{_value(value)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""


def _plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _value(text: str) -> str:
    return _plain(text).replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
