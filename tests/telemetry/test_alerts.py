"""When figures become known problems: only after minutes, without flicker, and with words for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance.clock import ManualClock
from appliance.events import EventBus
from appliance.services.problems import TABLE, problem
from appliance.telemetry import proc
from appliance.telemetry.alerts import MEMORY_LIMIT, RULES, WINDOW, alerts
from appliance.telemetry.monitor import Monitor
from appliance.telemetry.rollup import Row
from webui.i18n import Catalogue, Translator

LOCALE = Path(__file__).parents[2] / "webui/locale"


def rows(count: int, **values: float) -> list[Row]:
    return [Row(n * 10, values) for n in range(count)]


def codes(given: list[Row], before: tuple[str, ...] = (), oom: tuple[float, ...] = ()) -> list[str]:
    return [alert.code for alert in alerts(given, 100.0, before, oom, 10_000.0)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_limit_counts_after_minutes_and_lets_go_well_below(rule: Any) -> None:
    enough = int(rule.minutes * 6)
    above, between, below = rule.limit * 1.01, rule.limit * 0.9, rule.limit * 0.7
    assert codes(rows(enough, **{rule.series: above})) == [rule.code]
    assert codes(rows(enough // 2, **{rule.series: above})) == []
    assert codes(rows(enough, **{rule.series: between})) == []
    assert codes(rows(enough, **{rule.series: between}), (rule.code,)) == [rule.code]
    assert codes(rows(enough, **{rule.series: below}), (rule.code,)) == []


def test_one_bad_moment_is_no_alert() -> None:
    calm = rows(WINDOW - 1, steal=0.0, swapping=0.0, pressure=0.0, memory=10.0)
    assert codes([*calm, Row(0, {"steal": 100.0, "swapping": 1e7, "pressure": 100.0, "memory": 99.0})]) == []


def test_full_memory_is_told_where_the_kernel_knows_no_pressure() -> None:
    assert codes(rows(WINDOW, memory=MEMORY_LIMIT + 1)) == ["memory_low"]
    assert codes(rows(WINDOW, memory=MEMORY_LIMIT - 2), ("memory_low",)) == ["memory_low"]
    assert codes(rows(WINDOW, memory=80.0), ("memory_low",)) == []
    assert codes(rows(WINDOW, memory=99.0, pressure=50.0)) == ["memory_pressure"]


def test_programs_the_kernel_ended_are_told_for_an_hour() -> None:
    found = alerts([], 100.0, (), (9_000.0, 9_500.0, 100.0), 10_000.0)
    assert [(alert.code, alert.params) for alert in found] == [("oom_kills", {"n": 2})]


async def test_alerts_reach_the_table_of_known_problems(
    kernel: Any, clock: ManualClock, store: Any, tmp_path: Path
) -> None:
    """From the kernel's counters to a sentence in both languages; whoever shows problems is told at once."""
    told = []
    made = Monitor(
        clock, EventBus(clock), store, tmp_path, list,
        readings=proc.Readings(kernel.folder, slow_every=1), alarm=lambda: told.append(1),
    )  # fmt: skip
    for second in range(400):
        kernel.second(
            clock, 10, swapped=second * 3000, pressure="35.00", available=20_000, oom=2 if second > 300 else 0
        )
        made.tick()
    found = [problem(alert.code, None, alert.params) for alert in made.alerts()]
    made.close()
    assert {one.code for one in found} == {"memory_pressure", "swap_thrash", "oom_kills"}
    assert {alert for alert in (rule.code for rule in RULES)} <= set(TABLE)
    assert 1 <= len(told) <= 3
    catalogue = Catalogue.load(LOCALE, strict=True)
    for one in found:
        for lang in ("en", "ar"):
            t = Translator(catalogue, lang)
            assert all(t.message(part) for part in (one.title, one.why, one.next))
