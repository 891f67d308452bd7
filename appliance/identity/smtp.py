"""One letter, one conversation with the mail server (RFC 5321), and every way it can fail told apart.

Rule: nothing leaves unless the connection is protected as the settings say and the server's certificate is good; there is no
falling back to less. What people typed reaches a header only as a checked address or an encoded word, never as a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.policy
import ssl
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, localtime, make_msgid
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from appliance.errors import CroftError
from appliance.settings import Settings

if TYPE_CHECKING:
    import aiosmtplib

# A busy server may take its time for one command (RFC 5321 4.5.3.2 allows minutes); a person waiting for a code does not.
COMMAND_SECONDS = 20.0
LETTER_SECONDS = 60.0
GOODBYE_SECONDS = 3.0

FaultCode = Literal[
    "mail_unreachable", "mail_certificate", "mail_no_tls", "mail_sign_in", "mail_refused", "mail_later", "mail_address"
]
WORDS: dict[FaultCode, tuple[str, str]] = {
    "mail_unreachable": (
        "the mail server does not answer",
        "Check mail.host and mail.port, and that this machine may reach it.",
    ),
    "mail_certificate": ("the mail server's certificate is not good", "Use the name it is made for, or set mail.root."),
    "mail_no_tls": (
        "the mail server does not offer the protection mail.tls asks for",
        "Usual: port 587 with starttls, 465 with tls.",
    ),
    "mail_sign_in": ("the mail server does not accept our account", "Check mail.user, then run `croft mail password`."),
    "mail_refused": (
        "the mail server refused the letter",
        "Check mail.from_address, and the address the letter was for.",
    ),
    "mail_later": ("the mail server asked to try again later", "It is tried again by itself."),
    "mail_address": (
        "the mail server cannot carry this address",
        "It needs a server with SMTPUTF8, or an address in Latin letters.",
    ),
}


class MailFault(CroftError):
    """A letter could not be handed over. ``code`` says why; ``said`` is what the server answered, for the console and the log."""

    status = 502

    def __init__(self, code: FaultCode, said: str = "") -> None:
        message, hint = WORDS[code]
        super().__init__(f"cannot send mail: {message}", hint=hint, code=code)
        self.said = said

    @property
    def passing(self) -> bool:
        """Whether the same letter may go through later."""
        return self.code not in ("mail_refused", "mail_address")


class Letter(Struct, frozen=True):
    """One mail to one person, in their language; worth sending for ``lifetime`` seconds."""

    to: str
    subject: str
    text: str
    html: str
    language: str
    lifetime: float


async def deliver(settings: Settings, password: str, letter: Letter) -> None:
    """Hand ``letter`` to the mail server of the settings. Raises MailFault."""
    message, sender, recipient, wide = compose(settings, letter)
    # In a thread: the module and the root certificates together take a fifth of a second to read.
    client = await asyncio.to_thread(_client, settings)
    import aiosmtplib

    try:
        async with asyncio.timeout(LETTER_SECONDS):
            await client.connect()
            await client.ehlo()  # what it offers now that the connection is protected (RFC 3207 4.2)
            await _sign_in(client, settings, password)
            if wide and not client.supports_extension("smtputf8"):
                raise MailFault("mail_address")
            await client.sendmail(sender, [recipient], message, mail_options=["SMTPUTF8"] if wide else [])
        await _part(client)
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:  # OSError: TimeoutError and ssl.SSLError too
        raise _fault(error) from error
    finally:
        client.close()


def compose(settings: Settings, letter: Letter) -> tuple[bytes, str, str, bool]:
    """The message as it goes over the wire, its two envelope addresses, and whether it needs SMTPUTF8 (RFC 6531)."""
    sender = address(settings.mail_from_address or f"croft@{settings.host}")
    recipient = address(letter.to)
    wide = not (str(sender) + str(recipient)).isascii()
    message = EmailMessage(policy=email.policy.SMTPUTF8 if wide else email.policy.SMTP)
    message["From"] = Address(settings.mail_from_name, sender.username, sender.domain)
    message["To"] = recipient
    message["Subject"] = letter.subject
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = make_msgid(domain=settings.host)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    message.set_content(letter.text, cte="base64")
    message.add_alternative(letter.html, subtype="html", cte="base64")
    message["Content-Language"] = letter.language  # last: the lines above move such headers into the first part
    return message.as_bytes(), sender.addr_spec, recipient.addr_spec, wide


def address(text: str) -> Address:
    """A mail address with its domain as the mail system wants it: A-labels (RFC 5891). Raises MailFault."""
    import idna

    local, _, domain = text.rpartition("@")
    try:
        wire = domain if domain.isascii() else idna.encode(domain, uts46=True).decode("ascii")
        return Address(username=local, domain=wire)
    except ValueError as error:  # IDNAError is one
        raise MailFault("mail_address") from error


def _client(settings: Settings) -> aiosmtplib.SMTP:
    import aiosmtplib

    return aiosmtplib.SMTP(
        hostname=settings.mail_host,
        port=settings.mail_port,
        timeout=COMMAND_SECONDS,
        use_tls=settings.mail_tls == "tls",
        start_tls=settings.mail_tls == "starttls",
        tls_context=_trust(settings) if settings.mail_tls != "none" else None,
        local_hostname=settings.host,
    )


def _trust(settings: Settings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.mail_root or None)
    except OSError as error:
        raise MailFault("mail_certificate", "mail.root cannot be read") from error


async def _part(client: aiosmtplib.SMTP) -> None:
    """Say goodbye; the letter is handed over already, whatever comes of it."""
    import aiosmtplib

    with contextlib.suppress(aiosmtplib.SMTPException, OSError):
        await client.quit(timeout=GOODBYE_SECONDS)


async def _sign_in(client: aiosmtplib.SMTP, settings: Settings, password: str) -> None:
    if not settings.mail_user:
        return
    if not client.supports_extension("auth"):
        raise MailFault("mail_sign_in", "it offers no sign-in on this connection")
    await client.login(settings.mail_user, password)


def _fault(error: BaseException) -> MailFault:
    """Which fault an exception of the mail client or of the network is."""
    import aiosmtplib

    said = f"{error.code} {error.message}" if isinstance(error, aiosmtplib.SMTPResponseException) else str(error)
    return MailFault(_code(error), said[:300])


def _code(error: BaseException) -> FaultCode:
    import aiosmtplib

    if _stems_from(error, ssl.SSLCertVerificationError):
        return "mail_certificate"
    if _stems_from(error, ssl.SSLError):
        return "mail_no_tls"
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return _by_status(min(one.code for one in error.recipients))
    if isinstance(error, aiosmtplib.SMTPAuthenticationError):
        return "mail_later" if 400 <= error.code < 500 else "mail_sign_in"
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return _by_status(error.code)
    if isinstance(error, OSError):  # what the mail client says of connections is of this kind
        return "mail_unreachable"
    return "mail_address" if isinstance(error, ValueError) else "mail_no_tls"


def _by_status(code: int) -> FaultCode:
    return "mail_refused" if code >= 500 else "mail_later"


def _stems_from(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None
