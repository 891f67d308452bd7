"""From the kernel's counters to rows: what is measured, what is missing, and what a jumping clock does."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.clock import ManualClock, SystemClock
from appliance.events import EventBus
from appliance.telemetry import proc
from appliance.telemetry.monitor import Monitor
from appliance.telemetry.rollup import JUMP, STALL, STEP, Roller, Row


def test_the_real_kernel_is_read() -> None:
    readings = proc.Readings()
    before, began = readings.look(), time.monotonic()
    while time.monotonic() - began < 0.2:
        sum(range(1000))
    after = readings.look()
    found = proc.between(before, after, time.monotonic() - began)
    readings.close()
    assert 0 < found["cpu"] <= 100
    assert 0 < found["memory"] <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found["load"] >= 0
    assert {"swap", "swapping", "net_in", "net_out"} <= set(found)


def test_rates_and_shares(kernel: Any, clock: ManualClock) -> None:
    """Whole disks and outer interfaces count once; CPU is a share of all cores; rates are per second of real time."""
    readings = proc.Readings(kernel.folder, slow_every=1)
    before = readings.look()
    kernel.second(clock, 30, received=3000, sent=1500, read=20, written=40, swapped=2, available=500_000, steal=10)
    found = proc.between(before, readings.look(), 2.0)
    readings.close()
    assert found["cpu"] == pytest.approx(60 / 210 * 100)
    assert found["steal"] == pytest.approx(10 / 210 * 100)
    assert (found["net_in"], found["net_out"]) == (1500, 750)
    assert (found["disk_read"], found["disk_write"]) == (20 * 512 / 2, 40 * 512 / 2)
    assert found["memory"] == 1_500_000 * 1024
    assert found["swapping"] == 2 * proc.PAGE / 2


def test_dear_files_are_read_seldom_and_means_stay_true(kernel: Any, clock: ManualClock) -> None:
    """S2: over any ten looks in a row the sum of what a counter grew by is what it grew by."""
    readings = proc.Readings(kernel.folder)
    before, grown = readings.look(), 0.0
    for second in range(1, 21):
        kernel.second(clock, read=second * 8)
        after = readings.look()
        grown += proc.between(before, after, 1.0)["disk_read"]
        before = after
    readings.close()
    assert grown == 20 * 8 * 512


def test_a_counter_that_went_back_is_not_known(kernel: Any, clock: ManualClock) -> None:
    readings = proc.Readings(kernel.folder, slow_every=1)
    kernel.second(clock, received=5000)
    before = readings.look()
    kernel.second(clock, received=10)
    found = proc.between(before, readings.look(), 1.0)
    readings.close()
    assert "net_in" not in found
    assert "cpu" in found


@pytest.mark.parametrize("name", ["stat", "meminfo", "vmstat", "loadavg", "diskstats", "net/dev", "pressure/memory"])
@pytest.mark.parametrize("text", [b"", b"\n", b"cpu\n", b"cpu x y z\n", b"\xff\xfe\x00" * 100, b"MemTotal: -\n" * 5])
def test_a_kernel_that_talks_differently_leaves_things_out(kernel: Any, name: str, text: bytes) -> None:
    """A look never raises: what is told in another shape is left out, the rest stays."""
    readings = proc.Readings(kernel.folder, slow_every=1)
    (kernel.folder / name).write_bytes(text)
    look = readings.look()
    readings.close()
    assert ("load" in look.levels) == (name != "loadavg")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    readings = proc.Readings(tmp_path)
    assert proc.between(readings.look(), readings.look(), 1.0) == {}


steps = st.lists(
    st.one_of(
        st.just((1.0, 0.0)),
        st.tuples(st.floats(0.2, 4.9), st.just(0.0)),
        st.tuples(st.floats(STALL + 0.1, 4000), st.just(0.0)),  # asleep
        st.tuples(st.just(1.0), st.floats(-1e8, 1e8).filter(lambda by: abs(by) > JUMP + 0.1)),  # the clock was set
    ),
    min_size=1,
    max_size=200,
)


@settings(deadline=None)
@given(steps)
def test_rows_cover_only_what_was_looked_at(advances: list[tuple[float, float]]) -> None:
    """R9: no row spans a sleep or a jump, rows never overlap in real time, and every jump is marked on the next row."""
    roller, clock = Roller(), ManualClock()
    roller.add(clock.now(), clock.uptime(), {"cpu": 1.0})
    good_since, moved, marked, last_end = clock.uptime(), 0.0, 0.0, 0.0
    for seconds, jump in advances:
        clock.advance(seconds)
        clock.wall += jump
        if jump or seconds > STALL:
            good_since = clock.uptime()
        moved += jump
        row = roller.add(clock.now(), clock.uptime(), {"cpu": 1.0})
        if row is None:
            continue
        marked += row.jump or 0.0
        begun = clock.uptime() - (clock.now() - row.at)
        assert begun >= good_since - 1  # ``at`` is a whole second
        assert begun >= last_end - 1
        assert STEP - 0.02 <= clock.now() - row.at <= STEP + STALL + 1
        assert row.values == {"cpu": pytest.approx(1.0)}
        assert marked == pytest.approx(moved, abs=1e-3 + 1e-6 * abs(moved))
        last_end = clock.uptime()


async def test_a_row_is_the_mean_of_its_seconds(monitor: Monitor, kernel: Any, clock: ManualClock, store: Any) -> None:
    begin = int(clock.now())
    monitor.tick()
    for second in range(20):
        kernel.second(clock, 20 if second < 10 else 80)
        monitor.tick()
    await monitor.save()
    points = await monitor.points(begin, begin + 20, 10)
    assert points.mean["cpu"] == [pytest.approx(20), pytest.approx(80)]
    assert points.mean["cpu_ide"][1] == 12.5
    assert points.mean["memory_ide"][1] == 800
    assert points.mean["cpu_ai"] == [None, None]
    assert monitor.now()["memory_total"] == 2_000_000 * 1024


async def test_a_clock_that_was_set_is_marked_and_not_smoothed(
    monitor: Monitor, kernel: Any, clock: ManualClock
) -> None:
    """LOG-8, R9."""
    begin = int(clock.now())

    async def go_on(seconds: int) -> None:
        for _ in range(seconds):
            kernel.second(clock)
            monitor.tick()

    await go_on(12)
    clock.wall += 3600
    await go_on(12)
    await monitor.save()
    points = await monitor.points(begin, begin + 2 * 3600, 600)
    assert [at for at, value in enumerate(points.mean["cpu"]) if value is not None] == [0, 6]
    (at, seconds), *others = points.jumps
    assert (seconds, others) == (3600, [])
    assert begin + 3600 <= at < begin + 3630


async def test_figures_come_only_while_somebody_watches(
    kernel: Any, clock: ManualClock, store: Any, tmp_path: Path
) -> None:
    bus = EventBus(clock)
    made = Monitor(clock, bus, store, tmp_path, list, readings=proc.Readings(kernel.folder, slow_every=1))
    for _ in range(3):
        kernel.second(clock)
        made.tick()
    before = bus.last_id
    async with bus.subscribe({"telemetry"}) as reader:
        for _ in range(5):
            kernel.second(clock, 25)
            made.tick()
        first = await anext(reader)
    made.close()
    assert before < bus.last_id <= before + 3
    assert first.data["cpu_percent"] == pytest.approx(25)
    # What counts only at its moment is not told again to a reader that comes back.
    async with bus.subscribe({"telemetry"}, bus.last_id - 1) as reader, asyncio.timeout(1):
        bus.publish("telemetry", {"new": True}, keep=False)
        seen = await anext(reader)
    assert seen.topic == "lost", "it is told to look at everything"


async def test_a_monitor_samples_by_itself_and_saves_at_the_end(store: Any, tmp_path: Path) -> None:
    made = Monitor(SystemClock(), EventBus(SystemClock()), store, tmp_path, list)
    made._waiting.append(Row(int(time.time()) - 5, {"cpu": 7.0}))
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    points = await store.points(int(time.time()) - 60, int(time.time()), 60, time.time())
    assert points.mean["cpu"] == [7.0]
