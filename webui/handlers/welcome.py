"""The first run: a few screens after set-up, each of which can wait, and none of which comes back once it is done.

The first screen is /account/start (ways in); the others are here. Rule: nothing is set up here that has no page of its own.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from appliance.errors import Forbidden
from appliance.identity.hints import DONE, FIRST_RUN
from appliance.identity.users import User
from webui import keys, views
from webui.answers import see
from webui.forms import read_form
from webui.guard import principal_of
from webui.handlers.models import offer_json
from webui.handlers.workspace import RTL_HINT
from webui.render import page

STEPS = ("look", "address", "mail", "memory")
FIRST = 2  # the number of the first screen here
# What a 3-billion-parameter model needs beside the editor (DESIGN section 10).
ROOMY_BYTES = 3.5 * (1 << 30)
# What may be dismissed by POST /hints/{name}.
DISMISSIBLE = frozenset({RTL_HINT})


def _user(request: web.Request) -> User:
    user = principal_of(request).user
    if user is None:
        raise Forbidden("this is for a person's browser")
    return user


async def welcome(request: web.Request) -> web.StreamResponse:
    """The screen where this person stopped; Home once all is done."""
    hints, user = request.app[keys.HINTS], _user(request)
    if await hints.done_by_anyone(FIRST_RUN):
        return see("/")
    state = await hints.state(user, FIRST_RUN)
    step = state if state in STEPS else STEPS[0]
    if not state:
        await hints.keep(user, FIRST_RUN, step)
    at = STEPS.index(step)
    return page(
        request,
        "welcome.html",
        step=step,
        number=at + FIRST,
        of=len(STEPS) + FIRST - 1,
        before=STEPS[at - 1] if at else "",
        after=STEPS[at + 1] if at + 1 < len(STEPS) else DONE,
        certificate=request.app[keys.SERVICES].certificate,
        trouble=[problem for problem in request.app[keys.SERVICES].problems() if problem.service == "proxy"],
        mail_on=request.app[keys.MAILER].on,
        memory=request.app[keys.MONITOR].now()["memory_total"],
        roomy=ROOMY_BYTES,
        model=await _model(request) if step == "memory" else None,
    )


async def _model(request: web.Request) -> dict[str, Any] | None:
    """The model to offer to this reader: the one in use or on its way, else the one that suits machine and language."""
    service = await request.app[keys.MODELS].get()
    first = service.first_choice(views.translator(request).lang)
    offers = [offer_json(offer) for offer in await service.offers()]
    chosen = [offer for offer in offers if offer["in_use"]] or [offer for offer in offers if offer["job"]]
    return next(iter(chosen or [offer for offer in offers if first and offer["name"] == first.id]), None)


async def go_on(request: web.Request) -> web.StreamResponse:
    """Remember where this person is: a step's name, or done."""
    step = (await read_form(request)).get("to", "")
    if step in (*STEPS, DONE):
        await request.app[keys.HINTS].keep(_user(request), FIRST_RUN, step)
    return see("/" if step == DONE else "/welcome")


async def dismiss(request: web.Request) -> web.StreamResponse:
    """Do not show a hint to this person again."""
    name = request.match_info["name"]
    if name not in DISMISSIBLE:
        raise web.HTTPNotFound
    await request.app[keys.HINTS].keep(_user(request), name)
    return see("/workspace")
