"""Time charts as values: paths, gridlines, labels, a summary in words and the table behind, from points to what templates draw.

Rule: pure but for :func:`draw`, and the table and the sentence tell the same figures as the drawing. Time runs from left to right in both
languages (docs/decisions/0006); where nothing is known nothing is drawn.

A plot is drawn twice over: lines in a box of ``slots`` by 100 units that stretches with the page, labels outside of it, so
that letters and strokes never stretch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec
from jinja2 import Environment
from markupsafe import Markup
from msgspec import Struct

from appliance.telemetry.series import SERVICES, UNITS, Unit
from appliance.telemetry.store import Points
from webui.i18n import Translator

Figures = Sequence[float | None]


class Span(NamedTuple):
    """A stretch of time that can be shown. Seconds: the whole, one slot, between labels, one row of the table."""

    name: Literal["hour", "day", "month"]
    seconds: int
    slot: int
    tick: int
    row: int


SPANS: dict[str, Span] = {
    "hour": Span("hour", 3600, 30, 600, 300),
    "day": Span("day", 86_400, 600, 3 * 3600, 3600),
    "month": Span("month", 30 * 86_400, 6 * 3600, 5 * 86_400, 86_400),
}


class Spec(NamedTuple):
    """One chart: its series, and which of the machine's figures is the top of its scale ("" for a scale of its own)."""

    name: str
    series: tuple[str, ...]
    limit: str = ""


HOME = (
    Spec("cpu", ("cpu",)),
    Spec("memory", ("memory",), "memory_total"),
    Spec("swap", ("swap",), "swap_total"),
    Spec("disk", ("disk",), "disk_total"),
    Spec("network", ("net_in", "net_out")),
)
MACHINE = (*HOME, Spec("disk_io", ("disk_read", "disk_write")), Spec("load", ("load",)))
SERVICE = {
    name: (Spec(f"cpu_{name}", (f"cpu_{name}",)), Spec(f"memory_{name}", (f"memory_{name}",), f"limit_{name}"))
    for name in SERVICES
}


class Line(Struct, frozen=True):
    """``path`` of the means, ``area`` beneath it, ``peak`` of the highest; ``values`` by slot, for read-outs."""

    name: str
    label: str
    path: str
    area: str
    peak: str
    values: list[float | None]


class Tick(Struct, frozen=True):
    """A label of the time axis: ``x`` in percent, ``at`` in Unix seconds."""

    x: float
    at: int
    text: str


class TableRow(Struct, frozen=True):
    """``cells``: mean and highest of each line, in words; "" where nothing is known."""

    at: int
    text: str
    cells: list[str]


class Chart(Struct, frozen=True):
    """Everything a template needs; ``scale`` from the top down."""

    name: str
    unit: Unit
    title: str
    summary: str
    latest: str
    begin: int
    slot: int
    slots: int
    scale: list[str]
    lines: list[Line]
    ticks: list[Tick]
    jumps: list[float]
    rows: list[TableRow]
    known: bool

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


class Drawing(NamedTuple):
    """A chart and its markup."""

    chart: Chart
    html: Markup


def draw(environment: Environment, made: Chart, t: Translator) -> Drawing:
    """``made`` as markup."""
    return Drawing(made, Markup(environment.get_template("chart.html").render(c=made, t=t)))  # noqa: S704 - our own template


