"""Toolchains of the workspace: the page, its forms, and the same for programs.

Rule: what may be installed is the catalogue's; nothing a request says reaches a command line.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from appliance.errors import Conflict, CroftError, Invalid, NotFound
from appliance.host.packages import Packages
from appliance.host.toolbox import Done
from appliance.host.tools import CATALOGUE, locked_version
from appliance.identity.users import Role
from appliance.messages import Message
from webui import keys
from webui.answers import answer, see
from webui.forms import read_form, read_json
from webui.guard import principal_of
from webui.render import page

ACTIONS = ("add", "remove", "cancel")


class Choice(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``PUT /api/packages``: all of them, and no others."""

    packages: list[str]


async def tools(request: web.Request) -> web.StreamResponse:
    """What is installed and what can be."""
    return await _page(request)


async def _page(request: web.Request, typed: str | None = None, fault: CroftError | None = None) -> web.Response:
    box = request.app[keys.TOOLBOX]
    try:
        found, notice = await box.look(), None
    except CroftError as error:
        found, notice = Done(), Message("tools.unseen", {"why": error.message})
    rows, picture = offered(found, box.job), box.picture()
    more = {"rows": rows, "free": found.free, "runtime": box.runtime}
    if box.problem:
        more["title"] = CATALOGUE[box.problem["name"]].title
    more["image"] = await _image(request) if box.runtime == "docker" else None
    more |= {"typed": typed, "may_build": principal_of(request).role >= Role.admin}
    if fault:
        notice = Message(f"fault.{fault.code}")
    status = fault.status if fault else 200
    return page(request, "tools.html", page="machine", tab="tools", notice=notice, status=status, **more, **picture)


async def _image(request: web.Request) -> dict[str, Any]:
    try:
        return await request.app[keys.PACKAGES].look()
    except CroftError as error:
        return {"packages": [], "building": False, "problem": error.message}


def _packages(request: web.Request) -> Packages:
    """Raises Conflict where the workspace has no image."""
    if request.app[keys.TOOLBOX].runtime != "docker":
        raise Conflict(
            "packages come from this machine's own distribution here",
            hint="Install them on the machine: sudo apt install NAME.",
            code="package_no_image",
        )
    return request.app[keys.PACKAGES]


async def packages_form(request: web.Request) -> web.StreamResponse:
    """Build the workspace's image with the packages that were typed."""
    packages, typed = _packages(request), (await read_form(request)).get("packages", "")
    try:
        await packages.begin(typed, principal_of(request).actor)
    except (Invalid, Conflict) as fault:
        return await _page(request, typed[:5000], fault)
    return see("/machine/tools#packages-card")


async def list_packages(request: web.Request) -> web.Response:
    """The packages in the image, whether it is being built, and why the last build failed."""
    return answer(await _packages(request).look())


async def set_packages(request: web.Request) -> web.Response:
    """Build the image with exactly these packages; none leads back to the image as it was pulled."""
    packages, wanted = _packages(request), await read_json(request, Choice)
    await packages.begin(" ".join(wanted.packages), principal_of(request).actor)
    return answer(await packages.look(), 202)


async def tool_form(request: web.Request) -> web.StreamResponse:
    """Add, remove or cancel from a plain form."""
    await _act(request)
    return see("/machine/tools")


async def list_tools(request: web.Request) -> web.Response:
    """Every toolchain that is offered, whether it is here, and what is under way."""
    box = request.app[keys.TOOLBOX]
    found = await box.look()
    return answer({"tools": offered(found, box.job), "free": found.free, **box.picture()})


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


def offered(found: Done, job: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each version of the catalogue; ``version`` is empty where it is not here. ``newer``: adding it again may bring
    another version; of packages of the distribution only apt knows."""
    here = {(row["name"], row["series"]): row for row in found.tools}
    rows = []
    for name, tool in CATALOGUE.items():
        for series in tool.series:
            row: dict[str, Any] = {"version": "", "bytes": tool.bytes, "programs": sorted(tool.programs)}
            row |= here.get((name, series), {})
            other = row["version"] != locked_version(name, series) if tool.locked else bool(tool.packages)
            newer = bool(row["version"]) and other
            busy = job if job and (job["name"], job["series"]) == (name, series) else None
            rows.append(row | {"name": name, "title": tool.title, "series": series, "newer": newer, "job": busy})
    return rows
