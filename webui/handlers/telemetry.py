"""Figures over time: for charts, for programs, for Prometheus.

Rule: points are read once for a stretch of time and drawn once per language, however many people look.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from appliance import __version__
from appliance.errors import Invalid
from appliance.services.model import ServiceView
from appliance.telemetry import exposition
from appliance.telemetry.exposition import Metric
from appliance.telemetry.series import NAMES, UNITS
from appliance.telemetry.store import Points
from webui import charts, filters, keys, views
from webui.answers import answer
from webui.charts import Drawing, Span, Spec
from webui.i18n import Translator

DAY = 86_400
POINTS_MAX = 2000
TICKS = os.sysconf("SC_CLK_TCK")


class Drawings:
    """What was drawn, until there is more to draw. One per application."""

    def __init__(self) -> None:
        self._points: dict[str, tuple[object, Points]] = {}
        self._charts: dict[tuple[str, str, str], tuple[object, Drawing]] = {}

    async def of(self, request: web.Request, span: Span, specs: Sequence[Spec], t: Translator) -> list[Drawing]:
        """The charts of ``specs`` over ``span``, in the translator's language, made once for all who read it."""
        monitor = request.app[keys.MONITOR]
        begin, end = charts.window(span, request.app[keys.CLOCK].now())
        state = (monitor.saved, begin)
        kept = self._points.get(span.name)
        if kept is None or kept[0] != state:
            kept = self._points[span.name] = (state, await monitor.points(begin, end, span.slot))
        limits, drawn = _limits(request), []
        for spec in specs:
            if spec.name == "swap" and not limits["swap_total"]:
                continue  # a machine without swap has no chart of it
            found = self._charts.get((span.name, spec.name, t.lang))
            if found is None or found[0] != state:
                made = charts.draw(
                    request.app[keys.TEMPLATES].environment, charts.chart(spec, kept[1], limits, span, t), t
                )
                found = self._charts[span.name, spec.name, t.lang] = (state, made)
            drawn.append(found[1])
        return drawn


def drawings(app: web.Application) -> Drawings:
    """The application's own."""
    found: Drawings = app[keys.SHARED].setdefault("drawings", Drawings())
    return found


def _limits(request: web.Request) -> dict[str, float]:
    """What the machine has, and what each service may use of it."""
    limits = {f"limit_{view.name}": float(view.memory_limit) for view in request.app[keys.SERVICES].views()}
    return limits | request.app[keys.MONITOR].now()


def span_of(request: web.Request) -> Span:
    """The stretch of time asked for; a day where none is. Raises Invalid."""
    found = charts.SPANS.get(request.query.get("span", "day"))
    if found is None:
        raise Invalid("there is no such span", hint=f"There are {', '.join(charts.SPANS)}.")
    return found


async def chart_data(request: web.Request) -> web.Response:
    """Charts as the pages draw them, so that open pages stay true."""
    span, t = span_of(request), views.translator(request)
    every = {
        spec.name: spec for spec in (*charts.MACHINE, *(spec for pair in charts.SERVICE.values() for spec in pair))
    }
    names = (
        request.query.get("names", "").split(",") if "names" in request.query else [spec.name for spec in charts.HOME]
    )
    if len(names) > len(every) or not set(names) <= set(every):
        raise Invalid("there is no such chart", hint=f"There are {', '.join(every)}.")
    drawn = await drawings(request.app).of(request, span, [every[name] for name in names], t)
    return answer({"span": span.name, "charts": [drawing.chart.as_json() for drawing in drawn]})


async def telemetry(request: web.Request) -> web.Response:
    """Figures over time: ``from``, ``to`` (Unix seconds), ``step`` (seconds), ``series`` (names separated by commas)."""
    now = int(request.app[keys.CLOCK].now())
    end = _number(request, "to", now + 1)
    begin = _number(request, "from", end - DAY)
    if begin >= end:
        raise Invalid("from must lie before to", hint="Both are Unix seconds.")
    step = _number(request, "step", max(10, -(-(end - begin) // 5000) * 10))
    if step < 10 or (end - begin) / step > POINTS_MAX:
        raise Invalid(f"that would be more than {POINTS_MAX} points", hint="Ask for a larger step, of at least 10 s.")
    names = request.query.get("series", ",".join(NAMES)).split(",")
    if not set(names) <= set(NAMES):
        raise Invalid("there is no such series", hint=f"There are {', '.join(NAMES)}.")
    points = await request.app[keys.MONITOR].points(begin, end, step)
    series = {
        name: {"unit": UNITS[name], "mean": _round(points.mean[name]), "peak": _round(points.peak[name])}
        for name in names
    }
    jumps = [{"at": at, "seconds": round(seconds, 1)} for at, seconds in points.jumps]
    return answer(
        {"from": points.begin, "step": points.width, "points": points.slots, "series": series, "jumps": jumps}
    )


async def metrics(request: web.Request) -> web.Response:
    """The figures of this moment in Prometheus' text format."""
    monitor, services = request.app[keys.MONITOR], request.app[keys.SERVICES]
    found = [
        Metric("croft_build_info", "gauge", "Version of Croft.", [({"version": __version__}, 1)]),
        *exposition.of_machine(monitor.now(), monitor.counters(), TICKS),
        *_of_services(services.views()),
        _problems(services.problems()),
        _process(),
    ]
    text = exposition.render(found)
    return web.Response(
        body=text.encode(), headers={"Content-Type": exposition.CONTENT_TYPE, "Cache-Control": "no-store"}
    )


def _of_services(found: Sequence[ServiceView]) -> list[Metric]:
    def gauge(name: str, text: str, values: dict[str, float]) -> Metric:
        return Metric(
            f"croft_service_{name}", "gauge", text, [({"service": key}, value) for key, value in values.items()]
        )

    return [
        gauge(
            "up", "1 while the service runs and answers.", {v.name: filters.shown_state(v) == "running" for v in found}
        ),
        gauge("memory_bytes", "Memory the service uses.", {v.name: v.memory_bytes for v in found}),
        gauge("memory_limit_bytes", "Memory the service may use.", {v.name: v.memory_limit for v in found}),
        gauge("cpu_cores", "Cores the service uses at the moment.", {v.name: v.cpu_percent / 100 for v in found}),
    ]


def _problems(found: Sequence[Any]) -> Metric:
    count = {severity: 0 for severity in ("info", "warning", "error")}
    for problem in found:
        count[problem.severity] += 1
    values = [({"severity": severity}, float(n)) for severity, n in count.items()]
    return Metric("croft_problems", "gauge", "Known problems at the moment.", values)


def _process() -> Metric:
    used = os.times()
    return Metric(
        "process_cpu_seconds_total", "counter", "CPU time of the daemon.", [({}, round(used.user + used.system, 2))]
    )


def _round(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 3) for value in values]


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise Invalid(f"{name} must be a number of seconds", hint="Unix time, without a fraction.")
    return int(text)
