"""Names of files in what a model writes, so that a page can open them in the editor.

Rule: a name is marked, never followed: whether there is such a file is asked when somebody opens it, beneath the workspace alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import NamedTuple
from urllib.parse import unquote

_NAME = r"[\w@+][\w@+.-]*|\.[\w@+][\w@+.-]*"
_PATH = rf"(?:\./)?(?:(?:{_NAME})/)*(?:{_NAME})"
_LINE = r"(?::(?P<line>\d{1,6})(?::\d{1,5}|-\d{1,6})?)"
_WHOLE = re.compile(rf"(?P<path>{_PATH}){_LINE}?")
# Nothing that a name may hold stands before one, so a run of such characters is tried once and not from each of them.
_IN_TEXT = re.compile(rf"(?<![\w/.:@+-])(?P<path>{_PATH}){_LINE}(?![\w/])")
_LINK = re.compile(rf"(?P<path>{_PATH})(?:#L(?P<line>\d{{1,6}})(?:-L?\d{{1,6}})?|:(?P<colon>\d{{1,6}}))?")
_EXTENSION = re.compile(r"\.[A-Za-z]\w{0,9}\Z")
LONGEST = 400


class Place(NamedTuple):
    """A file of the workspace; ``line`` 0 where none is named. ``text`` is how it was written."""

    path: str
    line: int
    text: str


def in_span(text: str) -> Place | None:
    """The place that a span of code names: a path with a line, or with a folder and an extension."""
    found = _WHOLE.fullmatch(text) if len(text) < LONGEST else None
    if found is None or not _likely(found["path"], found["line"]):
        return None
    return _place(found["path"], found["line"], text)


def of_link(address: str) -> Place | None:
    """The place that a link without a scheme leads to."""
    address = unquote(address)
    found = _LINK.fullmatch(address) if len(address) < LONGEST else None
    if found is None or not (_EXTENSION.search(found["path"]) or "/" in found["path"]):
        return None
    return _place(found["path"], found["line"] or found["colon"], address)


def in_text(text: str) -> Iterator[tuple[int, int, Place]]:
    """Where ``text`` names a file with a line: begin, end, place."""
    if ":" not in text:
        return
    for found in _IN_TEXT.finditer(text):
        place = _place(found["path"], found["line"], found[0])
        if place and _likely(found["path"], found["line"]):
            yield found.start(), found.end(), place


def opening(place: Place) -> str:
    """The tag that marks it; it has no address, so nothing but our page's own script does anything with it."""
    line = f' data-line="{place.line}"' if place.line else ""
    return f'<a class="file" role="link" tabindex="0" dir="ltr" data-path="{escape(place.path)}"{line}>'


def _likely(path: str, line: str | None) -> bool:
    extension = bool(_EXTENSION.search(path))
    return (extension and ("/" in path or bool(line))) or ("/" in path and bool(line))


def _place(path: str, line: str | None, text: str) -> Place | None:
    path = path.removeprefix("./")
    if ".." in path.split("/"):
        return None
    return Place(path, int(line or 0), text)
