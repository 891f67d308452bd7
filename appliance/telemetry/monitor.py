"""`Monitor`: reads the machine every second, keeps what it read, says how it is and was.

Rule: sampling never waits for the disk and never stops the daemon: a full disk costs old rows first, then nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from appliance.clock import Clock
from appliance.events import EventBus
from appliance.telemetry import proc
from appliance.telemetry.alerts import OOM_REMEMBERED, WINDOW, Alert, alerts
from appliance.telemetry.rollup import Roller, Row
from appliance.telemetry.series import Values
from appliance.telemetry.store import Points, TelemetryStore

log = logging.getLogger(__name__)

TOPIC = "telemetry"
EVERY = 1.0  # seconds between readings
TELL_EVERY = 2.0  # seconds between events, while somebody watches
SAVE_EVERY = 60.0
WAITING_MOST = 360  # rows kept while the disk takes none: an hour
OOM_KEPT = 1000

# Name, bytes of memory, percent of one core.
Use = tuple[str, float, float]


class Monitor:
    """Start it with :meth:`run`; cancel that to end it. What it read last is saved on the way out."""

    def __init__(
        self,
        clock: Clock,
        bus: EventBus,
        store: TelemetryStore,
        state: Path,
        services: Callable[[], Iterable[Use]],
        *,
        readings: proc.Readings | None = None,
        alarm: Callable[[], None] = lambda: None,
    ) -> None:
        """``state`` lies on the disk that is watched; ``services`` says what each uses; ``alarm`` is told when alerts change."""
        self._clock = clock
        self._bus = bus
        self._store = store
        self._state = state
        self._services = services
        self._alarm = alarm
        self._readings = readings or proc.Readings()
        self._roller = Roller()
        self._before = (self._readings.look(), clock.uptime())
        self._around: Values = {}
        self._disk_total = 0.0
        self._shown: Values = {}
        self._recent: deque[Row] = deque(maxlen=WINDOW)
        self._waiting: deque[Row] = deque(maxlen=WAITING_MOST)
        self._oom: deque[float] = deque(maxlen=OOM_KEPT)
        self._alerts: list[Alert] = []
        self._told = 0.0
        self._failing = False
        self.saved = 0  # grows with each batch: what was made from stored points is old when it differs
        self._look_at_disk()

    # Life

    async def run(self) -> None:
        """Sample and save until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sample(), name="telemetry sampling")
                group.create_task(self._save_regularly(), name="telemetry saving")
        finally:
            await self.save()
            self.close()

    def close(self) -> None:
        """Let go of the kernel's files; only for a monitor that does not run."""
        self._readings.close()

    async def _sample(self) -> None:
        due = self._clock.uptime()
        while True:
            self.tick()
            now = self._clock.uptime()
            due = max(due + EVERY, now)  # after a stall go on from now, do not catch up
            await asyncio.sleep(due - now)

    async def _save_regularly(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY)
            await self.save()

    def tick(self) -> None:
        """One reading."""
        uptime, look = self._clock.uptime(), self._readings.look()
        before, then = self._before
        self._before = (look, uptime)
        values = proc.between(before, look, uptime - then)
        self._shown = values
        killed = look.counters.get("oom_kills", 0.0) - before.counters.get(
            "oom_kills", look.counters.get("oom_kills", 0.0)
        )
        self._oom.extend([uptime] * min(OOM_KEPT, max(0, int(killed))))
        row = self._roller.add(self._clock.now(), uptime, values | self._around)
        if row is not None:
            self._recent.append(row)
            self._waiting.append(row)
            self._look_around()
            self._judge(uptime)
        if uptime - self._told >= TELL_EVERY and self._bus.watched(TOPIC):
            self._told = uptime
            self._bus.publish(TOPIC, self.now(), keep=False)

    async def save(self) -> None:
        """Write the rows that wait. What cannot be written is tried again with the next ones."""
        rows = list(self._waiting)
        if not rows:
            return
        try:
            await self._store.save(rows)
        except (sqlite3.Error, OSError) as error:
            if not self._failing:
                log.error("cannot keep telemetry; trying again each minute", exc_info=error)
            self._failing = True
            return
        self._failing = False
        self.saved += 1
        for row in rows:
            if self._waiting and self._waiting[0] is row:
                self._waiting.popleft()

    # What people see

    def now(self) -> dict[str, Any]:
        """The machine at this moment: percent, bytes, bytes a second, seconds; ``load`` is the one-minute average."""
        levels, shown = self._before[0].levels, self._shown
        return {
            "at": self._clock.now(),
            "cpu_percent": shown.get("cpu", 0.0),
            "cpus": os.cpu_count() or 1,
            "load": levels.get("load", 0.0),
            "memory_used": levels.get("memory", 0.0),
            "memory_total": levels.get("memory_total", 0.0),
            "swap_used": levels.get("swap", 0.0),
            "swap_total": levels.get("swap_total", 0.0),
            "disk_used": self._around.get("disk", 0.0),
            "disk_total": self._disk_total,
            "net_in": shown.get("net_in", 0.0),
            "net_out": shown.get("net_out", 0.0),
            "uptime": self._clock.uptime(),
        }

    def counters(self) -> dict[str, float]:
        """What the kernel has counted since the machine started, by name (proc.Look.counters)."""
        return dict(self._before[0].counters)

    async def points(self, begin: int, end: int, width: int) -> Points:
        """What is known of a time, in slots of ``width`` seconds."""
        return await self._store.points(begin, end, width, self._clock.now())

    def alerts(self) -> list[Alert]:
        """What the figures say is wrong."""
        return list(self._alerts)

    # Inside

    def _look_around(self) -> None:
        """What changes slowly: the disk and the services, once a row."""
        self._look_at_disk()
        for name, memory, cpu in self._services():
            self._around |= {f"memory_{name}": float(memory), f"cpu_{name}": float(cpu)}

    def _look_at_disk(self) -> None:
        try:
            disk = os.statvfs(self._state)
        except OSError as error:
            log.warning("cannot look at the disk", exc_info=error)
            self._around = {}
            return
        used = disk.f_blocks - disk.f_bfree
        self._around = {"disk": float(used * disk.f_frsize)}
        # As df counts: what only root may use is neither free nor used.
        self._disk_total = float((used + disk.f_bavail) * disk.f_frsize)

    def _judge(self, uptime: float) -> None:
        while self._oom and uptime - self._oom[0] > OOM_REMEMBERED:
            self._oom.popleft()
        codes = [alert.code for alert in self._alerts]
        total = self._before[0].levels.get("memory_total", 0.0)
        found = alerts(tuple(self._recent), total, codes, self._oom, uptime)
        changed = [alert.code for alert in found] != codes
        self._alerts = found
        if changed:
            log.info("alerts changed", extra={"alerts": [alert.code for alert in found]})
            self._alarm()
