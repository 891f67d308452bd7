"""What an API token looks like: ``croft_api_`` and 49 letters and digits, the last six a checksum of what stands before them.

Rule: the checksum tells a typo from a token without asking anybody, and lets scanners recognise one; it proves nothing. The 43
letters before it are the secret: 256 bits from the system's generator.
"""

from __future__ import annotations

import re
import secrets
import zlib

PREFIX = "croft_api_"
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET, _CHECK = 43, 6  # 62^43 > 2^256; 62^6 > 2^32
_SHAPE = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_SECRET + _CHECK}}}\Z")


def new() -> str:
    """A fresh token."""
    body = PREFIX + "".join(secrets.choice(_LETTERS) for _ in range(_SECRET))
    return body + _checksum(body)


def well_formed(text: str) -> bool:
    """Whether ``text`` can be a token: right shape, right checksum. Says nothing of whether it is good for anything."""
    return _SHAPE.match(text) is not None and _checksum(text[:-_CHECK]) == text[-_CHECK:]


def _checksum(body: str) -> str:
    number, letters = zlib.crc32(body.encode("ascii")), []
    for _ in range(_CHECK):
        number, digit = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[digit])
    return "".join(reversed(letters))
