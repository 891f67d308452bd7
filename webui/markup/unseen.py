"""Characters that nobody sees or that reorder their neighbours, named where they stand; and text that runs from right to left.

Rule: in code every such character is named, for a reader decides by what is seen; in prose those that only shape or join letters pass.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from html import escape

from appliance.commands.hidden import hidden_in_text

_SUSPECT = re.compile(r"[^\x20-\x7e\n\t]")
# Controls, embeddings, overrides and isolates, invisible operators, fillers, tags: in prose they only mislead (Trojan Source).
_IN_PROSE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u115f\u1160\u180e\u200b\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
    "\U000e0000-\U000e0fff]"
)

_RTL = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
# From the first letter to the last, with a number before it; of a longer number no more is looked at, for each digit begins one.
_RTL_RUN = re.compile(rf"(?:\d[\d.,]{{0,30}}[ \t]{{1,8}})?[{_RTL}](?:[^\n]*[{_RTL}])?")
_AFTER = frozenset("0123456789.,:;!?%… \t")  # what goes with the words before it
_CLOSING = {")": "(", "]": "[", "}": "{", "»": "«"}


def in_prose(text: str) -> str:
    """``text`` as HTML text."""
    if text.isascii() and text.isprintable():
        return escape(text, quote=False)
    return "".join(_cut(text, [(found.start(), found[0]) for found in _IN_PROSE.finditer(text)]))


def in_code(text: str) -> str:
    """``text`` of code as HTML: each run of right-to-left letters isolated, so that what stands around it keeps its place."""
    if text.isascii() and (text.isprintable() or not _SUSPECT.search(text)):
        return escape(text, quote=False)
    parts: list[str] = []
    at = 0
    while run := _RTL_RUN.search(text, at):
        end = _end_of(text, run.start(), run.end())
        parts += [_named(text[at : run.start()]), "<bdi>", _named(text[run.start() : end]), "</bdi>"]
        at = end
    return "".join([*parts, _named(text[at:])])


def _end_of(text: str, start: int, end: int) -> int:
    """With numbers and the signs of a sentence after it, and brackets that it opened itself."""
    last, opened = end, {opening: text.count(opening, start, end) for opening in _CLOSING.values()}
    for closing, opening in _CLOSING.items():
        opened[opening] -= text.count(closing, start, end)
    for at in range(end, len(text)):
        char = text[at]
        if opening := _CLOSING.get(char, ""):
            if opened[opening] < 1:
                break
            opened[opening] -= 1
        elif char not in _AFTER:
            break
        last = last if char in " \t" else at + 1
    return last


def suspicious(text: str) -> bool:
    """Whether something in ``text`` is named in prose."""
    return _IN_PROSE.search(text) is not None


def direction(text: str) -> str:
    """``ltr`` or ``rtl``, by the first letter that has one (UAX 9, P2); ``auto`` without such a letter."""
    for char in text:
        kind = unicodedata.bidirectional(char)
        if kind == "L":
            return "ltr"
        if kind in ("R", "AL"):
            return "rtl"
    return "auto"


def _named(text: str) -> str:
    if not _SUSPECT.search(text):
        return escape(text, quote=False)
    found = [(each.position, text[each.position]) for each in hidden_in_text(text) if text[each.position] not in "\n\t"]
    return "".join(_cut(text, found))


def _cut(text: str, hidden: list[tuple[int, str]]) -> Iterator[str]:
    at = 0
    for position, char in hidden:
        yield escape(text[at:position], quote=False)
        name = escape(unicodedata.name(char, "control character"))
        yield f'<span class="sign" dir="ltr" title="{name}">U+{ord(char):04X}</span>'
        at = position + 1
    yield escape(text[at:], quote=False)
