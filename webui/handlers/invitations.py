"""Inviting people, and accepting an invitation. Rule: the link is shown once, to who made it, and mailed to nobody but the
address it is for."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from appliance.errors import Conflict, CroftError, Invalid
from appliance.identity.invitations import Invitation, InvitationRefused
from appliance.identity.users import Role
from appliance.messages import Message
from webui import keys, letters, qr
from webui.answers import answer, see
from webui.entering import caller_of, let_in
from webui.forms import read_form, read_json
from webui.guard import principal_of
from webui.handlers.people import role_named
from webui.i18n import LANGUAGES
from webui.render import page

DEFAULT_DAYS = 7


class NewInvitation(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/invitations``; ``language`` is that of the mail, en or ar, empty for the appliance's."""

    email: str
    role: str = "viewer"
    days: int = DEFAULT_DAYS
    note: str = ""
    language: str = ""


async def invitations(request: web.Request) -> web.StreamResponse:
    """Who is invited, and inviting somebody."""
    return await _list_page(request)


async def invite_form(request: web.Request) -> web.StreamResponse:
    """Invite somebody from the page."""
    form = await read_form(request)
    try:
        wanted = NewInvitation(
            form.get("email", ""),
            form.get("role", ""),
            _days(form.get("days", "")),
            form.get("note", ""),
            form.get("language", ""),
        )
        made = await _invite(request, wanted)
    except (Invalid, Conflict) as fault:
        return await _list_page(request, fault=fault, form=form)
    return await _list_page(request, made=made)


async def renew_form(request: web.Request) -> web.StreamResponse:
    """A new link for an invitation."""
    try:
        made = await _renew(request)
    except Conflict as fault:
        return await _list_page(request, fault=fault)
    return await _list_page(request, made=made)


async def revoke_form(request: web.Request) -> web.StreamResponse:
    """Withdraw an invitation."""
    await request.app[keys.INVITATIONS].revoke(request.match_info["id"], principal_of(request).actor)
    return see("/people/invitations")


async def _list_page(
    request: web.Request,
    *,
    made: tuple[Invitation, str] | None = None,
    fault: CroftError | None = None,
    form: dict[str, str] | None = None,
) -> web.Response:
    everyone = await request.app[keys.INVITATIONS].all()
    typed = {"email": "", "role": "viewer", "days": str(DEFAULT_DAYS), "note": "", "language": "", **(form or {})}
    response = page(
        request,
        "invitations.html",
        status=fault.status if fault else 200,
        page="people",
        tab="invitations",
        notice=Message(f"fault.{fault.code}") if fault else None,
        waiting=[one for one in everyone if one.state in ("open", "expired")],
        over=[one for one in everyone if one.state not in ("open", "expired")],
        made=made[0] if made else None,
        url=_url(request, made[1]) if made else "",
        code=await asyncio.to_thread(qr.square, _url(request, made[1])) if made else None,
        mail=request.app[keys.MAILER].on,
        typed=typed,
        roles=list(Role.__members__),
    )
    response.headers["Referrer-Policy"] = "no-referrer" if made else "same-origin"
    return response


async def list_invitations(request: web.Request) -> web.Response:
    """Invitations of the last ninety days."""
    return answer({"invitations": [invitation_json(one) for one in await request.app[keys.INVITATIONS].all()]})


async def create_invitation(request: web.Request) -> web.Response:
    """Invite somebody; the link is in the answer and, where mail is set up, in a mail."""
    return answer(_made_json(request, await _invite(request, await read_json(request, NewInvitation))), 201)


async def renew_invitation(request: web.Request) -> web.Response:
    """A new link for an invitation; the old one ends."""
    return answer(_made_json(request, await _renew(request)))


async def revoke_invitation(request: web.Request) -> web.Response:
    """Withdraw an invitation."""
    await request.app[keys.INVITATIONS].revoke(request.match_info["id"], principal_of(request).actor)
    return answer({"ok": True})


async def _invite(request: web.Request, wanted: NewInvitation) -> tuple[Invitation, str]:
    principal = principal_of(request)
    if wanted.language not in ("", *LANGUAGES):
        raise Invalid("there is no such language", hint=f"There are {', '.join(LANGUAGES)}.")
    made = await request.app[keys.INVITATIONS].create(
        wanted.email,
        role_named(wanted.role),
        principal.user,
        principal.actor,
        days=wanted.days,
        note=wanted.note,
        language=wanted.language,
    )
    _mail(request, *made)
    return made


async def _renew(request: web.Request) -> tuple[Invitation, str]:
    principal = principal_of(request)
    made = await request.app[keys.INVITATIONS].renew(request.match_info["id"], principal.user, principal.actor)
    _mail(request, *made)
    return made


def _mail(request: web.Request, made: Invitation, secret: str) -> None:
    if request.app[keys.MAILER].on:
        request.app[keys.MAILER].post(letters.invitation(request.app, made, _url(request, secret)))


async def invitation(request: web.Request) -> web.StreamResponse:
    """Where an invitation leads: who invites, as what, what that means; nothing consumed."""
    secret = request.query.get("t", "")
    return await _accept_page(request, secret)


async def _accept_page(
    request: web.Request, secret: str, *, fault: CroftError | None = None, name: str = "", remember: bool = False
) -> web.Response:
    found = await request.app[keys.INVITATIONS].look(secret)
    response = page(
        request,
        "invitation.html",
        status=fault.status if fault else 200,
        notice=Message(f"fault.{fault.code}") if fault and found else None,
        invitation=found,
        token=secret if found else "",
        name=name,
        remember=remember,
    )
    # The address holds the token: it must not travel in a Referer.
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


async def accept(request: web.Request) -> web.StreamResponse:
    """Accept an invitation: become a member and sign in."""
    form, found = await read_form(request), request.app[keys.INVITATIONS]
    secret, name, remember = form.get("t", ""), form.get("name", ""), form.get("remember") == "on"
    try:
        signed_in = await request.app[keys.SIGN_IN].by(
            "invitation",
            lambda tx: found.accept(tx, secret, name),
            caller_of(request),
            remember=remember,
            refused=InvitationRefused,
        )
    except (Invalid, Conflict) as fault:
        kept = "" if isinstance(fault, InvitationRefused) else secret
        return await _accept_page(request, kept, fault=fault, name=name, remember=remember)
    response = see("/account/start")
    let_in(request, response, signed_in)
    return response


def invitation_json(one: Invitation) -> dict[str, Any]:
    return {
        "id": one.id,
        "email": one.email,
        "role": one.role.name,
        "note": one.note,
        "inviter": one.inviter,
        "created_at": one.created_at,
        "expires_at": one.expires_at,
        "state": one.state,
    }


def _made_json(request: web.Request, made: tuple[Invitation, str]) -> dict[str, Any]:
    return {
        "invitation": invitation_json(made[0]),
        "url": _url(request, made[1]),
        "mailed": request.app[keys.MAILER].on,
    }


def _url(request: web.Request, secret: str) -> str:
    return f"{request.app[keys.SETTINGS].ui_origin}/invitation?t={secret}"


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 3:
        raise Invalid("an invitation lasts from 1 to 30 days", hint="Choose a number of days from 1 to 30.")
    return int(text)
