"""``croft`` on another machine: the same calls as over the control socket, by HTTPS with a token. Standard library only.

Rule: the certificate is checked in every call, against the public authorities or the one that was pinned at sign-in. The only thing
ever read without a check is the certificate of the authority itself, whose fingerprint a person compares first.
"""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

from appliance.control import TIMEOUT, Control, Refused, written
from appliance.errors import Unavailable
from appliance.hosts import Host

PEM_MAX = 16_384


class Unreachable(Unavailable):
    """The appliance does not answer from here."""

    code = "unreachable"


class Untrusted(Unavailable):
    """The certificate is not one to trust."""

    code = "untrusted"


class _Connection(http.client.HTTPSConnection):
    def __init__(self, origin: str, context: ssl.SSLContext) -> None:
        parts = urlsplit(origin)
        super().__init__(parts.hostname or "", parts.port or 443, timeout=TIMEOUT, context=context)
        self._trust = context

    def connect(self) -> None:
        # The C library does not resolve names under localhost (RFC 6761 6.3 leaves it to programs).
        local = self.host == "localhost" or self.host.endswith(".localhost")
        plain = socket.create_connection(("127.0.0.1" if local else self.host, self.port), timeout=self.timeout)
        try:
            self.sock = self._trust.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


class Remote(Control):
    """Calls an appliance as the person a token acts for; without a token, as anybody."""

    def __init__(self, origin: str, token: str, context: ssl.SSLContext) -> None:
        self._origin = origin
        self._token = token
        self._context = context

    @classmethod
    def to(cls, host: Host) -> Remote:
        """The appliance somebody signed in to."""
        return cls(host.origin, host.token, trust(host.ca))

    def _send(self, method: str, path: str, body: Any) -> http.client.HTTPConnection:
        connection = _Connection(self._origin, self._context)
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, written(body), headers)
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise Untrusted(
                f"cannot trust {self._origin}: {error.verify_message}",
                hint="Run `croft sign-in` again; it shows the fingerprint to compare. Or give the certificate with --ca.",
            ) from error
        except OSError as error:
            connection.close()
            raise Unreachable(
                f"cannot reach {self._origin}: {error.strerror or type(error).__name__}",
                hint="Check the address and your connection.",
            ) from error
        return connection


def trust(ca: str) -> ssl.SSLContext:
    """Checks certificates against ``ca`` (PEM) alone, or with '' against this machine's authorities. Raises Untrusted."""
    try:
        return ssl.create_default_context(cadata=ca) if ca else ssl.create_default_context()
    except (ssl.SSLError, ValueError) as error:
        raise Untrusted("that file holds no certificate", hint="It must be a PEM file of the authority.") from error


def authority(origin: str) -> str:
    """The certificate (PEM) an appliance says its authority has. Nothing vouches for it yet. Raises Unreachable, Refused."""
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    connection = _Connection(origin, unchecked)
    try:
        connection.request("GET", "/ca.pem")
        response = connection.getresponse()
        pem = response.read(PEM_MAX)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"cannot reach {origin}", hint="Check the address and your connection.") from error
    finally:
        connection.close()
    if response.status != 200:
        raise Refused(
            "this appliance has no authority of its own", hint="Give the certificate to trust with --ca FILE."
        )
    # One certificate, the one whose fingerprint is compared: a second one in the answer would be trusted unseen.
    return ssl.DER_cert_to_PEM_cert(_der(pem.decode("ascii", "replace")))


def fingerprint(pem: str) -> str:
    """SHA-256 of the certificate in a PEM text, as OpenSSL writes it. Raises Untrusted."""
    return ":".join(f"{byte:02X}" for byte in hashlib.sha256(_der(pem)).digest())


def _der(pem: str) -> bytes:
    """The first certificate in a PEM text."""
    body, end, _ = pem.partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END CERTIFICATE-----")
    try:
        return ssl.PEM_cert_to_DER_cert(f"-----BEGIN CERTIFICATE-----{body}{end}")
    except ValueError as error:
        raise Untrusted("that is not a certificate", hint="It must be a PEM file of the authority.") from error
