"""Where a page may send somebody next: a path of ours and nothing else (FWD-9)."""

from __future__ import annotations

import re
from urllib.parse import unquote

_PATH = re.compile(r"/(?![/\\])[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,2000}\Z")


def relative_path(text: str) -> str:
    """``text`` if it is a plain absolute path of this host, else ''.

    Refused: other schemes and hosts in every spelling browsers forgive (``//evil``, ``/\\evil``, ``https:evil``, tabs and
    newlines, encoded slashes at the start), and anything outside the characters RFC 3986 allows in a path and query.
    """
    if not _PATH.match(text):
        return ""
    plain = unquote(unquote(text))
    if plain.startswith(("//", "/\\")) or "\\" in plain or any(ord(char) < 32 for char in plain):
        return ""
    return text
