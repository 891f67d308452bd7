"""Fetching one file of a known size over https: what came is kept, and a cut connection is taken up again where it ended.

Rule: nothing here says that the content is right. Whoever unpacks the file checks its digest first.
"""

from __future__ import annotations

import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, BinaryIO

TRIES = 5  # in a row that bring nothing
BLOCK = 1 << 16
_SILENCE = 30.0  # seconds
_NETWORK = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class _HttpsAlone(urllib.request.HTTPRedirectHandler):
    """Nothing is sent where it would leave https."""

    def redirect_request(self, *words: Any) -> urllib.request.Request | None:
        _check(words[-1])
        return super().redirect_request(*words)


_OPENER = urllib.request.build_opener(_HttpsAlone)


class Broken(Exception):
    """The source cannot be reached, or does not give what was asked for."""


def fetch(url: str, part: BinaryIO, size: int, report: Callable[[int], None], *, pause: float = 1.0) -> None:
    """Bring ``part``, open for both, to ``size`` bytes. ``report`` is told how many are here. Raises Broken, OSError of the disk.

    ``pause``: seconds before a second try in a row; each one after that waits twice as long.
    """
    _check(url)
    tried, have = 0, part.seek(0, os.SEEK_END)
    while have < size:
        cause = _take(url, part, have, size, report)
        had, have = have, part.seek(0, os.SEEK_END)
        tried = 0 if have > had else tried + 1
        if tried == TRIES:
            raise Broken(f"cannot reach the source: {cause}"[:300])
        if tried:
            time.sleep(pause * 2 ** (tried - 1))
    if have > size:
        part.truncate(0)
        raise Broken("the source gives more than it promised")


def _check(url: str) -> None:
    """Raises Broken."""
    if not url.startswith("https://"):
        raise Broken("it leads away from https")


def _take(url: str, part: BinaryIO, have: int, size: int, report: Callable[[int], None]) -> str:
    """What comes of the rest in one go, one byte more than ``size`` at most, and why it ended."""
    asked = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 - checked before
    try:
        answer = _OPENER.open(asked, timeout=_SILENCE)
    except _NETWORK as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:
            part.truncate(0)  # it has another file now
        return str(error)
    with answer:
        if answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.seek(have)
        else:
            part.truncate(part.seek(0))  # it gives the whole
        while (left := size - part.tell()) >= 0:
            try:
                block = answer.read1(min(BLOCK, left + 1))
            except _NETWORK as error:
                return str(error)
            if not block:
                return "the connection was cut"
            part.write(block)
            report(part.tell())
        return "it does not end"
