"""Runbooks, for pages and programs: a list, a form a parameter, and who may change what.

Rule: what was typed comes back with the fault; running one ends on the run's own page, like any other command.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Literal

import msgspec
from aiohttp import web

from appliance.commands.history import Run, State
from appliance.commands.model import ROLES
from appliance.commands.runbooks import Book, Parameter, may_change
from appliance.commands.values import TYPES
from appliance.errors import CroftError, Forbidden, NotFound
from appliance.identity.users import Role
from appliance.messages import Message
from webui import keys, views
from webui.answers import answer, see
from webui.forms import read_form, read_json
from webui.guard import principal_of
from webui.handlers.commands import asker_of, run_json
from webui.handlers.run_pages import commands_page
from webui.i18n import LANGUAGES, Translator

DONE = ("save", "remove")
WEEKDAYS = range(1, 8)
# A parameter as it is typed: its name, its type with what stands in brackets, its label.
_ROW = re.compile(r"\s*(\S+)(?:\s+([a-z]+\([^)]*\)|\S+))?(?:\s+(.*))?")


class _Parameter(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    type: str
    label: str = ""


class _Book(msgspec.Struct, forbid_unknown_fields=True):
    line: str
    title: dict[str, str]
    about: dict[str, str] = {}
    parameters: list[_Parameter] = []
    cwd: str = ""
    role: Literal["viewer", "operator", "admin"] = "operator"
    schedule: str = ""


class _Values(msgspec.Struct, forbid_unknown_fields=True):
    values: dict[str, str] = {}


async def runbooks(request: web.Request) -> web.StreamResponse:
    """Every runbook that may be run or looked at."""
    done = request.query.get("done", "")
    return commands_page(
        request,
        "runbooks.html",
        tab="runbooks",
        notice=Message(f"runbooks.done_{done}") if done in DONE else None,
        books=await request.app[keys.RUNBOOKS].all(),
        may_run=_may_run(request),
    )


async def runbook(request: web.Request) -> web.StreamResponse:
    """One runbook: its parameters to fill in, its last runs."""
    return await _book_page(request)


async def new(request: web.Request) -> web.StreamResponse:
    """The form for a new one; ``line`` may come along."""
    return _form_page(request, Book("", request.query.get("line", "")[:4000], {}, {}))


async def edit(request: web.Request) -> web.StreamResponse:
    """The form for changing one."""
    book = await request.app[keys.RUNBOOKS].get(request.match_info["name"])
    if not may_change(asker_of(request), book):
        raise Forbidden("this is not yours to change", hint="Its owner or an admin can.")
    return _form_page(request, book, known=True)


async def save_form(request: web.Request) -> web.StreamResponse:
    """Keep a runbook from the page."""
    form = await read_form(request)
    book = _of_form(form)
    try:
        await request.app[keys.RUNBOOKS].save(book, asker_of(request))
    except CroftError as error:
        typed = form.get("parameters", "")
        return _form_page(request, book, known=form.get("known") == "yes", fault=error, typed=typed)
    return see("/commands/runbooks?done=save")


async def run_form(request: web.Request) -> web.StreamResponse:
    """Run one from the page."""
    form = await read_form(request)
    values = {name.removeprefix("p."): value for name, value in form.items() if name.startswith("p.")}
    try:
        run = await request.app[keys.RUNBOOKS].start(
            request.match_info["name"], values, asker_of(request), shown=form.get("version", "")
        )
    except NotFound:
        raise
    except CroftError as error:
        return await _book_page(request, values=values, fault=error)
    return see(f"/commands/{run.id}")


async def remove_form(request: web.Request) -> web.StreamResponse:
    """Remove one from the page. Without scripts to ask first, the page asks."""
    form = await read_form(request)
    if form.get("sure") != "yes":
        return await _book_page(request, sure=True)
    await request.app[keys.RUNBOOKS].remove(request.match_info["name"], asker_of(request))
    return see("/commands/runbooks?done=remove")


async def list_runbooks(request: web.Request) -> web.Response:
    """Every runbook."""
    t = views.translator(request)
    return answer({"runbooks": [book_json(book, t) for book in await request.app[keys.RUNBOOKS].all()]})


async def get_runbook(request: web.Request) -> web.Response:
    """One runbook and its last runs."""
    books, t = request.app[keys.RUNBOOKS], views.translator(request)
    book = await books.get(request.match_info["name"])
    runs = [run_json(request, run, t) for run in await _runs(request, book)]
    return answer({"runbook": book_json(book, t), "runs": runs})


async def put_runbook(request: web.Request) -> web.Response:
    """Keep a runbook under the name in the address."""
    body = await read_json(request, _Book)
    book = Book(
        request.match_info["name"],
        body.line,
        {lang: body.title.get(lang, "").strip() for lang in LANGUAGES},
        {lang: body.about.get(lang, "").strip() for lang in LANGUAGES},
        tuple(Parameter(one.name, one.type, one.label) for one in body.parameters),
        body.cwd,
        body.role,
        body.schedule,
    )
    saved = await request.app[keys.RUNBOOKS].save(book, asker_of(request))
    return answer({"runbook": book_json(saved, views.translator(request))})


async def delete_runbook(request: web.Request) -> web.Response:
    """Remove a runbook; its runs stay in the history."""
    await request.app[keys.RUNBOOKS].remove(request.match_info["name"], asker_of(request))
    return answer({"ok": True})


async def run_runbook(request: web.Request) -> web.Response:
    """Ask for a runbook's command with ``values``; 201 with the run, or 403 when the policy refuses."""
    body = await read_json(request, _Values)
    run = await request.app[keys.RUNBOOKS].start(request.match_info["name"], body.values, asker_of(request))
    t = views.translator(request)
    told = run_json(request, run, t)
    if run.state is State.REFUSED:
        error = {"code": "denied", "message": told["reason"], "hint": t("command.refused.hint")}
        return answer({"error": error, "run": told}, 403)
    return answer({"run": told}, 201)