def window(span: Span, now: float) -> tuple[int, int]:
    """Begin and end of what is shown at ``now``: whole slots, the present one included."""
    end = int(now // span.slot + 1) * span.slot
    return end - span.seconds, end


def chart(spec: Spec, points: Points, limits: Mapping[str, float], span: Span, t: Translator) -> Chart:
    """``limits``: the machine's figures of now, for the top of the scale."""
    unit = UNITS[spec.series[0]]
    highest = max((value for name in spec.series for value in points.peak[name] if value is not None), default=0.0)
    top = _top(unit, highest, limits.get(spec.limit, 0.0) if spec.limit else 0.0)
    lines = [_line(name, points, top, t) for name in spec.series]
    values = [points.mean[name] for name in spec.series]
    newest = [next((value for value in reversed(each[-3:]) if value is not None), None) for each in values]
    return Chart(
        name=spec.name,
        unit=unit,
        title=t(f"chart.{spec.name}"),
        summary=_summary(spec, points, span, t),
        latest=_latest(spec, newest, t),
        begin=points.begin,
        slot=points.width,
        slots=points.slots,
        scale=[amount(unit, top * part, t) for part in (1, 0.5, 0)],
        lines=lines,
        ticks=list(_ticks(points, span, t)),
        jumps=[_share(points, at) for at, _ in points.jumps],
        rows=list(_rows(spec, points, span, t)),
        known=any(value is not None for each in values for value in each),
    )


def amount(unit: Unit, value: float, t: Translator) -> str:
    """``value`` in words."""
    if unit == "percent":
        return t.percent(value)
    if unit == "bytes":
        return t.bytes(value)
    return t("chart.per_second", amount=t.bytes(value)) if unit == "rate" else f"{value:.2f}"


def _latest(spec: Spec, newest: Figures, t: Translator) -> str:
    """The newest figures; "" where they are not known."""
    known = [
        amount(UNITS[name], value, t) for name, value in zip(spec.series, newest, strict=True) if value is not None
    ]
    if len(known) < len(spec.series):
        return ""
    if len(known) == 1:
        return known[0]
    first, second = (t(f"series.{name}") for name in spec.series)
    return t("chart.two", first=first, a=known[0], second=second, b=known[1])


def _top(unit: Unit, highest: float, limit: float) -> float:
    """Where the scale ends: the machine's own limit, else a round number that holds everything."""
    if unit == "percent":
        return 100.0 if highest <= 100 else math.ceil(highest / 100) * 100.0
    if limit >= highest and limit > 0:
        return limit
    least = 1.0 if unit == "number" else 4096.0 if unit == "rate" else 16 * 1024.0**2
    return max(least, 2.0 ** math.ceil(math.log2(highest))) if highest > 0 else least


def _line(name: str, points: Points, top: float, t: Translator) -> Line:
    mean, peak = points.mean[name], points.peak[name]
    runs = list(_runs(mean))
    return Line(
        name,
        t(f"series.{name}"),
        _path(mean, top, runs),
        "".join(f"{_path(mean, top, [run])}V100H{run[0] + 0.5:g}Z" for run in runs),
        _path(peak, top, runs),
        [None if value is None else float(f"{value:.4g}") for value in mean],
    )


def _runs(values: Figures) -> Iterator[tuple[int, int]]:
    """Stretches without a gap, as first and last slot."""
    begun: int | None = None
    for slot, value in enumerate([*values, None]):
        if value is not None and begun is None:
            begun = slot
        elif value is None and begun is not None:
            yield begun, slot - 1
            begun = None


def _path(values: Figures, top: float, runs: Sequence[tuple[int, int]]) -> str:
    """An SVG path through the middle of each slot; a slot that stands alone becomes a short stroke."""
    parts = []
    for first, last in runs:
        corners = [f"{slot + 0.5:g} {_y(values[slot], top):g}" for slot in range(first, last + 1)]
        parts.append("M" + "L".join(corners) + ("h.01" if first == last else ""))
    return "".join(parts)


def _y(value: float | None, top: float) -> float:
    return round(100 - 100 * min(1.0, max(0.0, (value or 0.0) / top)), 1)


def _share(points: Points, at: float) -> float:
    return round(100 * (at - points.begin) / (points.width * points.slots), 2)


def _ticks(points: Points, span: Span, t: Translator) -> Iterator[Tick]:
    end = points.begin + points.width * points.slots
    for at in range(-(-points.begin // span.tick) * span.tick, end, span.tick):
        # One at the very edge would be cut in half.
        if 2 < (x := _share(points, at)) < 98:
            yield Tick(x, at, moment(at, span, t))


def moment(at: int, span: Span, t: Translator) -> str:
    """A moment in UTC as the axis says it; scripts say it in the reader's own zone."""
    when = datetime.fromtimestamp(at, UTC)
    if span.name != "month":
        return when.strftime("%H:%M")
    return t("chart.day_of_month", day=when.day, month=t(f"time.month.{when.month}"))


def _known(values: Figures) -> list[float]:
    return [value for value in values if value is not None]


def _average(values: Sequence[float]) -> float:
    """statistics.fmean() without its module, which an idle daemon would keep for this alone."""
    return math.fsum(values) / len(values)


def _rows(spec: Spec, points: Points, span: Span, t: Translator) -> Iterator[TableRow]:
    """Newest first: what one looks up is mostly what just happened."""
    per_row = span.row // points.width
    for first in range(0, points.slots, per_row)[::-1]:
        cells = []
        for name in spec.series:
            mean = _known(points.mean[name][first : first + per_row])
            peak = _known(points.peak[name][first : first + per_row])
            unit = UNITS[name]
            cells += [amount(unit, _average(mean), t), amount(unit, max(peak), t)] if mean else ["", ""]
        at = points.begin + first * points.width
        yield TableRow(at, moment(at, span, t), cells)


def _summary(spec: Spec, points: Points, span: Span, t: Translator) -> str:
    title, over = t(f"chart.{spec.name}"), t(f"span.{span.name}")
    known = [_known(points.mean[name]) for name in spec.series]
    if not all(known):
        return t("chart.nothing", title=title, span=over)
    unit = UNITS[spec.series[0]]
    mean = [amount(unit, _average(each), t) for each in known]
    peak = [amount(unit, max(_known(points.peak[name])), t) for name in spec.series]
    if len(spec.series) == 2:
        first, second = (t(f"series.{name}") for name in spec.series)
        words = {"first": first, "second": second, "a": mean[0], "b": peak[0], "c": mean[1], "d": peak[1]}
        return t("chart.summary_two", title=title, span=over, **words)
    missing = sum(1 for value in points.mean[spec.series[0]] if value is None) * points.width
    key = "chart.summary_gaps" if missing else "chart.summary"
    gaps = {"missing": t.duration(missing)} if missing else {}
    return t(key, title=title, span=over, mean=mean[0], peak=peak[0], **gaps)
