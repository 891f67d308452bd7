"""Runbooks: saved commands with typed parameters, for people with the role, by hand or by the clock.

Rule: a parameter takes the place of one whole word and is never read again as anything else; what comes out is proposed like any
other command, by the one who runs it, and the policy decides (POL-1). By the clock only what the policy lets run at once runs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, cast

from msgspec import Struct

from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.commands.asker import CONSOLE, Asker
from appliance.commands.assessing import Proposal
from appliance.commands.front import Commands
from appliance.commands.hidden import hidden_in_text
from appliance.commands.history import Run
from appliance.commands.model import ROLES, Actor, Role
from appliance.commands.timetable import Timetable, parse
from appliance.commands.tokenizer import LineRefused, parse_line
from appliance.commands.values import NOTHING, BadType, ValueType, parse_type
from appliance.database import Database, Row
from appliance.errors import Conflict, CroftError, Forbidden, Invalid, NotFound

log = logging.getLogger(__name__)

MOST_BOOKS = 200
MOST_PARAMETERS = 12
MOST_LINE = 4000
TICK_SECONDS = 15.0
HISTORY = 20

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_PARAMETER = re.compile(r"[a-z][a-z0-9_]{0,30}")
_PLACE = re.compile(r"(?<!\S)\{([a-z][a-z0-9_]{0,30})\}(?!\S)")
_MARK = "parameter_of_this_runbook:"  # stands for a parameter while the line is read; no word may begin so
_MARKED = re.compile(_MARK + "([a-z][a-z0-9_]{0,30})")
_RESERVED = ("new",)


class Parameter(Struct, frozen=True):
    """``spec`` is a type as rules write it: ``word``, ``int(1..9)``, ``enum(a,b)``, ``path``..."""

    name: str
    spec: str
    label: str = ""

    @property
    def type(self) -> ValueType:
        return parse_type(self.spec, NOTHING)

    @property
    def choices(self) -> list[str]:
        """The words of an enum; empty for other types."""
        return [word.strip() for word in self.spec[5:-1].split(",")] if self.spec.startswith("enum(") else []


class Book(Struct, frozen=True):
    """One runbook. ``line`` holds ``{name}`` where a parameter stands; ``role`` is the least that may run it."""

    name: str
    line: str
    titles: Mapping[str, str]
    abouts: Mapping[str, str]
    parameters: tuple[Parameter, ...] = ()
    cwd: str = ""
    role: Role = "operator"
    schedule: str = ""
    owner: str = ""
    next_at: float | None = None
    changed_at: float = 0.0

    def title(self, lang: str) -> str:
        return self.titles.get(lang) or next((text for text in self.titles.values() if text), self.name)

    def about(self, lang: str) -> str:
        return self.abouts.get(lang) or next((text for text in self.abouts.values() if text), "")

    @property
    def version(self) -> str:
        """Another after every change."""
        return str(self.changed_at)

    @property
    def timetable(self) -> Timetable | None:
        return parse(self.schedule)

    def stages(self, values: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
        """The command with ``values`` in place. Raises Invalid naming the parameter."""
        if unknown := set(values) - {parameter.name for parameter in self.parameters}:
            raise Invalid(f"there is no parameter {min(unknown)}", hint="The runbook lists them.", code="book_value")
        for parameter in self.parameters:
            value = values.get(parameter.name, "")
            if not value or parameter.type.check(value) or (value[0] == "-" and not value[1:].isdigit()):
                raise BadValue(parameter, value)
        return tuple(
            tuple(values[word.removeprefix(_MARK)] if word.startswith(_MARK) else word for word in argv)
            for argv in _read(self.line)
        )


class BadValue(Invalid):
    """A value that does not fit its parameter."""

    code = "book_value"

    def __init__(self, parameter: Parameter, value: str) -> None:
        super().__init__(
            f"cannot use this value for {parameter.name}: it must be {parameter.spec}", hint="Change it and try again."
        )
        self.parameter, self.value = parameter, value


def check(book: Book) -> Book:
    """``book`` if it can be kept. Raises Invalid saying what to change."""
    if not _NAME.fullmatch(book.name) or book.name in _RESERVED:
        raise Invalid(
            "that is no name for a runbook", hint="Small letters, digits and -, at most 40.", code="book_name"
        )
    texts = [*book.titles.values(), *book.abouts.values(), *(parameter.label for parameter in book.parameters)]
    if any(len(text) > 500 or hidden_in_text(text.replace("\n", " ")) for text in texts):
        raise Invalid("a title or description cannot be used", hint="At most 500 visible characters.", code="book_text")
    if not any(book.titles.values()):
        raise Invalid("a runbook needs a title", hint="In English, Arabic or both.", code="book_text")
    if book.role not in ROLES:
        raise Invalid("there is no such role", hint=f"There are {', '.join(ROLES)}.")
    _check_parameters(book)
    parse(book.schedule)
    if book.schedule and book.parameters:
        raise Invalid(
            "a runbook with parameters cannot run by the clock",
            hint="Nobody is there to fill them in.",
            code="book_schedule",
        )
    return book


def _check_parameters(book: Book) -> None:
    names = [parameter.name for parameter in book.parameters]
    if len(names) > MOST_PARAMETERS or len(set(names)) < len(names) or not all(map(_PARAMETER.fullmatch, names)):
        raise Invalid("the parameters cannot be used", hint="Up to 12 names, each once.", code="book_parameters")
    for parameter in book.parameters:
        if hidden_in_text(parameter.spec):
            raise Invalid("a type holds hidden characters", hint="Type it again.", code="book_parameters")
        try:
            parse_type(parameter.spec, NOTHING)
        except BadType as error:
            raise Invalid(f"cannot use the type of {parameter.name}: {error}", code="book_parameters") from error
    used = {word.removeprefix(_MARK) for argv in _read(book.line) for word in argv if word.startswith(_MARK)}
    if used != set(names):
        raise Invalid(
            "the parameters and the line do not fit together",
            hint="Each parameter stands in the line as {name}, a word of its own.",
            code="book_parameters",
        )


def _read(line: str) -> tuple[tuple[str, ...], ...]:
    """The words of a line, parameters as marks. Raises Invalid."""
    if len(line) > MOST_LINE or _MARK in line:
        raise Invalid("the line cannot be used", hint=f"At most {MOST_LINE} characters.", code="book_line")
    try:
        stages = parse_line(_PLACE.sub(lambda found: _MARK + found[1], line))
    except LineRefused as refused:
        raise Invalid(
            f"cannot read the line: what stands at place {refused.position + 1} means something to a shell, or nothing",
            hint="Put it in quotes; a parameter is a whole word such as {branch}.",
            code="book_line",
        ) from refused
    if any(argv[0].startswith(_MARK) for argv in stages):
        raise Invalid("a parameter cannot be the program", hint="Write the program's name.", code="book_line")
    # Between quotes it is part of a word, and stays as it was written.
    return tuple(
        tuple(word if _MARKED.fullmatch(word) else _MARKED.sub(r"{\1}", word) for word in argv) for argv in stages
    )


class Runbooks:
    """Every runbook. :meth:`run` starts those whose time has come; cancel it to stop."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        clock: Clock,
        commands: Commands,
        person: Callable[[str], Awaitable[tuple[Role, str] | None]],
    ) -> None:
        """``person`` gives the role and name a user has now; None where they are gone or suspended."""
        self._db, self._audit, self._clock, self._commands, self._person = database, audit, clock, commands, person
        self._ran: dict[str, float] = {}  # by name: uptime of the last run by the clock

    async def all(self) -> list[Book]:
        """By name."""
        return [_book(row) for row in await self._db.rows("SELECT * FROM runbooks ORDER BY name")]

    async def get(self, name: str) -> Book:
        """Raises NotFound."""
        row = await self._db.row("SELECT * FROM runbooks WHERE name = ?", (name,))
        if row is None:
            raise NotFound("there is no such runbook")
        return _book(row)

    async def save(self, book: Book, asker: Asker) -> Book:
        """Keep a new runbook or a changed one; whoever saves it owns it. Raises Invalid, Forbidden."""
        check(book)
        _may_write(asker, book)
        known = await self.all()
        old = next((one for one in known if one.name == book.name), None)
        if old is not None:
            _may_change(asker, old)
        elif len(known) >= MOST_BOOKS:
            raise Invalid("there are too many runbooks", hint=f"At most {MOST_BOOKS}. Remove one.", code="book_many")
        now, timetable = self._clock.now(), book.timetable
        row = (
            book.name, book.titles.get("en", ""), book.titles.get("ar", ""), book.abouts.get("en", ""),
            book.abouts.get("ar", ""), book.line, book.cwd,
            json.dumps([[one.name, one.spec, one.label] for one in book.parameters], ensure_ascii=False),
            book.role, book.schedule, timetable.after(now) if timetable else None, owner_of(asker), now,
        )  # fmt: skip
        async with self._db.transaction() as tx:
            await self._audit.append(tx, "runbook.save", asker.auditor, book=book.name, schedule=book.schedule)
            await tx.execute(
                "INSERT INTO runbooks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "(title_en, title_ar, about_en, about_ar, line, cwd, parameters, role, schedule, next_at, owner, changed_at) = "
                "(excluded.title_en, excluded.title_ar, excluded.about_en, excluded.about_ar, excluded.line, excluded.cwd, "
                "excluded.parameters, excluded.role, excluded.schedule, excluded.next_at, excluded.owner, excluded.changed_at)",
                row,
            )
        self._ran.pop(book.name, None)  # its new timetable counts from now
        return await self.get(book.name)

    async def remove(self, name: str, asker: Asker) -> None:
        """Raises NotFound, Forbidden."""
        _may_change(asker, await self.get(name))
        async with self._db.transaction() as tx:
            await self._audit.append(tx, "runbook.remove", asker.auditor, book=name)
            await tx.execute("DELETE FROM runbooks WHERE name = ?", (name,))

    async def start(self, name: str, values: Mapping[str, str], asker: Asker, *, shown: str = "") -> Run:
        """Propose the runbook's command with ``values``; ``shown``: the version (Book) that was looked at. Raises CroftError."""
        book = await self.get(name)
        if shown and shown != book.version:
            raise Conflict("the runbook was changed meanwhile", hint="Look at it again.", code="changed")
        return await self._start(book, values, asker)

    async def _start(self, book: Book, values: Mapping[str, str], asker: Asker, *, scheduled: bool = False) -> Run:
        if ROLES.index(asker.role) < ROLES.index(book.role):
            raise Forbidden(f"this runbook needs the role {book.role}", hint="Ask an admin of this appliance.")
        run = await self._commands.propose(asker, Proposal("", book.stages(values), book.cwd))
        async with self._db.transaction() as tx:
            await tx.execute(
                "INSERT OR IGNORE INTO runbook_runs SELECT ?, name, ?, ? FROM runbooks WHERE name = ?",
                (run.id, self._clock.now(), int(scheduled), book.name),
            )
        return run

    async def runs_of(self, name: str) -> list[str]:
        """Ids of its last runs, the newest first."""
        rows = await self._db.rows(
            "SELECT run FROM runbook_runs WHERE book = ? ORDER BY at DESC LIMIT ?", (name, HISTORY)
        )
        return [str(row["run"]) for row in rows]

    async def run(self) -> None:
        """Start what is due until cancelled."""
        while True:
            try:
                await self.tick()
            except (CroftError, sqlite3.Error, OSError) as error:
                log.error("cannot look after the runbooks; it is tried again", exc_info=error)
            await asyncio.sleep(TICK_SECONDS)

    async def tick(self) -> None:
        """Start what is due now, each once however long the machine was off."""
        for known in await self.all():
            if known.next_at is not None:
                # Read again: the one before may have taken minutes to start, and this one be another's by now.
                with suppress(NotFound):
                    await self._look_at(await self.get(known.name))

    async def _look_at(self, book: Book) -> None:
        timetable = book.timetable
        if timetable is None or book.next_at is None:
            return
        now, after = self._clock.now(), timetable.after(self._clock.now())
        if book.next_at <= now:
            await self._plan(book, after)
            await self._by_the_clock(book, timetable)
        elif book.next_at > after + 1:
            # The wall clock was set back: what was planned by the old time is planned anew.
            await self._plan(book, after)

    async def _plan(self, book: Book, at: float) -> None:
        await self._db.execute(
            "UPDATE runbooks SET next_at = ? WHERE name = ? AND next_at = ?", (at, book.name, book.next_at)
        )

    async def _by_the_clock(self, book: Book, timetable: Timetable) -> None:
        uptime, last = self._clock.uptime(), self._ran.get(book.name)
        if last is not None and uptime - last < timetable.period / 2:
            return  # the wall clock was set ahead: no more often than the timetable says
        self._ran[book.name] = uptime
        found = await self._person(book.owner)
        if found is None:
            log.warning("a runbook is due, but who saved it is gone or suspended", extra={"book": book.name})
            return
        role, name = found
        person = "" if book.owner == CONSOLE else book.owner
        try:
            await self._start(book, {}, Asker(Actor.HUMAN, role, person, name, unattended=True), scheduled=True)
        except CroftError as error:
            log.warning("a runbook could not be started", extra={"book": book.name, "cause": error.message})


