"""Settings that an admin changes on a page instead of in croft.toml.

Rule: croft.toml wins. What root wrote there cannot be changed here, so nobody who got hold of an admin's session can undo it, and
the console always has the last word. Everything else lies in the database, checked by the same table.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.database import Database
from appliance.errors import Invalid, SettingsError
from appliance.settings import ROWS, Setting, Settings, check, field_of

log = logging.getLogger(__name__)

Changed = Callable[[Settings, Settings], None]


class RefusedValue(Invalid):
    """A value that its row does not take. ``row`` says which, ``typed`` what it was."""

    code = "setting_refused"

    def __init__(self, row: Setting, typed: str, cause: str) -> None:
        super().__init__(cause, hint=row.help)
        self.row, self.typed = row, typed


class SettingsDesk:
    """``current`` is what counts now, ``started`` what the daemon started with. Call :meth:`load` before anything reads it."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock, settings: Settings) -> None:
        self._db, self._audit, self._clock = database, audit, clock
        self._file = settings
        self._kept: dict[str, Any] = {}
        self._listeners: list[Changed] = []
        self.current = self.started = settings

    async def load(self) -> Settings:
        """Read what was changed on the page. A value that is not allowed any more counts as not there."""
        for row in await self._db.rows("SELECT name, value FROM settings"):
            found = ROWS.get(row["name"])
            if found is None or not self.may_change(found):
                continue
            try:
                self._kept[found.name] = check(found, json.loads(row["value"]))
            except SettingsError as error:
                log.warning("a changed setting is not allowed any more", extra={"cause": error.message})
        self.current = self.started = _with(self._file, self._kept)
        return self.current

    def on_change(self, listener: Changed) -> None:
        """Have ``listener`` called with the settings before and after each change."""
        self._listeners.append(listener)

    def may_change(self, row: Setting) -> bool:
        """Whether the page may change this setting."""
        return row.change != "root" and row.name not in self._file.given

    def value(self, row: Setting) -> Any:
        """What is set: in the file, else on the page, else the default. A row of change ``restart`` may not count yet."""
        return self._kept.get(row.name, getattr(self._file, field_of(row.name)))

    def source(self, row: Setting) -> str:
        """Where its value comes from: file, page or default."""
        return "file" if row.name in self._file.given else "page" if row.name in self._kept else "default"

    def waiting(self) -> list[str]:
        """Names of what was changed and counts after a restart only."""
        return [
            row.name
            for row in ROWS.values()
            if row.change == "restart" and self.value(row) != getattr(self.started, field_of(row.name))
        ]

    async def change(self, typed: Mapping[str, str], actor: str) -> list[str]:
        """Set what differs, all or nothing; recorded with old and new values. Returns the names. Raises RefusedValue."""
        wanted = {name: self._read(ROWS[name], text) for name, text in typed.items()}
        new = {name: value for name, value in wanted.items() if value != self.value(ROWS[name])}
        before = {name: self.value(ROWS[name]) for name in new}
        async with self._db.transaction() as tx:
            for name, value in new.items():
                await tx.execute(
                    "INSERT INTO settings VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value, "
                    "at = excluded.at, actor = excluded.actor",
                    (name, json.dumps(value), self._clock.now(), actor),
                )
                await self._audit.append(tx, "settings.change", actor, name=name, old=before[name], new=value)
        if new:
            self._kept.update(new)
            self._tell()
        return list(new)

    def _read(self, row: Setting, text: str) -> Any:
        if not self.may_change(row):
            raise RefusedValue(row, text, f"{row.name} is set in croft.toml and can be changed there only")
        try:
            value: Any = text.strip()
            if isinstance(row.default, int):
                value = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else value
            return check(row, value)
        except SettingsError as error:
            raise RefusedValue(row, text, error.message) from error

    def _tell(self) -> None:
        live = {name: value for name, value in self._kept.items() if ROWS[name].change == "live"}
        before, self.current = self.current, _with(self.current, live)
        for listener in self._listeners:
            listener(before, self.current)


def _with(settings: Settings, values: Mapping[str, Any]) -> Settings:
    return replace(settings, **{field_of(name): value for name, value in values.items()})
