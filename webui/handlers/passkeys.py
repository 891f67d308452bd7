"""Passkeys: adding, naming and removing one's own, and signing in with one.

Rule: what an authenticator answers is bound to this browser by a cookie that only the server reads, besides its challenge.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any

import msgspec
from aiohttp import web

from appliance.errors import Forbidden
from appliance.identity.passkeys import Passkey, PasskeyRefused
from appliance.identity.sessions import Session
from appliance.identity.users import User
from webui import cookies, filters, keys
from webui.answers import answer
from webui.entering import caller_of, held_session, let_in, next_path
from webui.forms import read_json
from webui.guard import principal_of

CHALLENGE_COOKIE = "__Host-croft-challenge"
SIGN_IN = "sign-in"

Short = Annotated[str, msgspec.Meta(max_length=2000)]
Long = Annotated[str, msgspec.Meta(max_length=40_000)]


class Attested(msgspec.Struct, rename={"client_data": "clientDataJSON", "attestation": "attestationObject"}):
    """What ``navigator.credentials.create`` answered."""

    client_data: Long
    attestation: Long
    transports: Annotated[list[Short], msgspec.Meta(max_length=10)] = []


class Asserted(
    msgspec.Struct,
    rename={"client_data": "clientDataJSON", "data": "authenticatorData", "user": "userHandle"},
    omit_defaults=True,
):
    """What ``navigator.credentials.get`` answered."""

    client_data: Long
    data: Long
    signature: Short
    user: Short | None = None


class NewCredential(msgspec.Struct, rename={"raw_id": "rawId"}):
    """RegistrationResponseJSON, as far as it is looked at."""

    id: Short
    raw_id: Short
    type: Short
    response: Attested


class Credential(msgspec.Struct, rename={"raw_id": "rawId"}):
    """AuthenticationResponseJSON, as far as it is looked at."""

    id: Short
    raw_id: Short
    type: Short
    response: Asserted


class NewPasskey(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/passkeys``."""

    credential: NewCredential
    name: str = ""


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/sign-in/passkey``."""

    credential: Credential
    remember: bool = False


class NewName(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``PATCH /api/passkeys/{id}``."""

    name: str


async def sign_in_options(request: web.Request) -> web.Response:
    """What a browser needs to offer its passkeys."""
    return await offering(request, lambda browser: request.app[keys.PASSKEYS].request_options(SIGN_IN, browser))


async def sign_in(request: web.Request) -> web.Response:
    """Sign in with a passkey; says where to go on."""
    entry, passkeys = await read_json(request, Entry), request.app[keys.PASSKEYS]
    assertion = await passkeys.check(msgspec.to_builtins(entry.credential), SIGN_IN, browser_of(request))
    signed_in = await request.app[keys.SIGN_IN].by(
        "passkey",
        lambda tx: passkeys.use(tx, assertion),
        caller_of(request),
        remember=entry.remember,
        # A key that was only touched lets in whoever holds it; dangerous acts ask for more.
        fresh=assertion is not None and assertion.verified,
        held=held_session(request),
        refused=PasskeyRefused,
    )
    response = answer({"next": next_path(request)})
    let_in(request, response, signed_in)
    return response


async def new_options(request: web.Request) -> web.Response:
    """What a browser needs to make a passkey."""
    user, session = own(request)
    passkeys = request.app[keys.PASSKEYS]
    return await offering(request, lambda browser: passkeys.creation_options(user, session.id, browser))


async def add(request: web.Request) -> web.Response:
    """Keep a new passkey."""
    wanted, (user, session) = await read_json(request, NewPasskey), own(request)
    passkey = await request.app[keys.PASSKEYS].add(
        user,
        msgspec.to_builtins(wanted.credential),
        wanted.name or _likely_name(request),
        session_id=session.id,
        browser=browser_of(request),
    )
    return answer({"passkey": passkey_json(passkey)}, 201)


async def list_passkeys(request: web.Request) -> web.Response:
    """One's own passkeys."""
    user, _ = own(request)
    return answer({"passkeys": [passkey_json(each) for each in await request.app[keys.PASSKEYS].of(user.id)]})


async def rename(request: web.Request) -> web.Response:
    """Rename one of one's own passkeys."""
    wanted, (user, _) = await read_json(request, NewName), own(request)
    await request.app[keys.PASSKEYS].rename(user, request.match_info["id"], wanted.name)
    return answer({"ok": True})


async def remove(request: web.Request) -> web.Response:
    """Remove one of one's own passkeys; never the last way in."""
    user, _ = own(request)
    await request.app[keys.WAYS_IN].remove_passkey(user, request.match_info["id"])
    return answer({"ok": True})


async def offering(request: web.Request, make: Any) -> web.Response:
    """The options that ``make`` makes for this browser, which gets its challenge cookie if it has none."""
    known = browser_of(request)
    browser = known or secrets.token_urlsafe(32)
    response = answer(await make(browser))
    if not known:
        cookies.put(response, CHALLENGE_COOKIE, browser, keep=False)
    return response


def browser_of(request: web.Request) -> str:
    """The secret that binds challenges to this browser; empty before the first."""
    return request.cookies.get(CHALLENGE_COOKIE, "")[:100]


def own(request: web.Request) -> tuple[User, Session]:
    """The person and their session. Raises Forbidden for the console and for tokens, which have no passkeys."""
    principal = principal_of(request)
    if principal.user is None or principal.session is None:
        raise Forbidden("this is for a person's browser", hint="Sign in there.")
    return principal.user, principal.session


def passkey_json(passkey: Passkey) -> dict[str, Any]:
    return {
        "id": passkey.id,
        "name": passkey.name,
        "synced": passkey.synced,
        "created_at": passkey.created_at,
        "used_at": passkey.used_at,
        "suspect_at": passkey.suspect_at,
    }


def _likely_name(request: web.Request) -> str:
    seen = filters.device(request.headers.get("User-Agent", ""))
    return " · ".join(word for word in (seen.browser, seen.system) if word)
