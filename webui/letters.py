"""The mails Croft sends: their words in the person's language and direction, as HTML and as plain text.

Rule: nothing is fetched from anywhere when a mail is read: no pictures, no style sheets, no tracking; the only address in it is
ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from appliance.identity.invitations import DAY, Invitation
from appliance.identity.mailed import LIFETIME
from appliance.identity.smtp import Letter
from webui import keys
from webui.i18n import LANGUAGES, Translator

TEST_SECONDS = 60.0


def sign_in(app: web.Application, language: str, to: str, url: str, code: str) -> Letter:
    """The mail that signs somebody in: a link for the browser that asked, and the code to type there."""
    t, host = _words(app, language), app[keys.SETTINGS].host
    half = len(code) // 2
    return _letter(
        app,
        t,
        to,
        t("mail.sign_in_subject", host=host),
        lead=[t("mail.sign_in_lead", host=host)],
        button=(t("mail.sign_in_go"), url),
        code=(t("mail.sign_in_code"), f"{code[:half]}-{code[half:]}"),
        foot=[t("mail.sign_in_once", n=round(LIFETIME / 60)), t("mail.sign_in_not_you")],
        lifetime=LIFETIME,
    )


def invitation(app: web.Application, made: Invitation, url: str) -> Letter:
    """The mail that invites somebody: by whom, as what, the note, until when."""
    t, host = _words(app, made.language), app[keys.SETTINGS].host
    by = t("mail.invite_lead", name=made.inviter, host=host) if made.inviter else t("mail.invite_lead_host", host=host)
    return _letter(
        app,
        t,
        made.email,
        t("mail.invite_subject", host=host),
        lead=[by, t("mail.invite_role", role=t(f"role.{made.role.name}")), t(f"invitation.as_{made.role.name}")],
        quote=made.note,
        button=(t("mail.invite_go"), url),
        foot=[t("mail.invite_until", when=t.datetime(made.expires_at)), t("mail.invite_not_you")],
        lifetime=min(DAY, made.expires_at - app[keys.CLOCK].now()),
    )


def trial(app: web.Application, language: str, to: str) -> Letter:
    """The mail that shows that mail works."""
    t, host = _words(app, language), app[keys.SETTINGS].host
    return _letter(
        app,
        t,
        to,
        t("mail.test_subject", host=host),
        lead=[t("mail.test_lead", host=host)],
        foot=[t("mail.test_foot")],
        lifetime=TEST_SECONDS,
    )


def _words(app: web.Application, language: str) -> Translator:
    chosen = language if language in LANGUAGES else app[keys.DESK].current.language
    return Translator(app[keys.CATALOGUE], chosen)


def _letter(
    app: web.Application,
    t: Translator,
    to: str,
    subject: str,
    *,
    lead: Sequence[str],
    quote: str = "",
    button: tuple[str, str] | None = None,
    code: tuple[str, str] | None = None,
    foot: Sequence[str],
    lifetime: float,
) -> Letter:
    html = (
        app[keys.TEMPLATES]
        .get_template("mail.html")
        .render(t=t, subject=subject, lead=lead, quote=quote, button=button, code=code, foot=foot)
    )
    quoted = "\n".join(f"> {line}" for line in quote.splitlines())
    parts = [*lead, quoted, *("\n".join(pair) for pair in (button, code) if pair), *foot]
    return Letter(to, subject, "\n\n".join(part for part in parts if part) + "\n", html, t.lang, lifetime)
