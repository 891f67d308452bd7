"""Reading the certificate that the proxy serves: for whom, by whom, until when.

Rule: facts only; what is worrying about them is said in problems.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

# Caddy names its own authority and intermediate so unless told otherwise (modules/caddypki).
OWN_AUTHORITY = "Caddy Local Authority"


@dataclass(frozen=True, slots=True)
class Certificate:
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


def read(der: bytes, distrust: str = "") -> Certificate:
    """Parse one certificate. Raises ValueError."""
    parsed = x509.load_der_x509_certificate(der)
    try:
        names = tuple(parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
                      .value.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = ()
    return Certificate(names, _issuer(parsed), parsed.not_valid_before_utc.timestamp(),
                       parsed.not_valid_after_utc.timestamp(), distrust)


def _issuer(parsed: x509.Certificate) -> str:
    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in parsed.issuer.get_attributes_for_oid(oid):
            return str(attribute.value)
    return parsed.issuer.rfc4514_string()
