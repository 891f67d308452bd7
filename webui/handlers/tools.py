"""Toolchains of the workspace: the page, its forms, and the same for programs.

Rule: what may be installed is the catalogue's; nothing a request says reaches a command line.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from appliance.errors import CroftError, NotFound
from appliance.host.tools import CATALOGUE
from appliance.messages import Message
from webui import keys
from webui.answers import answer, see
from webui.guard import principal_of
from webui.render import page

ACTIONS = ("add", "remove", "cancel")


async def tools(request: web.Request) -> web.StreamResponse:
    """What is installed and what can be."""
    box = request.app[keys.TOOLBOX]
    try:
        found, notice = await box.look(), None
    except CroftError as fault:
        found, notice = {"tools": [], "free": 0}, Message("tools.unseen", {"why": fault.message})
    rows, picture = offered(found, box.job), box.picture()
    more = {"rows": rows, "free": found["free"], "runtime": box.runtime}
    if box.problem:
        more["title"] = CATALOGUE[box.problem["name"]].title
    return page(request, "tools.html", page="machine", tab="tools", notice=notice, **more, **picture)


async def tool_form(request: web.Request) -> web.StreamResponse:
    """Add, remove or cancel from a plain form."""
    await _act(request)
    return see("/machine/tools")


async def list_tools(request: web.Request) -> web.Response:
    """Every toolchain that is offered, whether it is here, and what is under way."""
    box = request.app[keys.TOOLBOX]
    found = await box.look()
    return answer({"tools": offered(found, box.job), "free": found["free"], **box.picture()})


async def act_on_tool(request: web.Request) -> web.Response:
    """Add, remove or cancel; ``GET /api/tools`` and the topic ``tools`` tell how far it is."""
    await _act(request)
    return answer(request.app[keys.TOOLBOX].picture(), 202)


async def _act(request: web.Request) -> None:
    name, series, action = (request.match_info[key] for key in ("name", "series", "action"))
    box = request.app[keys.TOOLBOX]
    if action not in ACTIONS:
        raise NotFound("there is no such action", hint=f"There are {', '.join(ACTIONS)}.")
    if action != "cancel":
        await box.begin(action, name, series, principal_of(request).actor)
    elif box.job and (box.job["name"], box.job["series"]) == (name, series):
        box.cancel()
        await box.wait()


def offered(found: dict[str, Any], job: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each version of the catalogue; ``version`` is empty where it is not here."""
    here = {(row["name"], row["series"]): row for row in found["tools"]}
    rows = []
    for name, tool in CATALOGUE.items():
        for series in tool.series:
            row = here.get((name, series), {"version": "", "bytes": tool.bytes, "programs": sorted(tool.programs)})
            busy = job if job and (job["name"], job["series"]) == (name, series) else None
            rows.append(row | {"name": name, "title": tool.title, "series": series, "job": busy})
    return rows
