"""Recovery codes: making ten, shown once, and signing in with one. Rule: codes are never in an address, a cookie or a log."""

from __future__ import annotations

from aiohttp import web

from appliance.identity.recovery import CodeRefused
from appliance.identity.verify import relative_path
from appliance.messages import Message
from webui import keys
from webui.answers import see
from webui.entering import caller_of, held_session, let_in, next_path
from webui.forms import read_form
from webui.handlers.passkeys import own
from webui.render import page


async def make(request: web.Request) -> web.StreamResponse:
    """Ten fresh codes, on the one page that ever shows them."""
    (user, _), form = own(request), await read_form(request)
    codes = await request.app[keys.RECOVERY].replace(user)
    done = relative_path(form.get("next", "")) or "/account"
    # This address cannot be asked for by itself, so choosing a language leads to the account.
    return page(request, "recovery_codes.html", page="account", tab="account", path="/account", codes=codes, done=done)


async def sign_in(request: web.Request) -> web.StreamResponse:
    """Where a recovery code is typed."""
    return page(request, "recovery.html")


async def use(request: web.Request) -> web.StreamResponse:
    """Sign in with a recovery code."""
    form, codes = await read_form(request), request.app[keys.RECOVERY]
    try:
        signed_in = await request.app[keys.SIGN_IN].by(
            "recovery",
            lambda tx: codes.use(tx, form.get("code", "")),
            caller_of(request),
            remember=form.get("remember") == "on",
            held=held_session(request),
            refused=CodeRefused,
        )
    except CodeRefused as refusal:
        return page(request, "recovery.html", status=refusal.status, notice=Message(f"fault.{refusal.code}"))
    response = see(next_path(request))
    let_in(request, response, signed_in)
    return response
