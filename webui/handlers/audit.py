"""The audit log: looking into it, taking it along, checking it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from appliance.audit import EVENTS, Record
from appliance.audit_search import Wanted
from appliance.errors import Invalid
from appliance.messages import Message
from webui import keys, views
from webui.answers import answer
from webui.audit_words import KNOWN_ACTORS, Names, as_csv, as_jsonl, csv_head, record_json, sentence
from webui.guard import principal_of
from webui.handlers.live import while_signed_in
from webui.i18n import Translator
from webui.render import page

PAGE = 50
FORMATS = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson; charset=utf-8"}
# How appliance.audit names what does not hold, as keys of the catalogue.
FAULTS = {
    "a record is missing": "missing",
    "a record was changed": "changed",
    "a signed checkpoint has no matching record: the log was cut or rewritten": "cut",
    "a checkpoint's signature is not ours": "signature",
    "the log does not reach the head that was anchored: its end was cut or rewritten": "cut",
}
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")


async def audit(request: web.Request) -> web.StreamResponse:
    """The log, newest first, as sentences."""
    wanted, search = _wanted(request), request.app[keys.AUDIT_SEARCH]
    names, t = await _names(request), views.translator(request)
    records = await search.page(wanted, before=_number(request, "before"), limit=PAGE + 1)
    checked = await _checked(request) if request.query.get("verify") else None
    return page(
        request,
        "audit.html",
        notice=checked,
        page="settings",
        tab="audit",
        rows=[_shown(record, t, names) for record in records[:PAGE]],
        older=_query(request, before=str(records[PAGE - 1].seq)) if len(records) > PAGE else "",
        wanted=request.query,
        filtered=wanted != Wanted(),
        query=_query(request),
        events=sorted(EVENTS),
        actors=_actors(t, await _people(request)),
        checkpoints=await search.checkpoints(),
    )


async def audit_records(request: web.Request) -> web.Response:
    """The audit log, newest first."""
    wanted, names, t = _wanted(request), await _names(request), views.translator(request)
    records = await request.app[keys.AUDIT_SEARCH].page(
        wanted, before=_number(request, "before"), after=_number(request, "after")
    )
    return answer({"records": [_shown(record, t, names) for record in records]})


async def export(request: web.Request) -> web.StreamResponse:
    """Every record the filter lets through as a file, written while it is read; recorded before it is told (LOG-9)."""
    form = request.query.get("format", "csv")
    if form not in FORMATS:
        raise Invalid("there is no such format", hint="There are csv and jsonl.")
    wanted, names, t = _wanted(request), await _names(request), views.translator(request)
    await request.app[keys.AUDIT].note("export", principal_of(request).actor, what="audit log", format=form)
    line: Callable[[Record], str] = as_jsonl if form == "jsonl" else as_csv(lambda actor: names(t, actor))
    return await while_signed_in(request, _written(request, form, wanted, line))


async def _written(
    request: web.Request, form: str, wanted: Wanted, line: Callable[[Record], str]
) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": FORMATS[form],
            "Content-Disposition": f'attachment; filename="croft-audit.{form}"',
            "Cache-Control": "no-store",
        }
    )
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    pending = [csv_head()] if form == "csv" else []
    async for record in request.app[keys.AUDIT_SEARCH].all(wanted):
        pending.append(line(record))
        if len(pending) >= 100:
            await response.write("".join(pending).encode())
            pending.clear()
    await response.write("".join(pending).encode())
    return response


async def audit_verify(request: web.Request) -> web.Response:
    """Whether the audit chain holds."""
    fault = await request.app[keys.AUDIT].verify(request.app[keys.ANCHOR]())
    return answer({"ok": fault is None, "fault": {"seq": fault.seq, "what": fault.what} if fault else None})


async def _checked(request: web.Request) -> Message:
    fault = await request.app[keys.AUDIT].verify(request.app[keys.ANCHOR]())
    if fault is None:
        return Message("audit.whole")
    return Message(f"fault.audit_{FAULTS.get(fault.what, 'changed')}", {"seq": fault.seq})


def _wanted(request: web.Request) -> Wanted:
    query = request.query
    until = _day(query.get("to", ""))
    return Wanted(
        _clean(query.get("event", "")),
        _clean(query.get("actor", "")),
        _day(query.get("from", "")),
        until + timedelta(days=1).total_seconds() if until is not None else None,
        _clean(query.get("q", ""))[:200],
    )


def _clean(text: str) -> str:
    # Half a surrogate pair, which a query may hold, is nothing SQLite can look for.
    return text.encode("utf-8", "ignore").decode("utf-8").replace("\0", "")


def _day(text: str) -> float | None:
    """The start of a day in UTC; None where there is none."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() if _DAY.match(text) else None
    except ValueError:
        return None


def _number(request: web.Request, name: str) -> int | None:
    text = request.query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _query(request: web.Request, **more: str) -> str:
    kept = {
        name: _clean(request.query[name]) for name in ("event", "actor", "from", "to", "q") if request.query.get(name)
    }
    return urlencode(kept | more)


def _shown(record: Record, t: Translator, names: Names) -> dict[str, Any]:
    return record_json(record) | {"who": names(t, record.actor), "said": sentence(t, record, names)}


async def _people(request: web.Request) -> dict[str, str]:
    return {user.id: user.name or user.email for user in await request.app[keys.USERS].all()}


async def _names(request: web.Request) -> Names:
    return Names(await _people(request))


def _actors(t: Translator, people: dict[str, str]) -> list[tuple[str, str]]:
    return [
        *((known, t(f"audit.actor.{known}")) for known in KNOWN_ACTORS),
        *sorted(people.items(), key=lambda one: one[1]),
    ]
