"""Services and their logs, for pages, scripts and programs.

Rule: an action is announced in the audit log before it is carried out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from aiohttp import web

from appliance.errors import Invalid, NotFound
from appliance.identity.verify import relative_path
from appliance.services.model import SERVICES, LogLine, ServiceName, Supply
from appliance.telemetry.machine import Facts, facts
from webui import charts, keys, log_lines, views
from webui.answers import answer, see
from webui.guard import principal_of
from webui.handlers.live import Item, until_signed_out
from webui.handlers.telemetry import drawings, span_of
from webui.render import page

LOG_LINES = 500
PAGE_LINES = 300
LOG_LINES_MAX = 5000
FIND_MAX = 200  # characters to look for
ALL = log_lines.Filter()


async def machine(request: web.Request) -> web.StreamResponse:
    """Services, one by one, and the machine under them."""
    services, t = request.app[keys.SERVICES], views.translator(request)
    span, drawn = span_of(request), drawings(request.app)
    found = services.views()
    return page(
        request,
        "machine.html",
        page="machine",
        tab="services",
        services=found,
        problems=services.problems(),
        machine=request.app[keys.MONITOR].now(),
        facts=await machine_facts(request),
        span=span.name,
        spans=list(charts.SPANS),
        charts=await drawn.of(request, span, charts.MACHINE, t),
        of_services={
            view.name: await drawn.of(request, span, charts.SERVICE[view.name], t)
            for view in found
            if view.state != "absent"
        },
    )


async def machine_facts(request: web.Request) -> Facts:
    """What the machine is; found out once."""
    kept: dict[str, Facts] = request.app[keys.FACTS]
    if "machine" not in kept:
        kept["machine"] = await asyncio.to_thread(facts)
    return kept["machine"]


async def service_form(request: web.Request) -> web.StreamResponse:
    """Start, stop or restart a service from a plain form, and say so on the page it came from."""
    await do_service_action(request)
    came_from = request.headers.get("Referer", "").removeprefix(request.app[keys.SETTINGS].ui_origin)
    place = (relative_path(came_from) or "/machine").partition("?")[0]
    return see(f"{place}?did={service_name(request)}.{request.match_info['action']}")


async def list_services(request: web.Request) -> web.Response:
    """Every service with its state, and what is wrong."""
    role = principal_of(request).role
    return answer(views.services_event(request.app[keys.SERVICES], views.translator(request), role))


async def act_on_service(request: web.Request) -> web.Response:
    """Start, stop, restart or update a service; an update also says where it comes from."""
    supply = await do_service_action(request)
    role = principal_of(request).role
    state = views.services_event(request.app[keys.SERVICES], views.translator(request), role)
    return answer(state | ({"update": supply} if supply else {}))


async def do_service_action(request: web.Request) -> Supply | None:
    """Carry out the action the route names, announced in the audit log before and reported after."""
    name, action = service_name(request), request.match_info["action"]
    services, actor = request.app[keys.SERVICES], principal_of(request).actor
    actions: dict[str, Callable[[str, str], Awaitable[Supply | None]]] = {
        "start": services.start,
        "stop": services.stop,
        "restart": services.restart,
        "update": services.update,
    }
    if action not in actions:
        raise NotFound("there is no such action", hint="There are start, stop, restart and update.")
    async with request.app[keys.AUDIT].doing(f"service.{action}", actor, service=name):
        return await actions[action](name, actor)


def service_name(request: web.Request) -> ServiceName:
    name = request.match_info["name"]
    if name not in SERVICES:
        raise NotFound("there is no such service", hint=f"There are {', '.join(SERVICES)}.")
    return name


async def logs(request: web.Request) -> web.StreamResponse:
    """What a service wrote; filtered here for browsers without scripts, by the page itself for the others."""
    name, services, asked = service_name(request), request.app[keys.SERVICES], request.query
    wanted = _filter(request)
    # Who filters looks through all that is kept, and sees the newest that fit.
    rows = log_lines.rows(await services.logs(name, LOG_LINES_MAX if wanted != ALL else PAGE_LINES))
    return page(
        request,
        "logs.html",
        page="machine",
        tab="logs",
        service=services.view(name),
        lines=[row for row in rows if wanted.wants(row)][-PAGE_LINES:],
        asked={"q": wanted.text, "level": wanted.level, "since": asked.get("since", "")},
        sinces=list(log_lines.SINCE),
    )


def _filter(request: web.Request) -> log_lines.Filter:
    """From the address. Raises Invalid."""
    level, since = request.query.get("level", "debug"), request.query.get("since", "")
    if level not in log_lines.LEVELS:
        raise Invalid("there is no such level", hint=f"There are {', '.join(log_lines.LEVELS)}.")
    if since not in log_lines.SINCE:
        raise Invalid("there is no such stretch of time", hint=f"There are {', '.join(filter(None, log_lines.SINCE))}.")
    seconds = log_lines.SINCE[since]
    begin = request.app[keys.CLOCK].now() - seconds if seconds else 0.0
    return log_lines.Filter(request.query.get("q", "")[:FIND_MAX], level, begin)


async def service_logs(request: web.Request) -> web.Response:
    """The last lines a service wrote."""
    lines = await request.app[keys.SERVICES].logs(service_name(request), _line_count(request))
    return answer({"lines": log_lines.rows(lines)})


async def follow_logs(request: web.Request) -> web.StreamResponse:
    """New lines of a service as they come (SSE, event ``line``)."""
    lines = request.app[keys.SERVICES].follow(service_name(request), 0)

    async def items() -> AsyncGenerator[Item, None]:
        async for line in lines:
            yield "line", log_lines.as_json(line), None

    return await until_signed_out(request, items())


async def download_logs(request: web.Request) -> web.Response:
    """The kept lines of a service as a text file."""
    name = service_name(request)
    lines: list[LogLine] = await request.app[keys.SERVICES].logs(name, LOG_LINES_MAX)
    await request.app[keys.AUDIT].note("export", principal_of(request).actor, what=f"logs of {name}")
    text = "".join(f"{log_lines.clean(line.text)}\n" for line in lines)
    return web.Response(
        text=text,
        content_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="croft-{name}.log"', "Cache-Control": "no-store"},
    )


def _line_count(request: web.Request) -> int:
    text = request.query.get("lines", str(LOG_LINES))
    if not (text.isascii() and text.isdigit() and len(text) < 10) or not 1 <= int(text) <= LOG_LINES_MAX:
        raise Invalid("lines must be a number", hint=f"Between 1 and {LOG_LINES_MAX}.")
    return int(text)
