"""The series that are kept: the one list that sampling, storage, charts and programs share.

Rule: a series is a column of both telemetry tables; a new one comes with a migration.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Unit = Literal["percent", "bytes", "rate", "number"]  # rate: bytes a second


class Series(NamedTuple):
    """One thing that is measured over time."""

    name: str
    unit: Unit


SERVICES = ("proxy", "ide", "ai")
SERIES: tuple[Series, ...] = (
    Series("cpu", "percent"),
    Series("steal", "percent"),
    Series("load", "number"),
    Series("memory", "bytes"),
    Series("pressure", "percent"),
    Series("swap", "bytes"),
    Series("swapping", "rate"),
    Series("disk", "bytes"),
    Series("disk_read", "rate"),
    Series("disk_write", "rate"),
    Series("net_in", "rate"),
    Series("net_out", "rate"),
    *(Series(f"cpu_{name}", "percent") for name in SERVICES),
    *(Series(f"memory_{name}", "bytes") for name in SERVICES),
)
NAMES: tuple[str, ...] = tuple(series.name for series in SERIES)
UNITS: dict[str, Unit] = {series.name: series.unit for series in SERIES}

Values = dict[str, float]  # by name; what is not known is left out
