"""The approvals inbox: what waits for a person, deciding it with or without scripts, and leases.

Rule: a decision names the hash of what was shown, on paper as in JSON; nothing is decided by looking (POL-10, POL-11).
"""

from __future__ import annotations

from aiohttp import web

from appliance.commands.asker import Asker
from appliance.commands.history import State
from appliance.commands.leases import Terms
from appliance.errors import CroftError, Invalid
from appliance.identity.users import Role
from appliance.messages import Message
from webui import keys
from webui.answers import see
from webui.forms import read_form
from webui.guard import principal_of
from webui.handlers.commands import asker_of
from webui.handlers.run_pages import commands_page, run_page

RECENT = 12


async def approvals(request: web.Request) -> web.StreamResponse:
    """What waits, what runs without asking for a while, and what was decided last."""
    return await _inbox(request)


async def approve_form(request: web.Request) -> web.StreamResponse:
    """Let what was shown run, from the page."""
    form = await read_form(request)
    try:
        terms = Terms(_whole(form, "runs"), _whole(form, "minutes")) if form.get("how") == "lease" else None
        run = await request.app[keys.COMMANDS].approve(
            asker_of(request), request.match_info["id"], form.get("hash", ""), terms
        )
    except CroftError as error:
        return await _not_done(request, error)
    return see(f"/commands/{run.id}")


async def deny_form(request: web.Request) -> web.StreamResponse:
    """Turn a proposal down, from the page."""
    try:
        await request.app[keys.COMMANDS].deny(asker_of(request), request.match_info["id"])
    except CroftError as error:
        return await _not_done(request, error)
    return see("/commands/approvals?done=deny")


async def revoke_form(request: web.Request) -> web.StreamResponse:
    """End a lease, from the page."""
    try:
        await request.app[keys.COMMANDS].approvals.revoke(asker_of(request), request.match_info["id"])
    except CroftError as error:
        if error.code == "step_up":
            raise
        return await _inbox(request, fault=error)
    return see("/commands/approvals?done=revoke")


async def _inbox(request: web.Request, fault: CroftError | None = None) -> web.Response:
    commands, asker = request.app[keys.COMMANDS], asker_of(request)
    done = request.query.get("done", "")
    said = Message(f"approvals.done_{done}") if done in ("deny", "revoke") else None
    return commands_page(
        request,
        "approvals.html",
        fault=fault,
        tab="approvals",
        notice=said,
        waiting=await commands.waiting(asker),
        leases=await commands.approvals.leases() if _may_see_leases(asker) else [],
        decided=[run for run in await commands.page(asker, limit=100) if run.hash and run.state is not State.WAITING][
            :RECENT
        ],
    )


def _may_see_leases(asker: Asker) -> bool:
    return asker.role != "viewer"


async def _not_done(request: web.Request, error: CroftError) -> web.StreamResponse:
    """The run as it stands, with why the decision was not taken."""
    if error.code in ("step_up", "not_found") or principal_of(request).role < Role.operator:
        raise error
    return await run_page(request, fault=error)


def _whole(form: dict[str, str], name: str) -> int:
    text = form.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise Invalid(f"{name} must be a whole number", hint="Choose how often and for how long.", code="lease_terms")
    return int(text)
