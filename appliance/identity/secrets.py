"""Random secrets with a visible mark, and their stored form.

Rule (SEC-7): made by the system's generator, stored only as SHA-256, compared by looking the hash up. A plain hash is enough
because every secret has at least 128 random bits; there are no passwords.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Literal

Mark = Literal["ses", "ide", "lnk", "dev", "hnd", "grt", "ask", "eml", "inv"]


def new(mark: Mark) -> str:
    """A fresh 256-bit secret such as ``croft_ses_...`` (URL-safe, 54 characters)."""
    return f"croft_{mark}_{secrets.token_urlsafe(32)}"


def digest(secret: str) -> bytes:
    """What is stored for ``secret``. Any text is accepted: unknown ones simply match nothing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
