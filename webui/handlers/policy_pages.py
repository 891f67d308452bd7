"""The policy page: rules in words, a box to try a line, the text with what a change would change, and every version.

Rule: the page shows and asks; checking, recording and saving is done by webui.handlers.policy, for forms as for programs.
"""

from __future__ import annotations

import asyncio
from typing import Any, get_args

from aiohttp import web

from appliance.commands.language import digest_of
from appliance.commands.lines import judge_line
from appliance.commands.model import ROLES, Actor, Scope, Verdict
from appliance.commands.policy_text import BadPolicy
from appliance.commands.words import in_words
from appliance.errors import CroftError, Invalid
from appliance.identity.users import Role
from appliance.messages import Message
from webui import keys, run_words, views
from webui.answers import see
from webui.forms import read_form
from webui.guard import principal_of
from webui.handlers.policy import Preview, change, judged_json, preview_of
from webui.handlers.run_pages import commands_page

VERSIONS = 30
DIFF_MOST = 400
LINE_MOST = 2000


async def policy(request: web.Request) -> web.StreamResponse:
    """The rules in words and a box to try a line; for admins the text and its versions."""
    return await _page(request)


async def change_form(request: web.Request) -> web.StreamResponse:
    """Show what a text would change, or put it in force, from the page."""
    form = await read_form(request)
    text = form.get("text", "").replace("\r\n", "\n")
    if form.get("restore"):
        text = await asyncio.to_thread(request.app[keys.POLICY].version_text, _version(form["restore"]))
    if form.get("do") != "save":
        return await _page(request, text=text, preview=await preview_of(request, text))
    try:
        await change(request, text, form.get("base"))
    except BadPolicy as bad:
        return await _page(request, text=text, preview=await preview_of(request, text), fault=bad)
    except CroftError as error:
        if error.code == "step_up":
            raise
        return await _page(request, text=text, fault=error)
    return see("/policy?done=saved")


async def _page(
    request: web.Request,
    *,
    text: str | None = None,
    preview: Preview | None = None,
    fault: CroftError | None = None,
) -> web.Response:
    file, admin = request.app[keys.POLICY], principal_of(request).role >= Role.admin
    rules = in_words(file.current)
    said = Message("policy_page.saved") if request.query.get("done") == "saved" else None
    return commands_page(
        request,
        "policy.html",
        fault=fault,
        tab="policy",
        notice=said,
        groups=[
            (mode, [rule for rule in rules if rule.mode is mode]) for mode in (Verdict.ALLOW, Verdict.ASK, Verdict.DENY)
        ],
        defaults=file.current.defaults,
        asked=_asked(request),
        judged=_judged(request),
        roles=ROLES,
        actors=list(Actor),
        scopes=get_args(Scope),
        file_fault=file.fault,
        admin=admin,
        text=(file.text if text is None else text) if admin else "",
        base=digest_of(file.text),
        diff=_diff(file.text, text) if text is not None else [],
        preview=preview,
        editing=text is not None,
        versions=(await asyncio.to_thread(file.versions))[:VERSIONS] if admin else [],
        names=await _names(request) if admin else {},
    )


def _asked(request: web.Request) -> dict[str, str]:
    """What the box to try a line holds."""
    query, own = request.query, principal_of(request).role.name
    asked = {
        "line": query.get("line", "")[:LINE_MOST],
        "actor": query.get("actor", "human"),
        "role": query.get("role", own),
        "scope": query.get("scope", "workspace"),
    }
    if asked["actor"] not in set(Actor) or asked["role"] not in ROLES or asked["scope"] not in get_args(Scope):
        raise Invalid("there is no such actor, role or scope", hint="Choose from the lists.")
    return asked


def _judged(request: web.Request) -> dict[str, Any] | None:
    asked = _asked(request)
    if not asked["line"].strip():
        return None
    found = judge_line(
        request.app[keys.POLICY].current,
        asked["line"],
        Actor(asked["actor"]),
        asked["role"],  # type: ignore[arg-type]  # checked above to be one of the literals
        scope=asked["scope"],  # type: ignore[arg-type]
    )
    return judged_json(found, views.translator(request)) | {"hidden": run_words.unseen(asked["line"])}


async def _names(request: web.Request) -> dict[str, str]:
    """Who wrote a version, by id."""
    t = views.translator(request)
    known = {user.id: user.name or user.email for user in await request.app[keys.USERS].all()}
    return known | {who: t(f"policy_page.by.{who}") for who in ("file", "croft", "console")}


def _diff(before: str, after: str) -> list[tuple[str, str]]:
    """The difference: "+", "-", "@" or " ", and the line."""
    import difflib

    rows = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=2, lineterm=""))[2 : 2 + DIFF_MOST]
    return [("@", row) if row.startswith("@@") else (row[0], row[1:]) for row in rows]


def _version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise Invalid("a version is a number", hint="Choose one of the list.")
    return int(text)
