"""Characters that cannot be seen, or that change how their neighbours are read (POL-8).

Rule: no argument of a command holds one. The only exception is the free text of a typed ``text`` argument, where joiners between
letters (Arabic, Persian, Indic scripts) and inside emoji are part of the writing.
"""

from __future__ import annotations

import re
import unicodedata

from msgspec import Struct

# Letters and marks that show nothing (Unicode, DerivedCoreProperties, Default_Ignorable_Code_Point; and the blank Braille pattern).
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U0001d159\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
_JOINERS = "\u200c\u200d"
_JOINING = re.compile("[\u200c\u200d\ufe0f]")
MOST_JOINERS = 500  # in one free text
_EMOJI_STYLE = "\ufe0f"
_SPACES = frozenset("\t\n\r\x0b\x0c\x85")


class Hidden(Struct, frozen=True):
    """One such character: where it stands (counted in characters from 0), its number and its Unicode name."""

    position: int
    codepoint: int
    name: str


def is_hidden(char: str) -> bool:
    """Whether ``char`` may not stand in an argument."""
    return not plain(char)


def plain(text: str) -> bool:
    """Whether nothing hidden is in ``text``."""
    # Not printable: control, format, surrogate, private use, unassigned, separators and spaces but U+0020.
    return text.isprintable() and not _BLANK.search(text)


def hidden(text: str) -> list[Hidden]:
    """Every hidden character of ``text``, in order."""
    return [Hidden(position, ord(char), _name(char)) for position, char in enumerate(text) if is_hidden(char)]


def hidden_in_text(text: str) -> list[Hidden]:
    """Like :func:`hidden` for free text: joiners inside words and emoji are part of the writing."""
    return [found for found in hidden(text) if not _belongs(text, found.position)]


def first_hidden(text: str) -> Hidden | None:
    """The first hidden character, found without looking at each of those before it."""
    if plain(text):
        return None
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if plain(text[low:middle]) else (low, middle)
    return Hidden(low, ord(text[low]), _name(text[low]))


def reads_as_written(text: str) -> bool:
    """Whether free text hides nothing: joiners inside words and emoji, up to 500 of them, are part of the writing."""
    joiners = list(_JOINING.finditer(text))
    if len(joiners) > MOST_JOINERS or not plain(_JOINING.sub("", text)):
        return False
    return all(_belongs(text, found.start()) for found in joiners)


def cleaned(text: str, *, keep_joiners: bool = False) -> str:
    """``text`` as it looks: unusual spaces become ordinary ones, everything else hidden goes."""
    kept = []
    for position, char in enumerate(text):
        if not is_hidden(char) or (keep_joiners and _belongs(text, position)):
            kept.append(char)
        elif char in _SPACES or unicodedata.category(char) in ("Zs", "Zl", "Zp"):
            kept.append(" ")
    return "".join(kept)


def _name(char: str) -> str:
    return unicodedata.name(char, "") or {"Cc": "control character", "Cn": "unassigned character"}.get(
        unicodedata.category(char), "unnamed character"
    )


def _belongs(text: str, position: int) -> bool:
    """Whether the character at ``position`` joins two letters, or shapes or joins emoji."""
    char = text[position]
    before, after = text[position - 1 : position] if position else "", text[position + 1 : position + 2]
    if char == _EMOJI_STYLE:
        return _is_symbol(before)
    if char not in _JOINERS or not before or not after:
        return False
    if _is_letter(before) and _is_letter(after):
        return True
    symbol = before if before != _EMOJI_STYLE else text[position - 2 : position - 1]
    return char == "\u200d" and _is_symbol(symbol) and _is_symbol(after)


def _is_letter(char: str) -> bool:
    # Joiners mean nothing between Latin letters, where they only hide.
    return ord(char) > 0x02AF and not is_hidden(char) and unicodedata.category(char)[0] in "LM"


def _is_symbol(char: str) -> bool:
    return bool(char) and ord(char) > 0xFF and unicodedata.category(char) in ("So", "Sk", "Sm")
