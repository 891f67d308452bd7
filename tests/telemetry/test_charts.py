"""Charts: what is drawn, said and tabled are the same figures; gaps stay gaps; the drawing is well-formed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.telemetry.series import NAMES
from appliance.telemetry.store import Points
from webui import charts, filters
from webui.assets import Assets
from webui.charts import MACHINE, SERVICE, SPANS, Spec
from webui.i18n import Catalogue, Translator

WEBUI = Path(__file__).parents[2] / "webui"
CATALOGUE = Catalogue.load(WEBUI / "locale", strict=True)
EN, AR = Translator(CATALOGUE, "en"), Translator(CATALOGUE, "ar")
NOW = 1_800_000_123.0
DAY = SPANS["day"]
CPU = Spec("cpu", ("cpu",))
EVERY = (*MACHINE, *(spec for pair in SERVICE.values() for spec in pair))

figures = st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=144, max_size=144)


def points(values: list[float | None], span: charts.Span = DAY, jumps: list[tuple[int, float]] | None = None) -> Points:
    begin, _ = charts.window(span, NOW)
    same = dict.fromkeys(NAMES, values)
    return Points(begin, span.slot, same, same, jumps or [])


def corners(path: str) -> Iterator[list[tuple[float, float]]]:
    """The strokes of a path as lists of x and y."""
    for stroke in path.split("M")[1:]:
        yield [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", stroke)]


@settings(deadline=None)
@given(figures)
def test_what_is_drawn_is_what_is_known(values: list[float | None]) -> None:
    """Every known slot is a corner at its place and height; no stroke crosses a gap."""
    made = charts.chart(CPU, points(values), {}, DAY, EN)
    drawn = {}
    for stroke in corners(made.lines[0].path):
        slots = [int(x) for x, _ in stroke]
        assert slots == list(range(slots[0], slots[0] + len(slots)))
        drawn |= {int(x): y for x, y in stroke}
    known = {slot: value for slot, value in enumerate(values) if value is not None}
    assert set(drawn) == set(known)
    for slot, y in drawn.items():
        assert y == pytest.approx(100 - known[slot], abs=0.06)
    assert made.known == bool(known)
    assert made.lines[0].area.count("Z") == made.lines[0].path.count("M")


@settings(deadline=None)
@given(figures)
def test_the_table_says_what_is_drawn(values: list[float | None]) -> None:
    """Each row is the mean and the highest of its slots; nothing known is said as such."""
    made = charts.chart(CPU, points(values), {}, DAY, EN)
    assert len(made.rows) == 24
    for n, row in enumerate(reversed(made.rows)):
        known = [value for value in values[n * 6 : n * 6 + 6] if value is not None]
        assert row.at == made.begin + n * 3600
        assert row.cells == ([f"{sum(known) / len(known):.0f}%", f"{max(known):.0f}%"] if known else ["", ""])


def test_the_sentence_says_the_same_and_names_gaps() -> None:
    half: list[float | None] = [None if slot < 72 else 40.0 for slot in range(144)]
    half[100] = 90.0
    made = charts.chart(CPU, points(half), {}, DAY, EN)
    assert made.summary == "CPU. Last 24 hours: 41% on average, 90% at most. Nothing is known of 12 h of this time."
    assert made.latest == "40%"
    empty = charts.chart(CPU, points([None] * 144), {}, DAY, AR)
    assert (empty.known, empty.latest) == (False, "")
    assert "لا أرقام بعد" in empty.summary


@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: spec.name)
@pytest.mark.parametrize("span", SPANS.values(), ids=lambda span: span.name)
@pytest.mark.parametrize("t", [EN, AR], ids=["en", "ar"])
def test_every_chart_is_well_formed(spec: Spec, span: charts.Span, t: Translator) -> None:
    """Valid XML, a picture with a name, a table with as many columns as its rows; no style of its own (WEB-3)."""
    slots = span.seconds // span.slot
    values = [None if slot % 7 == 3 else float(slot * 1000) for slot in range(slots)]
    made = charts.chart(spec, points(values, span, [(int(NOW) - 1000, -5.0)]), {"memory_total": 1e9}, span, t)
    assert made.slots == slots
    root = ElementTree.fromstring(rendered(made, t))  # noqa: S314 - our own output
    assert root.find(".//svg[@role='img']").get("aria-label")  # type: ignore[union-attr]
    head, *rows = root.findall(".//tr")
    assert {len(row) for row in rows} == {len(head)} == {1 + 2 * len(spec.series)}
    assert not [element for element in root.iter() if "style" in element.attrib]
    assert 3 <= len(made.ticks) <= 8
    assert all(0 < tick.x < 100 for tick in made.ticks)
    assert len(made.jumps) == 1


def test_scales_hold_what_they_show() -> None:
    """The top is the machine's own limit, or a round number above everything; never less than the highest."""
    for highest, limits, spec, top in (
        (3e6, {"memory_total": 8 * 1024.0**3}, MACHINE[1], "8.0 GB"),
        (9e9, {"memory_total": 8 * 1024.0**3}, MACHINE[1], "16 GB"),
        (3e6, {}, MACHINE[4], "4 MB/s"),
        (0.0, {}, MACHINE[4], "4 KB/s"),
        (180.0, {}, SERVICE["ide"][0], "200%"),
        (0.3, {}, MACHINE[6], "1.00"),
    ):
        made = charts.chart(spec, points([highest] * 144), limits, DAY, EN)
        assert made.scale[0] == top, spec.name
        assert min(y for stroke in corners(made.lines[0].path) for _, y in stroke) >= 0


def test_the_window_ends_with_the_present_slot() -> None:
    for span in SPANS.values():
        begin, end = charts.window(span, NOW)
        assert end - span.slot <= NOW < end
        assert end - begin == span.seconds
        assert begin % span.slot == 0


def rendered(chart: charts.Chart, t: Translator) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(WEBUI / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    filters.register(environment, Assets(WEBUI / "static"))
    text = str(charts.draw(environment, chart, t).html)
    # The two attributes that HTML writes without a value.
    return re.sub(r" (hidden|data-utc)(?=[ >])", r' \1=""', text)
