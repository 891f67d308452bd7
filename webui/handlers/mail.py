"""The mail account's password and a test mail, for the console. Rule: the password goes in and never comes out."""

from __future__ import annotations

import msgspec
from aiohttp import web

from appliance.identity.users import check_email
from webui import keys, letters
from webui.answers import answer
from webui.forms import read_json
from webui.guard import principal_of


class Password(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``PUT /api/mail/password``."""

    password: str


class Trial(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/mail/test``."""

    email: str


async def set_password(request: web.Request) -> web.Response:
    """Keep the password of the mail account."""
    wanted = await read_json(request, Password)
    await request.app[keys.MAILER].set_password(wanted.password)
    await request.app[keys.AUDIT].note("mail.password", principal_of(request).actor)
    return answer({"ok": True})


async def send_test(request: web.Request) -> web.Response:
    """Send a test mail now, and say what became of it."""
    wanted, app = await read_json(request, Trial), request.app
    app[keys.MAILER].must_be_on()
    email = check_email(wanted.email)
    await app[keys.AUDIT].note("mail.test", principal_of(request).actor)
    await app[keys.MAILER].send(letters.trial(app, "", email))
    return answer({"ok": True, "server": app[keys.DESK].current.mail_host})
