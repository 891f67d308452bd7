"""Signing in by mail: asking for one, its link, its code. Rule: what is answered, and the work behind it, is the same whether or
not an address is a member's (AUTH-5); nothing here waits for the mail server."""

from __future__ import annotations

from aiohttp import web

from appliance.errors import Conflict, CroftError, Invalid, TooMany
from appliance.identity.mailed import LIFETIME, Asked, CodeRefused, MailedRefused, OtherBrowser
from appliance.identity.sign_in import SignedIn
from appliance.messages import Message
from webui import cookies, keys, letters, views
from webui.answers import see
from webui.entering import caller_of, held_session, let_in, next_path
from webui.forms import read_form
from webui.handlers.sign_in import link_page, sign_in_page
from webui.render import page

ASK_COOKIE = "__Host-croft-ask"
_MARK = "croft_ask_"


async def ask(request: web.Request) -> web.StreamResponse:
    """Have a sign-in mail sent, if the address is a member's."""
    form = await read_form(request)
    email, remember = form.get("email", ""), form.get("remember") == "on"
    try:
        asked = await send(request, email, remember=remember)
    except (Invalid, TooMany, Conflict) as fault:
        return await sign_in_page(request, fault=fault, email=email, remember=remember)
    response = see("/sign-in/code")
    remember_asking(response, asked)
    return response


async def send(request: web.Request, email: str, *, remember: bool) -> Asked:
    """Send the mail, if the address is a member's. Raises Invalid, TooMany, and Conflict where mail is off."""
    app = request.app
    app[keys.MAILER].must_be_on()
    asked = await app[keys.MAILED].ask(email, caller_of(request), asking_browser(request), remember=remember)
    # Written for nobody too, so that it takes as long.
    language = (asked.to.language if asked.to else "") or views.translator(request).lang
    url = f"{app[keys.SETTINGS].ui_origin}/sign-in/mailed?t={asked.link}"
    letter = letters.sign_in(app, language, asked.to.email if asked.to else email, url, asked.code)
    if asked.to:
        app[keys.MAILER].post(letter)
    return asked


def remember_asking(response: web.StreamResponse, asked: Asked) -> None:
    """Let the browser keep the cookie with which alone the mail's link and code work."""
    cookies.put(response, ASK_COOKIE, asked.browser, keep=True, seconds=round(LIFETIME))


async def code(request: web.Request) -> web.StreamResponse:
    """Where the mailed code is typed."""
    return await _code_page(request)


async def _code_page(request: web.Request, *, fault: CroftError | None = None, typed: str = "") -> web.StreamResponse:
    waiting = await request.app[keys.MAILED].waiting(asking_browser(request))
    if waiting is None:
        return await sign_in_page(request, fault=fault) if fault else see("/sign-in")
    notice = Message(f"fault.{fault.code}") if fault else None
    return page(
        request, "code.html", status=fault.status if fault else 200, notice=notice, waiting=waiting, typed=typed[:40]
    )


async def use_code(request: web.Request) -> web.StreamResponse:
    """Sign in by the code."""
    form, mailed, browser = await read_form(request), request.app[keys.MAILED], asking_browser(request)
    typed, waiting = form.get("code", ""), await mailed.waiting(browser)
    account = await mailed.try_code(browser, caller_of(request))
    try:
        signed_in = await request.app[keys.SIGN_IN].by(
            "code",
            lambda tx: mailed.redeem_code(tx, typed, browser),
            caller_of(request),
            remember=waiting is not None and waiting.remember,
            account=account,
            held=held_session(request),
            refused=CodeRefused,
        )
    except CodeRefused as fault:
        return await _code_page(request, fault=fault, typed=typed)
    return _welcome(request, signed_in)


async def link(request: web.Request) -> web.StreamResponse:
    """Where a mailed link leads: a button, nothing consumed (DECIDED 20)."""
    secret = request.query.get("t", "")
    good = await request.app[keys.MAILED].look(secret)
    return link_page(request, secret, "mailed" if good else None)


async def use_link(request: web.Request) -> web.StreamResponse:
    """Sign in by the link, in the browser that asked for it."""
    form, mailed, browser = await read_form(request), request.app[keys.MAILED], asking_browser(request)
    secret, waiting = form.get("t", ""), await mailed.waiting(browser)
    try:
        signed_in = await request.app[keys.SIGN_IN].by(
            "mail",
            lambda tx: mailed.redeem_link(tx, secret, browser),
            caller_of(request),
            remember=waiting is not None and waiting.remember,
            held=held_session(request),
            refused=MailedRefused,
        )
    except OtherBrowser as fault:
        return link_page(request, "", "elsewhere", status=fault.status)
    except MailedRefused as fault:
        return link_page(request, "", None, status=fault.status)
    return _welcome(request, signed_in)


def _welcome(request: web.Request, signed_in: SignedIn) -> web.StreamResponse:
    response = see(next_path(request))
    let_in(request, response, signed_in)
    cookies.drop(response, ASK_COOKIE)
    return response


def asking_browser(request: web.Request) -> str:
    """The cookie of a browser that asked for a mail; "" when it did not."""
    found = request.cookies.get(ASK_COOKIE, "")
    return found if found.startswith(_MARK) and len(found) == len(_MARK) + 43 else ""
