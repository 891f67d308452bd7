"""Words as a search compares them: one spelling for what people write in several ways, in Arabic and in Latin letters.

Rule: what is indexed, what is asked for and what is marked in a text all come from :func:`words`, so they cannot disagree.
Marks and tatweel go; forms of alef become one, alef maqsura is ya, ta marbuta is ha; digits are ASCII; accents and case go.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

# What may stand inside a word without being a letter: combining marks (tashkeel, Quranic signs, accents), tatweel, and characters
# nobody sees (soft hyphen, joiners, direction marks).
_INSIDE = (
    r"\u00ad\u0300-\u036f\u0610-\u061a\u0640\u061c\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed"
    r"\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069"
)
_WORD = re.compile(rf"[^\W_]+(?:[{_INSIDE}]+[^\W_]*)*")
_LONGEST = 64  # letters of a word that count
_READ = 4 * _LONGEST  # characters of it that are looked at, and kept with what they fold to

_HAMZA_ON_A_SEAT = {"\u0648\u0654": "\u0624", "\u064a\u0654": "\u0626", "\u0649\u0654": "\u0626"}
_LETTERS = str.maketrans(
    {
        "\u0671": "\u0627",  # alef wasla
        "\u0649": "\u064a",  # alef maqsura
        "\u0629": "\u0647",  # ta marbuta
        "\u06a9": "\u0643",  # Persian kaf
        "\u06cc": "\u064a",  # Persian ya
        "\u06c1": "\u0647",  # Urdu ha
        "\u06be": "\u0647",
        "\u0640": None,  # tatweel
    }
)
_TO_SEAT = str.maketrans({"\u0624": "\u0648", "\u0626": "\u064a", "\u0621": None})
_NO_HAMZA = str.maketrans({"\u0624": None, "\u0626": None, "\u0621": None})
_HAMZA = frozenset("\u0621\u0624\u0626")

_ARABIC = re.compile("[\u0621-\u064a]")

# Conjunction, preposition, article and the s of the future, as they are written onto the next word. With the article two letters
# must be left, without it three, so that few short words lose a letter of their own.
_ARTICLE = re.compile(r"[وف]?(?:[بكل]?ال|لل)(?=\w\w)")
_PARTICLES = (
    _ARTICLE,
    re.compile(r"[وف](?=\w{3})"),
    re.compile(r"[وف]?[بكل](?=\w{3})"),
    re.compile(r"[وف]?س(?=[ايتن]\w\w)"),
)


@dataclass(frozen=True, slots=True)
class Word:
    """``base`` is the word folded; ``forms`` are what else it may be found by, never ``base`` itself."""

    base: str
    forms: tuple[str, ...]


def words(text: str) -> Iterator[tuple[int, int, Word]]:
    """Every word of ``text`` with where it begins and ends, in the order of the text."""
    for found in _WORD.finditer(text):
        word = folded(found[0][:_READ])
        if word.base:
            yield found.start(), found.end(), word


@lru_cache(maxsize=4096)
def folded(word: str) -> Word:
    """One word, which holds no space."""
    base = fold(word)[:_LONGEST]
    if not _ARABIC.search(base):
        return Word(base, ())
    stems = {base, *without_particles(base)}
    every = {form for stem in stems for form in (stem, *without_hamza(stem))}
    return Word(base, tuple(sorted(every - {base, ""})))


def fold(word: str) -> str:
    """The one spelling, hamza on its seat kept apart (see :func:`without_hamza`)."""
    if word.isascii():
        return word.lower()
    # Twice: some letters have a case only once they are plain, some are plain only once they are small.
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", word).casefold())
    for pair, letter in _HAMZA_ON_A_SEAT.items():
        text = text.replace(pair, letter)
    plain = "".join(_digit(char) for char in text if unicodedata.category(char) not in ("Mn", "Me", "Cf"))
    return "".join(char for char in plain.translate(_LETTERS) if char.isalnum())


def without_hamza(base: str) -> tuple[str, ...]:
    """As people write it who leave hamza out, and as both ways of seating it have in common; empty without hamza."""
    if not _HAMZA & set(base):
        return ()
    return seated(base), base.translate(_NO_HAMZA)


def seated(base: str) -> str:
    """With the bare letter where hamza sat on one."""
    return base.translate(_TO_SEAT)


def without_particles(base: str) -> Iterator[str]:
    """What may be left behind the article and one-letter particles."""
    for particle in _PARTICLES:
        if found := particle.match(base):
            yield base[found.end() :]


def without_article(base: str) -> str:
    """Behind the article and what is written before it; ``base`` itself without one."""
    found = _ARTICLE.match(base)
    return base[found.end() :] if found else base


def _digit(char: str) -> str:
    value = unicodedata.digit(char, None)
    return char if value is None else str(value)
