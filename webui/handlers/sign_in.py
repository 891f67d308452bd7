"""The ways in and out. Rule: nothing is consumed by a GET (DECIDED 20)."""

from __future__ import annotations

from urllib.parse import quote

import msgspec
from aiohttp import web

from appliance.errors import CroftError, Invalid, TooMany
from appliance.identity.links import LinkRefused
from appliance.identity.users import User
from appliance.identity.verify import relative_path
from appliance.messages import Message
from webui import cookies, keys
from webui.answers import answer, see
from webui.entering import NEXT_COOKIE, NEXT_SECONDS, caller_of, held_session, let_in, next_path
from webui.forms import read_form, read_json
from webui.guard import COOKIE, PRINCIPAL, principal_of
from webui.render import page


class LinkRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/links``: whose link; empty means the owner, or the set-up link when there is nobody yet."""

    email: str = ""


async def sign_in(request: web.Request) -> web.StreamResponse:
    """How to sign in."""
    wanted = relative_path(request.query.get("next", ""))
    if request.get(PRINCIPAL):
        return see(wanted or "/")
    response = await sign_in_page(request)
    if wanted:
        # The link comes by another way (mail, the console), so what was asked for waits in the browser.
        cookies.put(response, NEXT_COOKIE, quote(wanted, safe=""), keep=True, seconds=NEXT_SECONDS)
    return response


async def sign_in_page(
    request: web.Request, *, fault: CroftError | None = None, email: str = "", remember: bool = False
) -> web.Response:
    """The sign-in page, with what was typed before a fault."""
    response = page(
        request,
        "sign_in.html",
        status=fault.status if fault else 200,
        notice=Message(f"fault.{fault.code}") if fault else None,
        claimed=not await request.app[keys.USERS].none_yet(),
        mail=request.app[keys.MAILER].on,
        email=email,
        remember=remember,
    )
    if isinstance(fault, TooMany):
        response.headers["Retry-After"] = str(max(1, round(fault.retry_after)))
    return response


async def link(request: web.Request) -> web.StreamResponse:
    """The page a sign-in link leads to: a button, nothing consumed (DECIDED 20)."""
    secret = request.query.get("t", "")
    return link_page(request, secret, await request.app[keys.LINKS].look(secret))


def link_page(
    request: web.Request,
    secret: str,
    kind: str | None,
    *,
    status: int = 200,
    fault: CroftError | None = None,
    email: str = "",
    name: str = "",
) -> web.Response:
    """The page of a link: ``kind`` is login, setup or mailed, elsewhere (good, but not in this browser), or None (no good)."""
    notice = Message(f"fault.{fault.code}") if fault else None
    response = page(request, "link.html", status=status, kind=kind, token=secret, email=email, name=name, notice=notice)
    # The address holds the token: it must not travel in a Referer.
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


async def use_link(request: web.Request) -> web.StreamResponse:
    """Consume a link and sign in."""
    form = await read_form(request)
    secret, email, name = form.get("t", ""), form.get("email", ""), form.get("name", "")
    kind = await request.app[keys.LINKS].look(secret)
    try:
        signed_in = await request.app[keys.SIGN_IN].by_link(
            secret,
            caller_of(request),
            remember=form.get("remember") == "on",
            email=email,
            name=name,
            held=held_session(request),
        )
    except LinkRefused as refusal:
        return link_page(request, "", None, status=refusal.status)
    except Invalid as fault:
        return link_page(request, secret, "setup", status=fault.status, fault=fault, email=email, name=name)
    response = see("/account/start" if kind == "setup" else next_path(request))
    let_in(request, response, signed_in)
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


async def create_link(request: web.Request) -> web.Response:
    """A one-time sign-in link (console only: the route asks for it)."""
    wanted, users = await read_json(request, LinkRequest), request.app[keys.USERS]
    user: User | None = None
    if wanted.email or not await users.none_yet():
        user = await users.find(wanted.email) if wanted.email else await users.owner()
    secret, kind, seconds = await request.app[keys.LINKS].create(user, principal_of(request).actor)
    origin = request.app[keys.SETTINGS].ui_origin
    return answer(
        {
            "url": f"{origin}/sign-in/link?t={secret}",
            "kind": kind,
            "seconds": seconds,
            "email": user.email if user else None,
        },
        201,
    )