def book_json(book: Book, t: Translator) -> dict[str, Any]:
    timetable = book.timetable
    return {
        "name": book.name,
        "title": book.title(t.lang),
        "about": book.about(t.lang),
        "titles": dict(book.titles),
        "abouts": dict(book.abouts),
        "line": book.line,
        "cwd": book.cwd,
        "parameters": [{"name": one.name, "type": one.spec, "label": one.label} for one in book.parameters],
        "role": book.role,
        "schedule": book.schedule,
        "scheduled": t.message(timetable.words) if timetable else None,
        "next_at": book.next_at,
        "changed_at": book.changed_at,
    }


def _may_run(request: web.Request) -> Any:
    own = principal_of(request).role
    return lambda book: own >= Role[book.role]


async def _book_page(
    request: web.Request, *, values: dict[str, str] | None = None, fault: CroftError | None = None, sure: bool = False
) -> web.Response:
    book = await request.app[keys.RUNBOOKS].get(request.match_info["name"])
    parameter = getattr(fault, "parameter", None)
    return commands_page(
        request,
        "runbook.html",
        fault=fault,
        tab="runbooks",
        book=book,
        values=values or {},
        wrong=parameter.name if parameter else "",
        runs=await _runs(request, book),
        may_run=_may_run(request)(book),
        changeable=may_change(asker_of(request), book),
        sure=sure,
    )


def _form_page(
    request: web.Request, book: Book, *, known: bool = False, fault: CroftError | None = None, typed: str | None = None
) -> web.Response:
    lines = "\n".join(f"{one.name} {one.spec} {one.label}".rstrip() for one in book.parameters)
    return commands_page(
        request,
        "runbook_edit.html",
        fault=fault,
        tab="runbooks",
        book=book,
        known=known,
        parameters=lines if typed is None else typed,
        roles=[role for role in ROLES if Role[role] <= principal_of(request).role],
        types=sorted(TYPES),
        schedule=_schedule_fields(book.schedule),
        weekdays=WEEKDAYS,
    )


def _of_form(form: dict[str, str]) -> Book:
    """The book a form describes, good or not: keeping it says what is wrong."""
    rows = [found.groups("") for row in form.get("parameters", "").splitlines() if (found := _ROW.fullmatch(row))]
    role = form.get("role", "")
    return Book(
        form.get("name", "").strip(),
        form.get("line", "").strip(),
        {lang: form.get(f"title_{lang}", "").strip() for lang in LANGUAGES},
        {lang: form.get(f"about_{lang}", "").strip() for lang in LANGUAGES},
        tuple(Parameter(name, spec, label.strip()) for name, spec, label in rows),
        form.get("cwd", "").strip(),
        role if role in ROLES else "operator",
        _schedule(form),
    )


def _schedule(form: dict[str, str]) -> str:
    kind, clock = form.get("schedule", ""), form.get("clock", "")
    match kind:
        case "every":
            return f"every {form.get('hours', '').strip()}h"
        case "daily":
            return f"daily {clock}"
        case "weekly":
            return f"weekly {form.get('weekday', '')} {clock}"
    return ""


def _schedule_fields(text: str) -> dict[str, str]:
    """A timetable as the form holds it."""
    found = {"kind": text.partition(" ")[0], "hours": "24", "clock": "03:00", "weekday": "1"}
    if match := re.fullmatch(r"every (\d+)h", text):
        found["hours"] = match[1]
    elif match := re.fullmatch(r"(?:daily|weekly ([1-7])) (\d\d:\d\d)", text):
        found |= {"weekday": match[1] or "1", "clock": match[2]}
    return found


async def _runs(request: web.Request, book: Book) -> list[Run]:
    """Its last runs, as far as the reader may see them and they are still kept."""
    asker, found = asker_of(request), []
    for run in await request.app[keys.RUNBOOKS].runs_of(book.name):
        with suppress(NotFound):
            found.append(await request.app[keys.COMMANDS].get(asker, run))
    return found
