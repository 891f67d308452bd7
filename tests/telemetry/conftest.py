"""A store, a clock that tests turn, and a procfs that says what tests want."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.clock import ManualClock
from appliance.database import Database
from appliance.events import EventBus
from appliance.telemetry.monitor import Monitor
from appliance.telemetry.proc import Readings
from appliance.telemetry.store import TelemetryStore

STAT = "cpu  {busy} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 1 0 0 1 0 0 0 0 0 0\n"
MEMINFO = "MemTotal: 2000000 kB\nMemFree: 1 kB\nMemAvailable: {available} kB\nSwapTotal: 1000 kB\nSwapFree: {swap} kB\n"
VMSTAT = "nr_free 1\npswpin {swapped}\npswpout 0\noom_kill {oom}\n"
NET = (
    "Inter-| Receive\n face |bytes\n"
    "    lo: 999 0 0 0 0 0 0 0 999 0\n"
    "  eth0: {received} 0 0 0 0 0 0 0 {sent} 0\n"
    "docker0: 5 0 0 0 0 0 0 0 5 0\n"
)
DISKS = (
    "   8 0 vda 1 0 {read} 0 1 0 {written} 0 0 0 0\n"
    "   8 1 vda1 1 0 {read} 0 1 0 {written} 0 0 0 0\n"
    "   7 0 loop0 1 0 9 0 1 0 9 0 0 0 0\n"
)


class Kernel:
    """A procfs in a folder; :meth:`say` changes what it tells."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("net", "pressure"):
            (folder / name).mkdir(parents=True)
        self.known = dict.fromkeys(
            ("busy", "idle", "steal", "swap", "swapped", "oom", "received", "sent", "read", "written"), 0
        ) | {"available": 1_000_000, "pressure": "0.00"}
        self.say()

    def say(self, **changes: object) -> None:
        self.known |= changes  # type: ignore[arg-type]
        texts = {"stat": STAT, "meminfo": MEMINFO, "vmstat": VMSTAT, "net/dev": NET, "diskstats": DISKS}
        for name, text in texts.items():
            (self.folder / name).write_text(text.format(**self.known))
        (self.folder / "loadavg").write_text("0.50 0.40 0.30 1/100 1\n")
        (self.folder / "pressure/memory").write_text(f"some avg10={self.known['pressure']} avg60=0.00 total=1\n")

    def second(self, clock: ManualClock, busy: int = 50, **changes: object) -> None:
        """One second on two cores, ``busy`` percent of it worked."""
        clock.advance(1.0)
        self.say(busy=self.known["busy"] + 2 * busy, idle=self.known["idle"] + 2 * (100 - busy), **changes)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path / "proc")


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "croft.db")
    yield opened
    await opened.close()


@pytest.fixture
def store(database: Database) -> TelemetryStore:
    return TelemetryStore(database)


@pytest_asyncio.fixture
async def monitor(clock: ManualClock, kernel: Kernel, store: TelemetryStore, tmp_path: Path) -> AsyncIterator[Monitor]:
    made = Monitor(
        clock, EventBus(clock), store, tmp_path, lambda: [("ide", 800.0, 12.5)], readings=Readings(kernel.folder)
    )
    yield made
    made.close()