def owner_of(asker: Asker) -> str:
    """Who owns what ``asker`` saves."""
    return asker.person or asker.auditor


async def told(database: Database, person: str) -> list[dict[str, Any]]:
    """The runbooks a person saved, for their own data (PRV-6)."""
    rows = await database.rows(
        "SELECT name, title_en, title_ar, line, schedule, changed_at FROM runbooks WHERE owner = ?", (person,)
    )
    return [dict(row) for row in rows]


async def forget(tx: Any, person: str) -> None:
    """Let go of a person's runbooks, in the transaction that removes them (PRV-4): others may use them, the clock does not."""
    await tx.execute("UPDATE runbooks SET owner = '', schedule = '', next_at = NULL WHERE owner = ?", (person,))


def may_change(asker: Asker, book: Book) -> bool:
    """Operators change their own, admins any; programs none."""
    return not asker.token and (asker.role == "admin" or (asker.role == "operator" and book.owner == owner_of(asker)))


def _may_change(asker: Asker, book: Book) -> None:
    if not may_change(asker, book):
        raise Forbidden("this is not yours to change", hint="Its owner or an admin can.")


def _may_write(asker: Asker, book: Book) -> None:
    """Nobody makes one for a role above their own."""
    if asker.token or asker.role == "viewer":
        raise Forbidden("this needs the role operator", hint="Ask an admin of this appliance.")
    if ROLES.index(book.role) > ROLES.index(asker.role):
        raise Forbidden("a runbook cannot be for a role above your own", hint="Choose another role.")


def _book(row: Row) -> Book:
    return Book(
        row["name"],
        row["line"],
        {"en": row["title_en"], "ar": row["title_ar"]},
        {"en": row["about_en"], "ar": row["about_ar"]},
        tuple(Parameter(*one) for one in json.loads(row["parameters"])),
        row["cwd"],
        cast(Role, row["role"]),
        row["schedule"],
        row["owner"],
        row["next_at"],
        row["changed_at"],
    )
