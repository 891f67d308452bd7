"""The audit log."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from appliance.audit import Record
from webui import keys
from webui.answers import answer


async def audit_records(request: web.Request) -> web.Response:
    """The audit log, newest first."""
    before = request.query.get("before", "")
    records = await request.app[keys.AUDIT].records(
        before=int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None,
        event=request.query.get("event", ""),
        actor=request.query.get("actor", ""),
    )
    return answer({"records": [record_json(record) for record in records]})


async def audit_verify(request: web.Request) -> web.Response:
    """Whether the audit chain holds."""
    fault = await request.app[keys.AUDIT].verify(request.app[keys.ANCHOR]())
    return answer({"ok": fault is None, "fault": {"seq": fault.seq, "what": fault.what} if fault else None})


def record_json(record: Record) -> dict[str, Any]:
    return {
        "seq": record.seq,
        "at": record.at,
        "event": record.event,
        "actor": record.actor,
        "detail": record.detail,
        "intent": record.intent,
    }
