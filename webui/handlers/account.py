"""One's own account: how one is called, ways in, known devices. What is dangerous here asks for a fresh proof by its route."""

from __future__ import annotations

from aiohttp import web

from appliance.errors import CroftError, Invalid
from appliance.identity.recovery import COUNT, LOW
from appliance.messages import Message
from webui import keys
from webui.answers import answer, see
from webui.forms import read_form
from webui.guard import DEVICE_COOKIE
from webui.handlers.passkeys import own
from webui.render import page


async def account(request: web.Request) -> web.StreamResponse:
    """Name, language, ways in, known devices."""
    return await account_page(request)


async def account_page(request: web.Request, fault: CroftError | None = None) -> web.Response:
    """The account page, with what was wrong with a form."""
    user, _ = own(request)
    return page(
        request,
        "account.html",
        status=fault.status if fault else 200,
        notice=Message("fault.name_refused") if fault else None,
        path="/account",  # where choosing a language leads, from the answer to a form too
        page="account",
        tab="account",
        passkeys=await request.app[keys.PASSKEYS].of(user.id),
        codes_left=await request.app[keys.RECOVERY].left(user.id),
        codes_of=COUNT,
        codes_low=LOW,
        devices=await request.app[keys.DEVICES].of(user.id, request.cookies.get(DEVICE_COOKIE, "")),
    )


async def start(request: web.Request) -> web.StreamResponse:
    """The end of set-up: a passkey and the recovery codes, both skippable."""
    user, _ = own(request)
    return page(
        request,
        "account_start.html",
        passkeys=await request.app[keys.PASSKEYS].of(user.id),
        codes_left=await request.app[keys.RECOVERY].left(user.id),
    )


async def rename(request: web.Request) -> web.StreamResponse:
    """Change one's own name."""
    user, _ = own(request)
    form = await read_form(request)
    try:
        await request.app[keys.USERS].rename(user, form.get("name", ""))
    except Invalid as fault:
        return await account_page(request, fault)
    return see("/account")


async def rename_passkey(request: web.Request) -> web.StreamResponse:
    """Rename one of one's own passkeys from a plain form."""
    user, _ = own(request)
    form = await read_form(request)
    try:
        await request.app[keys.PASSKEYS].rename(user, request.match_info["id"], form.get("name", ""))
    except Invalid as fault:
        return await account_page(request, fault)
    return see("/account")


async def remove_passkey(request: web.Request) -> web.StreamResponse:
    """Remove one of one's own passkeys from a plain form; never the last way in."""
    user, _ = own(request)
    await request.app[keys.WAYS_IN].remove_passkey(user, request.match_info["id"])
    return see("/account")


async def forget_form(request: web.Request) -> web.StreamResponse:
    """Forget a known device from a plain form."""
    user, _ = own(request)
    await request.app[keys.DEVICES].forget(user.id, request.match_info["id"])
    return see("/account")


async def forget(request: web.Request) -> web.Response:
    """Forget a known device: failures of others can then shut it out like any other."""
    user, _ = own(request)
    await request.app[keys.DEVICES].forget(user.id, request.match_info["id"])
    return answer({"ok": True})
