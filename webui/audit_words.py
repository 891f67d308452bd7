"""Audit records for people and for spreadsheets: who, what happened as a sentence, and rows nobody can hide a formula in.

Rule: a sentence is a text of the catalogue (``audit.said.EVENT``) with values of the record; a value that is missing shows as a dash.
"""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from appliance.audit import Record
from webui.filters import pieces
from webui.i18n import Translator

# What a spreadsheet takes for the start of a formula (OWASP, CSV injection), and what separates cells in some.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
HEAD = ("seq", "time", "event", "actor", "name", "intent", "detail")
# Excel takes a file without it for the machine's own eight-bit encoding, and Arabic names are lost.
BOM = "\ufeff"
KNOWN_ACTORS = ("console", "daemon", "anyone", "setup-link")
# Fields of records whose values are words of ours, and the family of texts that tells them.
_TOLD = {
    "role": "role",
    "way": "audit.value.way",
    "kind": "audit.value.kind",
    "why": "audit.value.why",
    "what": "audit.value.what",
    "result": "audit.value.end",
    "decision": "audit.value.end",
}


class Names:
    """Who is behind an actor or a user id. ``people`` maps ids to names."""

    def __init__(self, people: Mapping[str, str]) -> None:
        self._people = people

    def __call__(self, t: Translator, actor: str) -> str:
        if actor in KNOWN_ACTORS:
            return t(f"audit.actor.{actor}")
        if actor.startswith("token:"):
            return t("audit.actor.token")
        return self._people.get(actor, actor)


class _Values(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "–"


def sentence(t: Translator, record: Record, names: Names) -> str:
    """What the record says, in words."""
    key = f"audit.said.{record.event}"
    if not t.has(key):
        return record.event
    if record.detail.get("edited") and t.has(f"{key}.edited"):
        key += ".edited"
    values = _Values({name: _told(t, name, _plain(value)) for name, value in record.detail.items()})
    for name in ("user", "person"):
        if name in record.detail:
            # Only the set-up link is made for somebody who has no account yet.
            person = record.detail[name]
            values[name] = t("audit.actor.first-admin") if person is None else names(t, str(person))
    if isinstance(stages := record.detail.get("stages"), list):
        values["line"] = " | ".join(shlex.join(map(str, argv)) for argv in stages)
        if left_out := record.detail.get("words_left_out"):
            values["line"] += f" … (+{left_out})"
    values["intent"] = str(record.intent or "–")
    return t(key, **{name: _seen(values[name]) for name in t.catalogue.values_of(key)})


def _seen(text: str) -> str:
    """``text`` with every character that would not be seen, or would lie, spelt out."""
    return "".join(piece.text for piece in pieces(text))


def _told(t: Translator, name: str, value: str) -> str:
    """What a value is called in the reader's language, where it is a word of ours."""
    key = f"{_TOLD.get(name, '')}.{value}"
    return t(key) if t.has(key) else value


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "–"
    return str(value) if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)


def record_json(record: Record) -> dict[str, Any]:
    """A record as programs read it."""
    return {
        "seq": record.seq,
        "at": record.at,
        "event": record.event,
        "actor": record.actor,
        "detail": record.detail,
        "intent": record.intent,
    }


def as_jsonl(record: Record) -> str:
    """One line of JSON."""
    return json.dumps(record_json(record), ensure_ascii=True) + "\n"


def csv_head() -> str:
    """The first line of a CSV file, after the mark that says UTF-8."""
    return BOM + _row(HEAD)


def as_csv(name: Callable[[str], str]) -> Callable[[Record], str]:
    """How a record becomes a line of CSV (RFC 4180); ``name`` tells who an actor is."""

    def line(record: Record) -> str:
        time = datetime.fromtimestamp(record.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        detail = json.dumps(record.detail, ensure_ascii=False, sort_keys=True)
        cells = (record.seq, time, record.event, record.actor, name(record.actor), record.intent or "", detail)
        return _row(tuple(map(guarded, cells)))

    return line


def guarded(cell: str | int) -> str:
    """A cell that no spreadsheet runs (LOG-9)."""
    text = str(cell)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) and isinstance(cell, str) else text


def _row(cells: tuple[str, ...]) -> str:
    import csv

    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()
