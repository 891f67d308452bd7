"""Reading the certificate that the proxy serves: for whom, by whom, until when.

Rule: facts only; what is worrying about them is said in problems.py.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from cryptography import x509

# Caddy names its own authority and intermediate so unless told otherwise (modules/caddypki).
OWN_AUTHORITY = "Caddy Local Authority"


class Certificate(Struct, frozen=True):
    """What a visitor's browser gets. Times are Unix seconds; ``trusted`` is judged by the machine's own
    roots plus the proxy's authority, ``distrust`` says why not."""

    names: tuple[str, ...]
    issuer: str
    not_before: float
    not_after: float
    distrust: str = ""

    @property
    def own(self) -> bool:
        """Whether the proxy's own authority issued it, which browsers do not know."""
        return self.issuer.startswith(OWN_AUTHORITY)


def verified(facts: Mapping[str, Any]) -> Certificate:
    """From what the ssl module says of a certificate it trusts (``getpeercert()``)."""
    issuer = {key: value for relative in facts["issuer"] for key, value in relative}
    return Certificate(
        tuple(name for kind, name in facts.get("subjectAltName", ()) if kind == "DNS"),
        str(issuer.get("commonName") or issuer.get("organizationName") or "an unnamed authority"),
        float(ssl.cert_time_to_seconds(facts["notBefore"])),
        float(ssl.cert_time_to_seconds(facts["notAfter"])),
    )


def read(der: bytes, distrust: str) -> Certificate:
    """Parse one that is not trusted, of which the ssl module says nothing. Raises ValueError."""
    from cryptography import x509  # 1.5 MB that most daemons never need

    parsed = x509.load_der_x509_certificate(der)
    try:
        names = tuple(
            parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
                x509.DNSName
            )
        )
    except x509.ExtensionNotFound:
        names = ()
    return Certificate(
        names,
        _issuer(parsed.issuer),
        parsed.not_valid_before_utc.timestamp(),
        parsed.not_valid_after_utc.timestamp(),
        distrust,
    )


def _issuer(name: x509.Name) -> str:
    from cryptography.x509.oid import NameOID

    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in name.get_attributes_for_oid(oid):
            return str(attribute.value)
    return "an unnamed authority"
