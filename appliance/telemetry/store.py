"""The two telemetry tables: rows go in once a minute, roll-ups are made in the same transaction, points come out.

Rule: both tables are bounded by their number of rows, and rolling up follows the order of writing, so that no clock can
empty them, fill the disk, or make a stretch of time disappear.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from appliance.database import Database
from appliance.telemetry.rollup import Row
from appliance.telemetry.series import NAMES

SLOT = 600  # seconds of one long row
FINE_KEPT = 25 * 360  # a day and an hour
LONG_KEPT = 2 * 31 * 144  # pairs of rows: thirty-one days
FINE_REACHES = 24 * 3600 + 600

_COLUMNS = ", ".join(NAMES)


class Points(Struct, frozen=True):
    """Equal slots of time; ``mean`` and ``peak`` by series, None where nothing is known. ``jumps``: (when, seconds)."""

    begin: int
    width: int
    mean: dict[str, list[float | None]]
    peak: dict[str, list[float | None]]
    jumps: list[tuple[int, float]]

    @property
    def slots(self) -> int:
        return len(next(iter(self.mean.values()), []))


class TelemetryStore:
    """Reads and writes the tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, rows: Sequence[Row]) -> None:
        """Append ``rows`` and roll up what is complete, in one transaction. Raises sqlite3.Error, and then keeps nothing."""
        holes = ", ".join("?" * (2 + len(NAMES)))
        async with self._database.transaction() as tx:
            await tx.executemany(
                f"INSERT INTO telemetry_fine (at, jump, {_COLUMNS}) VALUES ({holes})",  # noqa: S608 - our own column names
                [(row.at, row.jump, *(row.values.get(name) for name in NAMES)) for row in rows],
            )
            found = await tx.execute_fetchall(
                "SELECT max(seq), (SELECT coalesce(max(upto), 0) FROM telemetry_long) FROM telemetry_fine "
                "WHERE at / ? <> (SELECT at / ? FROM telemetry_fine ORDER BY seq DESC LIMIT 1)",
                (SLOT, SLOT),
            )
            upto, done = next(iter(found))
            if upto is not None and upto > done:
                for peak in (0, 1):
                    await tx.execute(_ROLL_UP, {"peak": peak, "done": done, "upto": upto})
            for table, kept in (("telemetry_fine", FINE_KEPT), ("telemetry_long", LONG_KEPT)):
                await tx.execute(
                    f"DELETE FROM {table} WHERE seq <= (SELECT max(seq) FROM {table}) - ?",  # noqa: S608
                    (kept,),
                )

    async def points(self, begin: int, end: int, width: int, now: float) -> Points:
        """What is known from ``begin`` to ``end`` (Unix seconds) in slots of ``width`` seconds."""
        fine = now - begin <= FINE_REACHES
        width = width if fine else max(SLOT, width // SLOT * SLOT)
        table, mean = ("telemetry_fine", "avg({0})") if fine else ("telemetry_long", "avg({0}) FILTER (WHERE NOT peak)")
        wanted = ", ".join(f"{mean.format(name)}, max({name})" for name in NAMES)
        rows = await self._database.rows(
            f"SELECT (at - ?) / ? AS slot, {wanted} FROM {table} WHERE at >= ? AND at < ? GROUP BY slot",  # noqa: S608
            (begin, width, begin, end),
        )
        jumps = await self._database.rows(
            f"SELECT DISTINCT at, jump FROM {table} WHERE at >= ? AND at < ? AND jump IS NOT NULL ORDER BY at",  # noqa: S608
            (begin, end),
        )
        slots = max(0, -(-(end - begin) // width))
        mean_of: dict[str, list[float | None]] = {name: [None] * slots for name in NAMES}
        peak_of: dict[str, list[float | None]] = {name: [None] * slots for name in NAMES}
        for row in rows:
            slot, figures = row[0], iter(tuple(row)[1:])
            for name in NAMES:
                mean_of[name][slot], peak_of[name][slot] = next(figures), next(figures)
        return Points(begin, width, mean_of, peak_of, [(row[0], row[1]) for row in jumps])


def _roll_up() -> str:
    """Parameters: peak, done, upto. One row a slot, of the mean or of the highest."""
    figures = ", ".join(f"CASE :peak WHEN 0 THEN avg({name}) ELSE max({name}) END" for name in NAMES)
    return (
        f"INSERT INTO telemetry_long (at, peak, upto, jump, {_COLUMNS}) "  # noqa: S608 - our own column names
        f"SELECT at / {SLOT} * {SLOT}, :peak, :upto, sum(jump), {figures} FROM telemetry_fine "
        f"WHERE seq > :done AND seq <= :upto GROUP BY at / {SLOT} ORDER BY min(seq)"
    )


_ROLL_UP = _roll_up()
