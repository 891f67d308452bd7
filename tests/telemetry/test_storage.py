"""What is kept: roll-ups that agree with their rows, gaps that stay, a bounded size, full disks and ends without warning."""

from __future__ import annotations

import itertools
import signal
import sqlite3
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.clock import ManualClock
from appliance.database import Database
from appliance.telemetry.monitor import WAITING_MOST, Monitor
from appliance.telemetry.rollup import Row
from appliance.telemetry.series import NAMES
from appliance.telemetry.store import FINE_KEPT, LONG_KEPT, SLOT, TelemetryStore

NUMBERS = itertools.count()
NOW = 1_800_000_000 // SLOT * SLOT


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 400), st.floats(0, 100)), min_size=1, max_size=120, unique_by=lambda row: row[0])
)
async def test_points_are_the_means_and_peaks_of_their_rows(tmp_path: Path, known: list[tuple[int, float]]) -> None:
    """Any pattern of gaps: each slot says the mean and highest of the rows in it, and nothing where there are none."""
    database = await Database.open(Path(f"{tmp_path}/{next(NUMBERS)}.db"))
    store = TelemetryStore(database)
    await store.save([Row(NOW + 10 * n, {"cpu": value}) for n, value in sorted(known)])
    points = await store.points(NOW, NOW + 4020, 60, NOW + 4020.0)
    await database.close()
    for slot in range(67):
        inside = [value for n, value in known if n * 10 // 60 == slot]
        if inside:
            assert points.mean["cpu"][slot] == pytest.approx(statistics.fmean(inside))
            assert points.peak["cpu"][slot] == max(inside)
        else:
            assert points.mean["cpu"][slot] is None


async def test_ten_minutes_become_a_pair_of_rows_once(store: TelemetryStore, database: Database) -> None:
    """However the rows arrive, every finished slot is rolled up exactly once; the unfinished one waits."""
    rows = [Row(NOW + 10 * n, {"cpu": float(n % 60), "memory": 5.0}) for n in range(150)]
    for first in range(0, 150, 7):
        await store.save(rows[first : first + 7])
    kept = await database.rows("SELECT at, peak, cpu, memory, swap FROM telemetry_long ORDER BY seq")
    assert [tuple(row) for row in kept] == [
        (NOW, 0, 29.5, 5.0, None),
        (NOW, 1, 59.0, 5.0, None),
        (NOW + SLOT, 0, 29.5, 5.0, None),
        (NOW + SLOT, 1, 59.0, 5.0, None),
    ]
    points = await store.points(NOW, NOW + 2 * SLOT, SLOT, NOW + 10 * 86_400.0)
    assert (points.mean["cpu"], points.peak["cpu"]) == ([29.5, 29.5], [59.0, 59.0])


async def test_a_clock_a_year_ahead_and_back_loses_nothing(store: TelemetryStore, database: Database) -> None:
    """R9: rows and roll-ups from before stay, and rolling up goes on afterwards."""
    year = 365 * 86_400
    for begin in (NOW, NOW + year, NOW + 3600):
        for first in range(0, 130, 6):
            await store.save([Row(begin + 10 * n, {"cpu": 1.0}) for n in range(first, min(130, first + 6))])
    kept = await database.rows("SELECT at FROM telemetry_long WHERE peak = 0 ORDER BY seq")
    found = {row[0] - NOW for row in kept}
    assert {begin + slot for begin in (0, year, 3600) for slot in (0, SLOT)} <= found
    fine = await database.row("SELECT count(*) FROM telemetry_fine")
    assert fine is not None
    assert fine[0] == 390


async def test_the_tables_stay_small(store: TelemetryStore, database: Database, tmp_path: Path) -> None:
    """FEATURES H: a day at 10 s and thirty days at 10 min in under 20 MB, however long it runs."""
    everything = dict.fromkeys(NAMES, 123456.789)
    for first in range(0, FINE_KEPT + 3000, 3000):
        await store.save([Row(NOW + 10 * n, everything) for n in range(first, first + 3000)])
    async with database.transaction() as tx:
        await tx.execute(
            "INSERT INTO telemetry_long (at, peak, upto, cpu, memory, swap, disk, net_in, net_out, load, disk_read) "
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "SELECT ? + i, 0, 0, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5 FROM n",
            (LONG_KEPT + 500, NOW),
        )
    await store.save([Row(NOW + 10_000_000, everything)])
    counts = await database.row("SELECT (SELECT count(*) FROM telemetry_fine), (SELECT count(*) FROM telemetry_long)")
    assert counts is not None
    assert counts[0] <= FINE_KEPT
    assert counts[1] <= LONG_KEPT
    pages = await database.row("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
    assert pages is not None
    assert pages[0] < 20_000_000


async def test_a_disk_that_takes_nothing_costs_old_rows_only(
    monitor: Monitor, kernel: Any, clock: ManualClock, store: TelemetryStore, database: Database
) -> None:
    """R10: writing fails cleanly, sampling goes on, what waits is bounded and is written when there is room again."""
    begin = int(clock.now())
    async with database.transaction() as tx:
        await tx.execute(
            "CREATE TRIGGER full BEFORE INSERT ON telemetry_fine BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
    for n in range(40):
        monitor._waiting.append(Row(begin + 10 * n, {"cpu": 1.0}))
    await monitor.save()
    await monitor.save()
    assert (len(monitor._waiting), monitor.saved) == (40, 0)
    for _ in range(12):
        kernel.second(clock)
        monitor.tick()
    for n in range(WAITING_MOST + 50):
        monitor._waiting.append(Row(begin + 1000 + 10 * n, {"cpu": 2.0}))
    assert len(monitor._waiting) == WAITING_MOST
    await database.execute("DROP TRIGGER full")
    await monitor.save()
    assert (len(monitor._waiting), monitor.saved) == (0, 1)
    rows = await database.row("SELECT count(*) FROM telemetry_fine")
    assert rows is not None
    assert rows[0] == WAITING_MOST


def test_a_really_full_disk(tmp_path: Path) -> None:
    """R10: a file size limit stands for the full disk; the process lives and earlier rows can be read."""
    code = """
        import asyncio, resource, signal, sys
        from pathlib import Path
        from appliance.clock import SystemClock
        from appliance.database import Database
        from appliance.events import EventBus
        from appliance.telemetry.monitor import Monitor
        from appliance.telemetry.rollup import Row
        from appliance.telemetry.store import TelemetryStore

        async def main(folder):
            database = await Database.open(folder / "croft.db")
            monitor = Monitor(SystemClock(), EventBus(SystemClock()), TelemetryStore(database), folder, list)
            monitor._waiting.append(Row(1_800_000_000, {"cpu": 3.0}))
            await monitor.save()
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
            monitor._waiting.extend(Row(1_800_000_100 + n, {"cpu": 4.0}) for n in range(300))
            await monitor.save()
            failed = monitor.saved == 1 and len(monitor._waiting) == 300
            points = await monitor.points(1_800_000_000, 1_800_000_010, 10)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            await monitor.save()
            print(failed, points.mean["cpu"], monitor.saved, len(monitor._waiting))
            await database.close()

        asyncio.run(main(Path(sys.argv[1])))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split("\n")[0] == "True [3.0] 2 0", done.stderr


def test_killed_without_warning_it_loses_at_most_what_was_not_saved(tmp_path: Path) -> None:
    """What a save returned from is there after SIGKILL; the next start rolls up what was left."""
    code = """
        import asyncio, os, signal, sys
        from pathlib import Path
        from appliance.database import Database
        from appliance.telemetry.rollup import Row
        from appliance.telemetry.store import TelemetryStore

        async def main(folder):
            store = TelemetryStore(await Database.open(folder / "croft.db"))
            for minute in range(11):
                await store.save([Row(1_800_000_000 + minute * 60 + n * 10, {"cpu": 1.0}) for n in range(6)])
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main(Path(sys.argv[1])))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    with sqlite3.connect(tmp_path / "croft.db") as connection:
        assert connection.execute("SELECT count(*), max(at) FROM telemetry_fine").fetchone() == (66, 1_800_000_650)
        assert connection.execute("SELECT count(*) FROM telemetry_long").fetchone() == (2,)
    connection.close()
