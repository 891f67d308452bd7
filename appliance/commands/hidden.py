"""Characters that cannot be seen, or that change how their neighbours are read (POL-8).

Rule: no argument of a command holds one. The only exception is the free text of a typed ``text`` argument, where joiners between
letters (Arabic, Persian, Indic scripts) and inside emoji are part of the writing.
"""

from __future__ import annotations

import unicodedata

from msgspec import Struct

# Categories: control, format, surrogate, private use, unassigned, line and paragraph separators, spaces (but U+0020).
_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
# Letters and marks that show nothing (Unicode, DerivedCoreProperties, Default_Ignorable_Code_Point; and the blank Braille pattern).
_BLANK = (
    frozenset({0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0x1D159})
    | frozenset(range(0x180B, 0x1810))
    | frozenset(range(0xFE00, 0xFE10))
    | frozenset(range(0xE0100, 0xE01F0))
)
_JOINERS = "\u200c\u200d"
_EMOJI_STYLE = "\ufe0f"
_SPACES = frozenset("\t\n\r\x0b\x0c\x85")


class Hidden(Struct, frozen=True):
    """One such character: where it stands (counted in characters from 0), its number and its Unicode name."""

    position: int
    codepoint: int
    name: str


def is_hidden(char: str) -> bool:
    """Whether ``char`` may not stand in an argument."""
    if " " <= char <= "~":
        return False
    return unicodedata.category(char) in _CATEGORIES or ord(char) in _BLANK


def plain(text: str) -> bool:
    """Whether nothing hidden is in ``text``. Fast for what people usually type."""
    return (text.isascii() and text.isprintable()) or not any(map(is_hidden, text))


def hidden(text: str) -> list[Hidden]:
    """Every hidden character of ``text``, in order."""
    return [Hidden(position, ord(char), _name(char)) for position, char in enumerate(text) if is_hidden(char)]


def hidden_in_text(text: str) -> list[Hidden]:
    """Like :func:`hidden` for free text: joiners inside words and emoji are part of the writing."""
    return [found for found in hidden(text) if not _belongs(text, found.position)]


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
