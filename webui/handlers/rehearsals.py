"""Rehearsals: what one changed, how a change reads, and what a person decides about it.

Rule: applying names the digest of the list that was shown; paths and texts come from a program nobody trusts and go out as JSON.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from appliance.commands.parcel import Change, Listed, State
from appliance.commands.rehearsal_rows import Rehearsal
from appliance.messages import Message
from webui import keys, views
from webui.answers import answer
from webui.forms import read_json
from webui.handlers.commands import asker_of

PAGE = 500
_SHOWN = ("kind", "mode", "size", "target")


class _Apply(msgspec.Struct, forbid_unknown_fields=True):
    digest: str


async def changes(request: web.Request) -> web.Response:
    """What a rehearsal changed, after the path ``after`` (in order of the list)."""
    commands = request.app[keys.COMMANDS]
    run = await commands.get(asker_of(request), request.match_info["id"])
    return await _told(request, await commands.rehearsals.get(run.id))


async def diff(request: web.Request) -> web.Response:
    """How the change of one path reads."""
    commands = request.app[keys.COMMANDS]
    run = await commands.get(asker_of(request), request.match_info["id"])
    row = await commands.rehearsals.get(run.id)
    change, found = await commands.rehearsals.difference(row, request.query.get("path", ""))
    told = {"path": change.path, "what": change.what, "kind": found.kind}
    return answer({"diff": told | {"text": found.text, "truncated": found.truncated}})


async def apply(request: web.Request) -> web.Response:
    """Merge exactly the changes with this digest."""
    body = await read_json(request, _Apply)
    commands = request.app[keys.COMMANDS]
    return await _told(request, await commands.apply(asker_of(request), request.match_info["id"], body.digest))


async def undo(request: web.Request) -> web.Response:
    """Take back what was applied."""
    return await _told(request, await request.app[keys.COMMANDS].undo(asker_of(request), request.match_info["id"]))


async def discard(request: web.Request) -> web.Response:
    """Let the result go."""
    return await _told(request, await request.app[keys.COMMANDS].discard(asker_of(request), request.match_info["id"]))


async def _told(request: web.Request, row: Rehearsal) -> web.Response:
    listed = await request.app[keys.COMMANDS].rehearsals.listed(row)
    return answer({"rehearsal": rehearsal_json(request, row, listed, request.query.get("after", ""))})


def rehearsal_json(request: web.Request, row: Rehearsal, listed: Listed, after: str = "") -> dict[str, Any]:
    """One rehearsal with a page of its changes, with its sentence in the reader's language."""
    now = request.app[keys.CLOCK].now()
    start = next((number for number, change in enumerate(listed.changes, 1) if change.path == after), 0)
    page = listed.changes[start : start + PAGE]
    return {
        "run": row.run,
        "state": str(row.stage),
        "cause": row.cause,
        "message": views.translator(request).message(rehearsal_message(row)),
        "digest": row.digest or None,
        "count": row.changes,
        "applicable": row.applicable(now),
        "can_undo": row.can_undo(now),
        "changes": [change_json(change) for change in page],
        "more": start + len(page) < len(listed.changes),
        "problems": list(listed.problems),
        "created_at": row.created_at,
        "ready_at": row.ready_at,
        "expires_at": row.expires_at,
        "applied_at": row.applied_at,
        "undo_until": row.undo_until,
        "undone_at": row.undone_at,
    }


def rehearsal_message(row: Rehearsal) -> Message:
    """How a rehearsal stands, in one sentence."""
    if row.cause:
        return Message(f"rehearsal.cause.{row.cause}")
    return Message(f"rehearsal.state.{row.stage}", {"n": row.changes})


def change_json(change: Change) -> dict[str, Any]:
    return {
        "path": change.path,
        "what": change.what,
        "before": _side(change.before),
        "after": _side(change.after),
        "stale": change.stale,
    }


def _side(state: State | None) -> State | None:
    return {key: state[key] for key in _SHOWN if key in state} if state else None
