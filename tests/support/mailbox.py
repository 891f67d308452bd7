"""A real mail server on this machine: SMTP with STARTTLS or TLS from the first byte, accounts, and a mailbox to look into."""

from __future__ import annotations

import asyncio
import datetime
import email
import email.policy
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.appliance import free_port
from support.waiting import until

USER, PASSWORD = "croft@example.org", "a secret of the mail account"


class Mailbox:
    """The server's handler. ``letters`` are (envelope, message) as they came; ``answers`` is what the
    next DATAs get instead of being taken, ``slow`` how many seconds each waits for its answer."""

    def __init__(self) -> None:
        self.letters: list[tuple[Envelope, EmailMessage]] = []
        self.signed_in: list[bool] = []
        self.answers: list[str] = []
        self.slow = 0.0
        self.port = 0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.slow:
            await asyncio.sleep(self.slow)
        if self.answers:
            return self.answers.pop(0)
        content = envelope.content if isinstance(envelope.content, bytes) else str(envelope.content).encode()
        message = email.message_from_bytes(content, policy=email.policy.SMTPUTF8)
        assert isinstance(message, EmailMessage)
        self.signed_in.append(bool(session.authenticated))
        self.letters.append((envelope, message))
        return "250 taken"

    async def letter(self, number: int = 0) -> EmailMessage:
        """The letter with this number, once it has come."""
        await until(lambda: len(self.letters) > number, "a letter")
        return self.letters[number][1]


def plain(message: EmailMessage) -> str:
    part = message.get_body(("plain",))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


def html(message: EmailMessage) -> str:
    part = message.get_body(("html",))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


def link_in(message: EmailMessage) -> str:
    """The one address in a letter."""
    found = set(re.findall(r"https://[^\s\"<>]+", plain(message)))
    assert len(found) == 1, found
    return found.pop()


def code_in(message: EmailMessage) -> str:
    found = re.search(r"^([2-9A-Z]{4}-[2-9A-Z]{4})$", plain(message), re.MULTILINE)
    assert found
    return found[1]


def _check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=good, handled=False)


@contextmanager
def mailbox(folder: Path, *, tls: str = "starttls", wide: bool = True, name: str = "localhost") -> Iterator[Mailbox]:
    """A running server. ``folder/root.pem`` is the certificate to trust; ``tls`` is starttls, tls or none."""
    context = certificate(folder, name)
    box = Mailbox()
    controller = Controller(
        box,
        hostname="127.0.0.1",
        port=free_port(),
        ssl_context=context if tls == "tls" else None,
        tls_context=context if tls == "starttls" else None,
        require_starttls=tls == "starttls",
        authenticator=_check,
        auth_required=tls == "starttls",  # the others warn of what they cannot see
        auth_require_tls=tls == "starttls",
        enable_SMTPUTF8=wide,
    )
    controller.start()
    box.port = controller.port
    try:
        yield box
    finally:
        controller.stop()


def toml(box: Mailbox, folder: Path, *, tls: str = "starttls", more: str = "") -> str:
    """The settings that reach ``box``."""
    user = f'user = "{USER}"\n' if tls != "none" else ""
    return f'[mail]\nhost = "localhost"\nport = {box.port}\ntls = "{tls}"\n{user}root = "{folder}/root.pem"\n{more}'


def certificate(folder: Path, name: str) -> ssl.SSLContext:
    """A certificate for ``name`` in ``folder/root.pem``, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    (folder / "root.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem")
    return context
