"""``croft sign-in`` from another machine: the question a signed-in person answers in the browser, and the program's own end.

Rules: nothing is granted by a GET. A code only ever goes to 127.0.0.1 on a port, never to an address that a request names. The
page shows what is asked, by whom as far as that is known, and for how long, before there is anything to press.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
from aiohttp import web
from msgspec.structs import replace

from appliance.errors import NotFound, TooMany
from appliance.identity import api_tokens, grants
from appliance.identity.api_tokens import Wanted
from appliance.identity.grants import Grant, GrantRefused
from appliance.identity.throttle import network
from appliance.identity.users import Role
from appliance.messages import Message
from webui import keys
from webui.answers import answer
from webui.forms import read_form, read_json
from webui.guard import client_address, principal_of
from webui.handlers.passkeys import own
from webui.render import page

ASKED = ("port", "state", "challenge", "name", "scopes", "days")


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/connect``: what the program wants, and the SHA-256 (base64url) of its verifier."""

    name: str
    scopes: list[str]
    challenge: str
    days: int = api_tokens.DEFAULT_DAYS


class Collection(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/connect/token``."""

    code: str
    verifier: str


async def question(request: web.Request) -> web.StreamResponse:
    """What a program on this computer asks for."""
    asked = {name: request.query.get(name, "") for name in ASKED}
    wanted, _ = _read(asked)
    return _question(request, wanted, asked)


async def decide(request: web.Request) -> web.StreamResponse:
    """Allow or deny it, and send the browser back to the program."""
    form = await read_form(request)
    wanted, back = _read(form)
    _, session = own(request)
    if form.get("decision") != "allow":
        return _on_the_way(request, back.replace("&code=", "&error=denied"), allowed=False)
    code = request.app[keys.GRANTS].approve(session, wanted, grants.check_challenge(form.get("challenge", "")))
    return _on_the_way(request, back + code, allowed=True)


def _on_the_way(request: web.Request, target: str, *, allowed: bool) -> web.Response:
    # Not a redirect: the policy's form-action covers where a form's answer leads, and this leads to the program's port.
    response = page(request, "connect_end.html", target=target, allowed=allowed)
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


async def done(request: web.Request) -> web.StreamResponse:
    """Where the program sends the browser when it has what it needs."""
    return page(request, "connect_end.html", target="", allowed=True)


async def code_page(request: web.Request) -> web.StreamResponse:
    """Where the short code of a program without a browser is typed."""
    return page(request, "connect_code.html", typed="")


async def look_up_code(request: web.Request) -> web.StreamResponse:
    """What the program with this code asks for."""
    form = await read_form(request)
    grant = await _find(request, form.get("code", ""))
    if grant is None:
        notice = Message("fault.connect_code")
        return page(request, "connect_code.html", typed=form.get("code", "")[:20], notice=notice, status=400)
    return _question(request, grant.wanted, {"code": grant.typed}, grant)


async def decide_code(request: web.Request) -> web.StreamResponse:
    """Allow or deny the program with this code."""
    form = await read_form(request)
    (_, session), grant = own(request), await _find(request, form.get("code", ""))
    if grant is None:
        raise GrantRefused
    allowed = form.get("decision") == "allow"
    request.app[keys.GRANTS].decide(grant, session if allowed else None)
    return page(request, "connect_end.html", target="", allowed=allowed)


async def ask(request: web.Request) -> web.Response:
    """A program without a browser asks; a person types the short code it shows."""
    asked = await read_json(request, Question)
    wanted = api_tokens.checked(asked.name, asked.scopes, asked.days, Role.admin)
    code, typed = request.app[keys.GRANTS].ask(wanted, asked.challenge, network(client_address(request)))
    return answer(
        {
            "code": code,
            "typed": f"{typed[:4]}-{typed[4:]}",
            "url": f"{request.app[keys.SETTINGS].ui_origin}/connect/code",
            "seconds": grants.DEVICE_SECONDS,
            "interval": grants.POLL_SECONDS,
        },
        201,
    )


async def collect(request: web.Request) -> web.Response:
    """The program collects its token; 202 while nobody has answered yet."""
    sent = await read_json(request, Collection)
    found = request.app[keys.GRANTS].collect(sent.code, sent.verifier)
    if found is None:
        return answer({"state": "waiting"}, 202)
    grant, session = found
    tokens, user = request.app[keys.API_TOKENS], session.user
    wanted = replace(grant.wanted, name=tokens.free_name(user, grant.wanted.name))
    token, text = await tokens.create(user, wanted, user.id, grant.way)
    return answer(
        {
            "state": "done",
            "text": text,
            "id": token.id,
            "name": token.name,
            "email": user.email,
            "expires_at": token.expires_at,
        },
        201,
    )


async def authority(request: web.Request) -> web.Response:
    """The certificate of this appliance's own authority, for programs on other machines to check it by (PEM)."""
    try:
        pem = await asyncio.to_thread(request.app[keys.SETTINGS].paths.proxy_root.read_bytes)
    except OSError as error:
        raise NotFound("this appliance has no authority of its own", hint="Its certificate is a public one.") from error
    return web.Response(body=pem, content_type="application/x-pem-file", headers={"Cache-Control": "no-store"})


def _read(fields: Mapping[str, str]) -> tuple[Wanted, str]:
    """What is asked for, and where the answer goes. Raises Invalid."""
    days = fields.get("days", "")
    number = int(days) if days.isascii() and days.isdigit() and len(days) < 5 else 0
    scopes = [scope for scope in fields.get("scopes", "").split(" ") if scope]
    wanted = api_tokens.checked(fields.get("name", ""), scopes, number, Role.admin)
    grants.check_challenge(fields.get("challenge", ""))
    return wanted, grants.loopback(fields.get("port", ""), fields.get("state", ""))


def _question(request: web.Request, wanted: Wanted, asked: dict[str, str], grant: Grant | None = None) -> web.Response:
    return page(
        request,
        "connect.html",
        name=wanted.name,
        scopes=[scope for scope in api_tokens.SCOPES if scope in wanted.scopes],
        until=request.app[keys.CLOCK].now() + wanted.days * api_tokens.DAY,
        network=grant.network if grant else "",
        asked=asked,
    )


async def _find(request: web.Request, typed: str) -> Grant | None:
    """The open question with this code. Guessing is counted against the person who guesses. Raises TooMany."""
    throttle, key = request.app[keys.THROTTLE], f"connect {principal_of(request).actor}"
    if left := await throttle.banned(key):
        raise TooMany("too many codes that nobody waits for", retry_after=left, hint="Wait, then start again.")
    grant = request.app[keys.GRANTS].find(typed)
    if grant is None:
        await throttle.count(key)
    return grant
