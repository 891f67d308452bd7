"""Finding words in conversations: how a text is indexed, how a question is put to the index, and how a hit is shown.

Rule: a question always names the owner to the index itself, so nothing of anybody else's is even counted; a hit is shown in the
spelling of the text it stands in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, takewhile

from appliance.assistant.folding import Word, seated, without_article, without_hamza, words

MOST_TEXT = 200_000  # characters of one message that are indexed
MOST_QUERY = 200
MOST_TERMS = 12
BEFORE, SNIPPET = 40, 180  # characters of a snippet: before the first hit, and in all

_QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”|«([^»]*)»')


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a snippet; ``hit`` marks what was found."""

    text: str
    hit: bool = False


def columns(text: str) -> tuple[str, str]:
    """What is indexed of ``text``: its words, and the other forms they may be found by."""
    found = [word for _, _, word in words(text[:MOST_TEXT])]
    return " ".join(word.base for word in found), " ".join(dict.fromkeys(form for word in found for form in word.forms))


@dataclass(frozen=True, slots=True)
class Term:
    """One word asked for: it begins (or is) one of ``bases``, or a form of it is one of ``forms``."""

    starts: tuple[str, ...]
    forms: tuple[str, ...] = ()

    def sql(self) -> str:
        """In the language of FTS5; every word is letters and digits alone, so nothing in it can mean anything else there."""
        starts = " OR ".join(f'"{text}"{" *" if _begins(text) else ""}' for text in self.starts)
        whole = " OR ".join(f'"{text}"' for text in self.forms)
        return f"({{words forms}} : ({starts}){f' OR forms : ({whole})' if whole else ''})"

    def meets(self, word: Word) -> bool:
        every = (word.base, *word.forms)
        return any(
            one.startswith(text) if _begins(text) else one == text for text in self.starts for one in every
        ) or any(text in word.forms for text in self.forms)


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words in quotes: these, in this order, as they are spelled but for folding."""

    bases: tuple[str, ...]

    def sql(self) -> str:
        return f'(words : "{" ".join(self.bases)}")'

    def meets(self, word: Word) -> bool:
        return word.base in self.bases


@dataclass(frozen=True, slots=True)
class Query:
    """What a person typed into the search, as the index takes it. False when there is no word in it."""

    parts: tuple[Term | Phrase, ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.parts)

    def sql(self, owner: str) -> str:
        """The question to the index. ``owner`` is a user id or ``console``; raises ValueError for anything else."""
        if not owner.isalnum():
            raise ValueError("an owner is one word")
        return " AND ".join([f'owner : "{owner}"', *(part.sql() for part in self.parts)])

    def meets(self, word: Word) -> bool:
        return any(part.meets(word) for part in self.parts)


def parse(typed: str) -> Query:
    """Every word must be found, each as the beginning of a word; what stands in quotes as it is."""
    typed = typed[:MOST_QUERY]
    parts: list[Term | Phrase] = []
    for quoted in _QUOTED.finditer(typed):
        bases = tuple(word.base for _, _, word in words("".join(filter(None, quoted.groups()))))
        if bases:
            parts.append(Phrase(bases))
    parts += [_term(word.base) for _, _, word in words(_QUOTED.sub(" ", typed))]
    return Query(tuple(dict.fromkeys(parts))[:MOST_TERMS])


def _term(base: str) -> Term:
    """Hamza as it was typed, or left out; the article is not insisted on."""
    stems = list(dict.fromkeys((base, without_article(base))))
    looser = dict.fromkeys(form for stem in stems for form in without_hamza(stem) if form)
    # What two letters begin is nearly everything: those are asked for whole.
    starts = dict.fromkeys((*stems, *(form for stem in stems if len(form := seated(stem)) > 2)))
    return Term(tuple(starts), tuple(form for form in looser if form not in starts))


def _begins(text: str) -> bool:
    return len(text) > 1 or not text.isascii()


def snippet(text: str, query: Query) -> list[Piece]:
    """The part of ``text`` around the first hit, in its own spelling, in pieces; all of a text that is short enough."""
    hits = ((begin, end) for begin, end, word in words(text[:MOST_TEXT]) if query.meets(word))
    first = next(hits, None)
    start, end = _window(text, first[0] if first else 0)
    pieces = [Piece("…")] if start else []
    at = start
    # A long text is read no further than what is shown of it.
    for begin, stop in takewhile(lambda hit: hit[0] < end, chain([first] if first else [], hits)):
        pieces += _piece(text[at:begin]) + _piece(text[begin:stop], hit=True)
        at = stop
    pieces += _piece(text[at:end])
    return [*pieces, Piece("…")] if end < len(text) else pieces


def _window(text: str, first: int) -> tuple[int, int]:
    """From the start of a word a little before ``first`` on."""
    start = max(0, first - BEFORE)
    if start:
        space = text.find(" ", start, first)
        start = space + 1 if space >= 0 else first
    end = min(len(text), start + SNIPPET)
    return start, max(end, first)


def _piece(text: str, *, hit: bool = False) -> list[Piece]:
    flat = re.sub(r"\s+", " ", text)
    return [Piece(flat, hit)] if flat else []


def merged(pieces: Sequence[Piece]) -> str:
    """The snippet without marks."""
    return "".join(piece.text for piece in pieces)
