"""API tokens: one's own and, for admins, everyone's; making them, revoking them, and what a token says of itself.

Rule: the text of a token is in one answer, the one that made it, and nowhere else.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from appliance.errors import Forbidden, Invalid, NotFound
from appliance.identity import api_tokens
from appliance.identity.api_tokens import ApiToken, ApiTokens, Wanted
from appliance.identity.tokens import ACCESS_SECONDS
from appliance.identity.users import Role, User
from appliance.messages import Message
from webui import keys
from webui.answers import answer, see
from webui.forms import read_form, read_json
from webui.guard import Principal, principal_of
from webui.handlers.passkeys import own
from webui.render import page
from webui.tool_settings import filled_in

# What the form offers to choose from.
DAYS = (7, 30, 90, 365)


class NewToken(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/tokens``. ``role`` is the most it may act as (empty: one's own); ``email`` says whose it is, and is
    for the console, which is nobody."""

    name: str
    scopes: list[str]
    days: int = api_tokens.DEFAULT_DAYS
    note: str = ""
    role: str = ""
    email: str = ""


async def own_tokens(request: web.Request) -> web.StreamResponse:
    """One's own tokens."""
    user, _ = own(request)
    rows = [token_json(request, token) for token in request.app[keys.API_TOKENS].of(user.id)]
    origin = request.app[keys.SETTINGS].ui_origin
    return page(request, "tokens.html", page="account", tab="tokens", rows=rows, everyone=False, origin=origin)


async def all_tokens(request: web.Request) -> web.StreamResponse:
    """Everyone's tokens."""
    rows = [token_json(request, token) for token in request.app[keys.API_TOKENS].of()]
    return page(request, "tokens.html", page="people", tab="tokens", rows=rows, everyone=True)


async def new_token(request: web.Request) -> web.StreamResponse:
    """The form for a new token."""
    return _form(request, {"days": str(api_tokens.DEFAULT_DAYS), "scope_read": "on"})


def _form(request: web.Request, typed: dict[str, str], fault: str = "", status: int = 200) -> web.Response:
    user, _ = own(request)
    return page(
        request,
        "token_new.html",
        page="account",
        tab="tokens",
        typed=typed,
        scopes=api_tokens.SCOPES,
        days=DAYS,
        roles=[role.name for role in Role if role <= user.role],
        notice=Message(f"fault.{fault}") if fault else None,
        status=status,
    )


async def create_token_form(request: web.Request) -> web.StreamResponse:
    """Make a token from the form and show it, this once."""
    typed, (user, _) = await read_form(request), own(request)
    try:
        wanted = _wanted(typed, user)
        token, text = await request.app[keys.API_TOKENS].create(user, wanted, principal_of(request).actor, "page")
    except Invalid as fault:
        return _form(request, typed, fault.code, fault.status)
    except api_tokens.TokenConflict as fault:
        return _form(request, typed, fault.code, fault.status)
    settings = request.app[keys.SETTINGS]
    return page(
        request,
        "token_made.html",
        page="account",
        tab="tokens",
        status=201,
        token=token_json(request, token),
        text=text,
        origin=settings.ui_origin,
        tools=filled_in(settings.ui_origin, text) if "ai" in token.scopes else [],
        own_authority=settings.proxy_tls == "internal",
    )


def _wanted(typed: dict[str, str], user: User) -> Wanted:
    scopes = [scope for scope in api_tokens.SCOPES if typed.get(f"scope_{scope}") == "on"]
    days = typed.get("days", "")
    number = int(days) if days.isascii() and days.isdigit() and len(days) < 5 else 0
    return api_tokens.checked(
        typed.get("name", ""), scopes, number, _role(typed.get("role", ""), user), typed.get("note", "")
    )


def _role(name: str, user: User) -> Role:
    if name and name not in Role.__members__:
        raise Invalid("there is no such role", hint=f"There are {', '.join(Role.__members__)}.")
    return Role[name] if name else user.role


async def revoke_form(request: web.Request) -> web.StreamResponse:
    """Revoke a token from a plain form; leads back to the list it stood in."""
    await _revoke(request)
    return see("/people/tokens" if request.path.startswith("/people/") else "/account/tokens")


