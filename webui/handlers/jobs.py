"""Jobs: long work under way and what became of the last ones, as a page and for programs.

Rule: everybody may see how far things are; who asked for them and with what stays in the row.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from appliance.errors import NotFound
from appliance.jobs import shown
from webui import keys
from webui.answers import answer, see
from webui.forms import read_form
from webui.guard import principal_of
from webui.render import page

ACTIONS = ("pause", "resume", "cancel")
PAGES = ("/machine/jobs", "/machine/models")


async def jobs(request: web.Request) -> web.StreamResponse:
    """What is under way, and what ended."""
    service = await request.app[keys.JOBS].get()
    found = [shown(job) for job in await service.all()]
    return page(
        request,
        "jobs.html",
        page="machine",
        tab="jobs",
        going=[job for job in found if job["actions"] and job["state"] != "failed"],
        over=[job for job in found if job["ended_at"]],
        ended=service.picture()["ended"],
        may=principal_of(request).role.name == "admin",
    )


async def job_form(request: web.Request) -> web.StreamResponse:
    """Pause, resume or cancel from a plain form; leads back to where it stands."""
    back = (await read_form(request)).get("next", "")
    await _act(request)
    return see(back if back in PAGES else PAGES[0])


async def list_jobs(request: web.Request) -> web.Response:
    """Unfinished ones first, then the newest."""
    service = await request.app[keys.JOBS].get()
    return answer({"jobs": [shown(job) for job in await service.all()]})


async def get_job(request: web.Request) -> web.Response:
    """One job."""
    return answer({"job": shown(await (await request.app[keys.JOBS].get()).get(request.match_info["id"]))})


async def act_on_job(request: web.Request) -> web.Response:
    """Pause, resume or cancel one; the topic ``jobs`` of ``/api/events`` tells how far it is."""
    return answer({"job": await _act(request)})


async def _act(request: web.Request) -> dict[str, Any]:
    action = request.match_info["action"]
    if action not in ACTIONS:
        raise NotFound("there is no such action", hint=f"There are {', '.join(ACTIONS)}.")
    return shown(await (await request.app[keys.JOBS].get()).act(request.match_info["id"], action))
