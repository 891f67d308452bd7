"""The pages, and the plain forms that make their basics work without scripts.

Rule: a handler gathers what a template shows and nothing more; words come from the catalogue, decisions from the domain rooms.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from aiohttp import web

from appliance.errors import CroftError, Forbidden, Invalid
from appliance.identity.links import LinkRefused
from appliance.identity.sign_in import Caller
from appliance.identity.users import Role
from appliance.identity.verify import relative_path
from appliance.services.model import Message
from webui import api, cookies, filters, keys, views
from webui.forms import read_form
from webui.guard import COOKIE, DEVICE_COOKIE, PRINCIPAL, client_address, principal_of
from webui.i18n import LANGUAGES
from webui.render import THEME_COOKIE, page
from webui.views import LANGUAGE_COOKIE

LOG_LINES = 300
NEXT_COOKIE = "__Host-croft-next"
NEXT_SECONDS = 1800


def see(location: str) -> web.Response:
    """Send a browser on after a form (303: the next request is a GET)."""
    return web.Response(status=303, headers={"Location": location, "Cache-Control": "no-store"})


async def sign_in(request: web.Request) -> web.StreamResponse:
    """How to sign in."""
    if request.get(PRINCIPAL):
        return see(relative_path(request.query.get("next", "")) or "/")
    wanted = relative_path(request.query.get("next", ""))
    response = page(request, "sign_in.html", claimed=not await request.app[keys.USERS].none_yet(), next=wanted)
    if wanted:
        # The link comes by another way (the console), so what was asked for waits in the browser.
        cookies.put(response, NEXT_COOKIE, quote(wanted, safe=""), keep=True, seconds=NEXT_SECONDS)
    return response


async def link(request: web.Request) -> web.StreamResponse:
    """The page a sign-in link leads to: a button, nothing consumed (DECIDED 20)."""
    secret = request.query.get("t", "")
    return _link_page(request, secret, await request.app[keys.LINKS].look(secret))


def _link_page(
    request: web.Request,
    secret: str,
    kind: str | None,
    *,
    status: int = 200,
    fault: CroftError | None = None,
    email: str = "",
    name: str = "",
) -> web.Response:
    notice = Message(f"fault.{fault.code}") if fault else None
    response = page(request, "link.html", status=status, kind=kind, token=secret, email=email, name=name, notice=notice)
    # The address holds the token: it must not travel in a Referer.
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


async def use_link(request: web.Request) -> web.StreamResponse:
    """Consume a link and sign in."""
    form = await read_form(request)
    secret, email, name = form.get("t", ""), form.get("email", ""), form.get("name", "")
    caller = Caller(
        client_address(request), request.headers.get("User-Agent", ""), request.cookies.get(DEVICE_COOKIE, "")
    )
    try:
        signed_in = await request.app[keys.SIGN_IN].by_link(
            secret, caller, remember=form.get("remember") == "on", email=email, name=name
        )
    except LinkRefused as refusal:
        return _link_page(request, "", None, status=refusal.status)
    except Invalid as fault:
        return _link_page(request, secret, "setup", status=fault.status, fault=fault, email=email, name=name)
    response = see(relative_path(unquote(request.cookies.get(NEXT_COOKIE, ""))) or "/")
    if NEXT_COOKIE in request.cookies:
        cookies.drop(response, NEXT_COOKIE)
    cookies.put(response, COOKIE, signed_in.cookie, keep=signed_in.session.remember)
    cookies.put(response, DEVICE_COOKIE, signed_in.device, keep=True, seconds=cookies.DEVICE_SECONDS)
    return response


async def sign_out(request: web.Request) -> web.StreamResponse:
    """End this session."""
    principal = principal_of(request)
    if principal.session:
        await request.app[keys.SESSIONS].end([principal.session], "sign-out", principal.actor)
    response = see("/sign-in")
    cookies.drop(response, COOKIE)
    response.headers["Clear-Site-Data"] = '"cache", "storage"'
    return response


async def home(request: web.Request) -> web.StreamResponse:
    """How the appliance is, and what to do next."""
    services = request.app[keys.SERVICES]
    return page(
        request,
        "home.html",
        page="home",
        services=services.views(),
        problems=services.problems(),
        machine=request.app[keys.MACHINE](),
    )


async def workspace(request: web.Request) -> web.StreamResponse:
    """The IDE, full-bleed."""
    principal, settings = principal_of(request), request.app[keys.SETTINGS]
    if principal.session is None:
        raise Forbidden("the editor is for a person's browser")
    services = request.app[keys.SERVICES]
    services.wake("ide")
    response = page(
        request,
        "workspace.html",
        page="workspace",
        service=services.view("ide"),
        enter_url=f"{settings.ide_origin}/__croft/enter",
        handoff_code=request.app[keys.SESSIONS].hand_off(principal.session),
        next=relative_path(request.query.get("next", "")) or "/",
    )
    # Under "same-origin" a form posted to another host carries "Origin: null" (Fetch, "append a request Origin header"),
    # and the IDE host must see ours.
    response.headers["Referrer-Policy"] = "strict-origin"
    return response


async def machine(request: web.Request) -> web.StreamResponse:
    """Services, one by one."""
    services = request.app[keys.SERVICES]
    return page(
        request,
        "machine.html",
        page="machine",
        services=services.views(),
        problems=services.problems(),
        machine=request.app[keys.MACHINE](),
    )


async def service_form(request: web.Request) -> web.StreamResponse:
    """Start, stop or restart a service from a plain form."""
    await api.do_service_action(request)
    return see(
        relative_path(request.headers.get("Referer", "").removeprefix(request.app[keys.SETTINGS].ui_origin))
        or "/machine"
    )


async def logs(request: web.Request) -> web.StreamResponse:
    """What a service wrote."""
    name, services = api.service_name(request), request.app[keys.SERVICES]
    lines = [views.line_json(line) for line in await services.logs(name, LOG_LINES)]
    return page(request, "logs.html", page="machine", service=services.view(name), lines=lines)


async def sessions(request: web.Request) -> web.StreamResponse:
    """Where one is signed in; for an admin, where everyone is."""
    principal = principal_of(request)
    everyone = principal.role is Role.admin
    own = principal.user.id if principal.user else None
    live = request.app[keys.SESSIONS].of(None if everyone else own)
    rows = [api.session_json(request, session) for session in live]
    email = principal.user.email if principal.user else ""
    return page(
        request,
        "sessions.html",
        page="sessions",
        mine=[row for row in rows if row["user"] == email],
        others=[row for row in rows if row["user"] != email],
    )


async def end_session_form(request: web.Request) -> web.StreamResponse:
    """End one session from a plain form."""
    ended = await api.end_by_id(request, request.match_info["id"])
    mine = principal_of(request).session
    return see("/sign-in" if mine is not None and ended.id == mine.id else "/sessions")


async def end_other_sessions(request: web.Request) -> web.StreamResponse:
    """End all of one's own sessions but this one."""
    principal, live = principal_of(request), request.app[keys.SESSIONS]
    if principal.user and principal.session:
        others = [session for session in live.of(principal.user.id) if session.id != principal.session.id]
        await live.end(others, "revoked", principal.actor)
    return see("/sessions")


