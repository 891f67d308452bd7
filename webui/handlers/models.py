"""Language models: what is offered and fits, what is here, and changing that; as a page and for programs.

Rule: whether a model fits is said before it is downloaded; only an admin has one downloaded, chosen or deleted.
"""

from __future__ import annotations

import shutil
from typing import Any

import msgspec
from aiohttp import web

from appliance.assistant.models import Models, Offer
from appliance.commands.asker import CONSOLE
from appliance.errors import Conflict, CroftError, Invalid, NotFound
from appliance.jobs import Job, shown
from webui import keys, views
from webui.answers import answer, see
from webui.forms import read_form, read_json
from webui.guard import principal_of
from webui.render import page

ACTIONS = ("pull", "use", "remove", "adopt", "measure", "check")
HERE = "/machine/models"


class _New(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/models``. Without a sha256 the one seen first is held."""

    url: str
    sha256: str = ""
    name: str = ""


class _How(msgspec.Struct, forbid_unknown_fields=True):
    """Body of an action: ``context`` in tokens for ``use``, ``anyway`` to ``pull`` what is too big."""

    context: int = 0
    anyway: bool = False


async def models(request: web.Request) -> web.StreamResponse:
    """Models that are here, and those that can be."""
    return await _page(request)


async def _page(
    request: web.Request, typed: dict[str, str] | None = None, fault: CroftError | None = None
) -> web.Response:
    service, t = await request.app[keys.MODELS].get(), views.translator(request)
    offers = await service.offers()
    jobs = await request.app[keys.JOBS].get()
    live = [job for job in jobs.live() if job.kind.startswith("model.")]
    first = service.first_choice(t.lang)
    engine = views.engine_json(request.app[keys.ENGINE].status(), t)
    return page(
        request,
        "models.html",
        page="machine",
        tab="models",
        rows=[offer_json(offer) for offer in offers],
        current=next((offer_json(offer) for offer in offers if offer.in_use), None),
        first=next((offer_json(offer) for offer in offers if first and offer.name == first.id), None),
        found=[{"file": file, "size": size} for file, size in await service.found()],
        others=[shown(job) for job in live if job.subject not in {offer.name for offer in offers}],
        failed=await _last_failure(request),
        ended=jobs.picture()["ended"],
        free=shutil.disk_usage(request.app[keys.SETTINGS].paths.state).free,
        may=principal_of(request).role.name == "admin",
        typed=typed or dict.fromkeys(("url", "sha256", "name"), ""),
        fault=fault,
        status=fault.status if fault else 200,
        unserved=engine["words"] if engine["reason"] == "no_engine" else "",
    )


async def _last_failure(request: web.Request) -> dict[str, Any] | None:
    """The last job of a model that ended, if it failed: it can be resumed."""
    jobs = await (await request.app[keys.JOBS].get()).all()
    ended = [(job.ended_at, job) for job in jobs if job.kind.startswith("model.") and job.ended_at]
    last = max(ended, key=lambda pair: pair[0], default=(0.0, None))[1]
    return shown(last) if last and last.state == "failed" else None


async def model_form(request: web.Request) -> web.StreamResponse:
    """One action from a plain form."""
    try:
        await _act(request, _How())
    except (Conflict, Invalid) as fault:
        return await _page(request, fault=fault)
    return see("/welcome" if (await read_form(request)).get("next") == "/welcome" else HERE)


async def add_form(request: web.Request) -> web.StreamResponse:
    """Download a model from an address that was typed."""
    form = await read_form(request)
    typed = {name: form.get(name, "")[:2000].strip() for name in ("url", "sha256", "name")}
    try:
        await (await request.app[keys.MODELS].get()).add(**typed, actor=principal_of(request).actor)
    except CroftError as fault:
        return await _page(request, typed, fault)
    return see(HERE)


async def list_models(request: web.Request) -> web.Response:
    """Every model that is offered or here, files that were found, and which to offer first to who reads ``language``."""
    service = await request.app[keys.MODELS].get()
    first = service.first_choice(request.query.get("language", views.translator(request).lang))
    return answer(
        {
            "models": [offer_json(offer) for offer in await service.offers()],
            "found": [{"file": file, "size": size} for file, size in await service.found()],
            "first_choice": first.id if first else None,
            "tokens_per_second": await service.speed(),
        }
    )


async def add_model(request: web.Request) -> web.Response:
    """Download a model from an https address."""
    new = await read_json(request, _New)
    service = await request.app[keys.MODELS].get()
    job = await service.add(new.url.strip(), new.sha256.strip(), new.name.strip(), principal_of(request).actor)
    return answer({"job": shown(job)}, 202)


async def act_on_model(request: web.Request) -> web.Response:
    """``pull``, ``adopt``, ``measure`` and ``check`` begin a job; ``use`` and ``remove`` are done when this answers."""
    job = await _act(request, await read_json(request, _How))
    return answer({"job": shown(job) if job else None}, 202 if job else 200)


async def _act(request: web.Request, how: _How) -> Job | None:
    name, action = request.match_info["name"], request.match_info["action"]
    service, principal = await request.app[keys.MODELS].get(), principal_of(request)
    if action not in ACTIONS:
        raise NotFound("there is no such action", hint=f"There are {', '.join(ACTIONS)}.")
    if action == "pull":
        return await service.pull(name, principal.actor, anyway=how.anyway)
    if action == "adopt":
        return await service.adopt(name, principal.actor)
    if action == "use":
        await service.use(name, principal.actor, how.context)
        return None
    if action == "remove":
        await service.remove(name, principal.actor)
        return None
    await _check_in_use(service, name)
    if action == "measure":
        return await service.measure(principal.actor)
    # Its programs are rehearsed in the name of who asked.
    person = principal.user.id if principal.user else CONSOLE
    return await service.check(person, principal.session.id if principal.session else "")


async def _check_in_use(service: Models, name: str) -> None:
    model = await service.current()
    if model is None or model.name != name:
        raise Conflict("this model is not in use", hint="Choose it first.", code="model_not_in_use")


def offer_json(offer: Offer) -> dict[str, Any]:
    """One row for pages and programs."""
    entry, model, fit = offer.entry, offer.model, offer.fit
    return {
        "name": offer.name,
        "title": offer.title,
        "publisher": entry.publisher if entry else "",
        "parameters": entry.parameters if entry else "",
        "quantisation": entry.quantisation if entry else "",
        "licence": entry.licence if entry else "",
        "size": offer.size,
        "sha256": model.sha256 if model else entry.sha256 if entry else "",
        "languages": list(offer.languages),
        "tools": offer.tools,
        "installed": model is not None,
        "in_use": offer.in_use,
        "offered": entry is not None,
        "fit": {"verdict": fit.verdict, "need": fit.need, "have": fit.have, "context": fit.context},
        "tokens_per_second": model.tokens_per_second if model else None,
        "measured_at": model.measured_at if model else None,
        "checkup": dict(model.checkup) if model and model.checkup else None,
        "job": shown(offer.job) if offer.job else None,
    }
