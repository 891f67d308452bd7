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
from pathlib import Path

TRIES = 5  # in a row that bring nothing
BLOCK = 1 << 16
_SILENCE = 30.0  # seconds
_NETWORK = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class Broken(Exception):
    """The source cannot be reached, or does not give what was asked for."""


def fetch(url: str, part: Path, size: int, report: Callable[[int], None], *, pause: float = 1.0) -> None:
    """Bring ``part`` to ``size`` bytes. ``report`` is told how many are here. Raises Broken, OSError of the disk.

    ``pause``: seconds before a second try in a row; each one after that waits twice as long.
    """
    part.touch()
    tried, have = 0, part.stat().st_size
    while have < size:
        cause = _take(url, part, have, report)
        tried = 0 if part.stat().st_size > have else tried + 1
        have = part.stat().st_size
        if tried == TRIES:
            raise Broken(f"cannot reach the source: {cause}"[:300])
        if tried:
            time.sleep(pause * 2 ** (tried - 1))
    if have > size:
        part.unlink()
        raise Broken("the source gives more than it promised")


def _take(url: str, part: Path, have: int, report: Callable[[int], None]) -> str:
    """What comes of the rest in one go, and why it ended."""
    asked = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 - checked below
    try:
        answer = urllib.request.urlopen(asked, timeout=_SILENCE)  # noqa: S310
    except _NETWORK as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:
            os.truncate(part, 0)  # it has another file now
        return str(error)
    with answer, part.open("r+b") as file:
        if not answer.url.startswith("https://"):
            return "it leads away from https"
        if answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            file.seek(have)
        else:
            file.truncate()  # it gives the whole
        while True:
            try:
                block = answer.read1(BLOCK)
            except _NETWORK as error:
                return str(error)
            if not block:
                return "the connection was cut"
            file.write(block)
            report(file.tell())