async def preferences(request: web.Request) -> web.StreamResponse:
    """Remember language and theme: with the person, or in a cookie before sign-in."""
    form = await read_form(request)
    language, theme = form.get("lang") or None, form.get("theme") or None
    if language not in (None, *LANGUAGES) or theme not in (None, *filters.THEMES):
        raise Invalid("that language or theme is not known")
    principal = request.get(PRINCIPAL)
    response = see(relative_path(form.get("next", "")) or "/")
    if principal and principal.user:
        await request.app[keys.USERS].prefer(principal.user, language=language, theme=theme)
        user = await request.app[keys.USERS].find(principal.user.id)
        await request.app[keys.SESSIONS].changed(user, principal.actor)
    for name, value in ((LANGUAGE_COOKIE, language), (THEME_COOKIE, theme)):
        if value:
            cookies.put(response, name, value, keep=True, seconds=cookies.DEVICE_SECONDS)
    return response


async def static(request: web.Request) -> web.StreamResponse:
    """Style, scripts and icons."""
    return request.app[keys.ASSETS].serve(request, request.match_info["version"], request.match_info["name"])


async def favicon(request: web.Request) -> web.StreamResponse:
    """The icon browsers ask for unasked."""
    return request.app[keys.ASSETS].serve(request, "", "favicon.svg")