async def list_tokens(request: web.Request) -> web.Response:
    """The caller's tokens; for an admin and the console, everyone's."""
    principal = principal_of(request)
    whose = None if principal.role is Role.admin or principal.user is None else principal.user.id
    return answer({"tokens": [token_json(request, token) for token in request.app[keys.API_TOKENS].of(whose)]})


async def create_token(request: web.Request) -> web.Response:
    """Make a token; its text is in this answer alone."""
    wanted, principal = await read_json(request, NewToken), principal_of(request)
    if wanted.email and principal.user is not None:
        raise Forbidden("a token is made by the person it acts for", hint="Leave the address out.")
    user = principal.user or await _named(request, wanted.email)
    checked = api_tokens.checked(wanted.name, wanted.scopes, wanted.days, _role(wanted.role, user), wanted.note)
    way = "page" if principal.user else "console"
    token, text = await request.app[keys.API_TOKENS].create(user, checked, principal.actor, way)
    return answer({"token": token_json(request, token), "text": text}, 201)


async def _named(request: web.Request, email: str) -> User:
    users = request.app[keys.USERS]
    return await users.find(email) if email else await users.owner()


async def revoke_token(request: web.Request) -> web.Response:
    """Revoke a token: one's own, or for an admin anybody's."""
    await _revoke(request)
    return answer({"ok": True})


async def revoke_current(request: web.Request) -> web.Response:
    """Revoke the token this request came with."""
    principal = principal_of(request)
    if principal.token is None:
        raise Invalid("this request came without a token", hint="Name the token to revoke.")
    await request.app[keys.API_TOKENS].revoke([principal.token], principal.actor)
    return answer({"ok": True})


async def _revoke(request: web.Request) -> ApiToken:
    principal, tokens = principal_of(request), request.app[keys.API_TOKENS]
    token = tokens.get(request.match_info["id"])
    if principal.role is not Role.admin and (principal.user is None or token.user.id != principal.user.id):
        raise NotFound("there is no such token", hint="It may have been revoked meanwhile.")
    await tokens.revoke([token], principal.actor)
    return token


async def me(request: web.Request) -> web.Response:
    """Who the caller is, and what it may do."""
    principal = principal_of(request)
    user, token = principal.user, principal.token
    return answer(
        {
            "actor": principal.actor,
            "role": principal.role.name,
            "user": {"id": user.id, "email": user.email, "name": user.name} if user else None,
            "token": token_json(request, token) if token else None,
        }
    )


async def workspace_token(request: web.Request) -> web.Response:
    """An access token for the IDE host, for 15 minutes; it works as long as what it was made from does."""
    principal = principal_of(request)
    if principal.user is None:
        raise Forbidden("the workspace is for people", hint="Use a token: `croft tokens create --scope workspace`.")
    holder = principal.token.actor if principal.token else principal.tag
    return answer(
        {
            "token": request.app[keys.TOKENS].issue_access(principal.user.id, holder),
            "seconds": ACCESS_SECONDS,
            "url": request.app[keys.SETTINGS].ide_origin,
        },
        201,
    )


def token_json(request: web.Request, token: ApiToken) -> dict[str, Any]:
    """One token, without its text."""
    mine: Principal = principal_of(request)
    return {
        "id": token.id,
        "name": token.name,
        "note": token.note,
        "scopes": [scope for scope in api_tokens.SCOPES if scope in token.scopes],
        "role": token.role.name,
        "user": token.user.email,
        "person": token.user.name,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "used_at": token.used_at,
        "used_address": token.used_address,
        "state": _state(request.app[keys.API_TOKENS], token, request.app[keys.CLOCK].now()),
        "current": mine.token is token,
    }


def _state(tokens: ApiTokens, token: ApiToken, now: float) -> str:
    if tokens.expired(token):
        return "expired"
    if token.user.suspended:
        return "suspended"
    return "soon" if token.expires_at - now <= api_tokens.WARN_SECONDS else "active"
