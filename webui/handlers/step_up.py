"""Proving again who one is, and going on with exactly what was asked (AUTH-10).

Rule: what was asked is carried by the page, which only its own sender sees, and is sent again by that person's hand; nothing is
kept on the server, and nothing runs without a second look at role, freshness and origin. Fields named like a secret are not
carried: they are typed again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec
from aiohttp import web

from appliance.errors import Conflict, Invalid, TooMany
from appliance.identity.links import LinkRefused
from appliance.identity.mailed import CODE_LENGTH, Asked, folded
from appliance.identity.mailed import CodeRefused as MailCodeRefused
from appliance.identity.passkeys import PasskeyRefused
from appliance.identity.recovery import CodeRefused
from appliance.identity.throttle import ProofRefused
from appliance.identity.verify import relative_path
from appliance.messages import Message
from webui import cookies, keys
from webui.answers import answer, see
from webui.entering import caller_of
from webui.forms import FORM, read_form, read_json, unpacked
from webui.guard import COOKIE
from webui.handlers import mailed
from webui.handlers.passkeys import Credential, browser_of, offering, own
from webui.render import page

_SECRET = re.compile(r"password|secret|^key$", re.IGNORECASE)


class Proof(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/step-up/passkey``."""

    credential: Credential


class Typed(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/step-up/code``: a mailed code, a recovery code, or a login link from the console."""

    code: str


async def options(request: web.Request) -> web.Response:
    """What a browser needs to ask for one of this person's passkeys; ``allowCredentials`` is empty when they have none."""
    user, session = own(request)
    passkeys = request.app[keys.PASSKEYS]
    return await offering(
        request, lambda browser: passkeys.request_options(f"step-up {session.id}", browser, user_id=user.id)
    )


async def by_passkey(request: web.Request) -> web.Response:
    """Prove by passkey; the device must have asked who is holding it."""
    wanted, (user, session) = await read_json(request, Proof), own(request)
    passkeys = request.app[keys.PASSKEYS]
    assertion = await passkeys.check(
        msgspec.to_builtins(wanted.credential), f"step-up {session.id}", browser_of(request), user_id=user.id
    )
    cookie = await request.app[keys.STEP_UP].by(
        "passkey", lambda tx: passkeys.use(tx, assertion), caller_of(request), session, refused=PasskeyRefused
    )
    return _with_cookie(answer({"ok": True}), cookie, keep=session.remember)


async def by_code(request: web.Request) -> web.Response:
    """Prove by what can be typed or pasted."""
    wanted = await read_json(request, Typed)
    cookie = await _prove_typed(request, wanted.code)
    return _with_cookie(answer({"ok": True}), cookie, keep=own(request)[1].remember)


async def mail(request: web.Request) -> web.Response:
    """Send the person a mail with a code; its link works too, in this browser."""
    asked = await _mail(request)
    response = answer({"ok": True})
    mailed.remember_asking(response, asked)
    return response


async def by_form(request: web.Request) -> web.StreamResponse:
    """The same from a plain form, which carries what was asked; the answer leads back to it."""
    form = await read_form(request)
    target, method = relative_path(form.get("path", "")) or "/", form.get("method", "GET")
    if method not in ("GET", "POST"):
        raise Invalid("cannot go on with what was asked", hint="Go back and try again.")
    fields = unpacked(form.get("fields", "").encode())
    if form.get("mail") == "on":
        try:
            asked = await _mail(request)
        except (TooMany, Conflict) as fault:
            return _ask(request, target, method, fields, status=fault.status, notice=f"fault.{fault.code}")
        again = _ask(request, target, method, fields, notice="step_up.mailed")
        mailed.remember_asking(again, asked)
        return again
    try:
        cookie = await _prove_typed(request, form.get("code", ""))
    except ProofRefused as refusal:
        return _ask(request, target, method, fields, status=refusal.status, notice=f"fault.{refusal.code}")
    go_on = see(target) if method == "GET" else _ask(request, target, method, fields, proved=True)
    return _with_cookie(go_on, cookie, keep=own(request)[1].remember)


async def ask(request: web.Request) -> web.Response:
    """The page that answers a request which needs a fresh proof: ways to prove it, and the request itself, ready to go on."""
    fields = await read_form(request) if request.method == "POST" and request.content_type == FORM else {}
    return _ask(request, relative_path(request.raw_path) or "/", request.method, fields, status=403)


def _ask(
    request: web.Request,
    target: str,
    method: str,
    fields: Mapping[str, str],
    *,
    status: int = 200,
    notice: str = "",
    proved: bool = False,
) -> web.Response:
    carried = {name: value for name, value in fields.items() if not _SECRET.search(name)}
    return page(
        request,
        "step_up.html",
        status=status,
        notice=Message(notice) if notice else None,
        here="/account",  # this address cannot be asked for by itself, so choosing a language leads elsewhere
        target=target,
        method=method,
        fields=carried,
        packed=urlencode(carried),
        proved=proved,
    )


async def _prove_typed(request: web.Request, typed: str) -> str:
    _, session = own(request)
    secret = _link_secret(typed)
    if secret:
        links = request.app[keys.LINKS]
        return await request.app[keys.STEP_UP].by(
            "link", lambda tx: links.redeem(tx, secret), caller_of(request), session, refused=LinkRefused
        )
    browser = mailed.asking_browser(request)
    if browser and len(folded(typed)) <= CODE_LENGTH:  # a recovery code is twice as long
        mails = request.app[keys.MAILED]
        account = await mails.try_code(browser, caller_of(request))
        return await request.app[keys.STEP_UP].by(
            "code",
            lambda tx: mails.redeem_code(tx, typed, browser),
            caller_of(request),
            session,
            account=account,
            refused=MailCodeRefused,
        )
    codes = request.app[keys.RECOVERY]
    return await request.app[keys.STEP_UP].by(
        "recovery", lambda tx: codes.use(tx, typed), caller_of(request), session, refused=CodeRefused
    )


async def _mail(request: web.Request) -> Asked:
    user, session = own(request)
    return await mailed.send(request, user.email, remember=session.remember)


def _link_secret(typed: str) -> str:
    """The secret in a pasted login link, or one pasted alone; empty for anything else."""
    text = typed.strip()
    if text.startswith("croft_lnk_"):
        return text
    try:
        query = urlsplit(text).query if text.startswith("https://") else ""
    except ValueError:
        return ""
    return parse_qs(query).get("t", [""])[0]


def _with_cookie(response: web.Response, cookie: str, *, keep: bool) -> web.Response:
    cookies.put(response, COOKIE, cookie, keep=keep)
    return response
