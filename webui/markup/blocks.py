"""A text in blocks: paragraphs, lists and tables as prose, fences as code with their raw text beside the HTML.

Rule: what is copied, inserted, saved or run is ``code``, the text as the model wrote it; nothing is ever read back from HTML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

from webui.markup.gate import passed
from webui.markup.highlight import coloured
from webui.markup.writer import language, mark_open, parser, prepare

# Every row of a table is filled up to the width of its head, so a few lines can ask for very many cells.
MOST_CELLS = 20_000

_UNREADABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Code:
    """Code that stands inside prose, in a list for instance: in the HTML it is ``pre[data-code=N]``, N counting from 0."""

    lang: str
    code: str


@dataclass(frozen=True, slots=True)
class Block:
    """Put this where block ``n`` (from 0) stands. ``done``: it never changes again. Of code ``html`` is what stands inside
    ``pre > code``."""

    n: int
    kind: Literal["prose", "code"]
    html: str
    lang: str = ""
    code: str = ""
    codes: tuple[Code, ...] = ()
    done: bool = True

    def data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Add:
    """Append this text, as text, in block ``n``: in prose to the element marked ``data-open``, in code to its end and to its raw text."""

    n: int
    add: str

    def data(self) -> dict[str, Any]:
        """For JSON."""
        return {"n": self.n, "add": self.add}


Patch = Block | Add


def render(text: str, *, breaks: bool = False) -> list[Block]:
    """All of a text that is finished. ``breaks``: new lines stay, as people mean them when they type."""
    text = clean(text)
    return [block_of(group, n, breaks=breaks) for n, group in enumerate(groups(text, breaks=breaks))]


def clean(text: str) -> str:
    """One kind of line end, and nothing that is no character: as CommonMark asks a parser to read them (2.1, 2.3)."""
    return _UNREADABLE.sub("\ufffd", text.replace("\r", ""))


def groups(text: str, *, breaks: bool = False) -> list[list[Token]]:
    """The tokens of each block at the top."""
    found: list[list[Token]] = []
    lines = text.split("\n")
    tables = len(lines) * max(line.count("|") for line in lines) < MOST_CELLS
    for token in _parser(breaks, tables).parse(text):
        if token.level == 0 and token.nesting >= 0:
            found.append([])
        found[-1].append(token)
    return found


def block_of(group: Sequence[Token], n: int, *, breaks: bool = False, done: bool = True, end: bool = False) -> Block:
    """One block as HTML. ``end``: it is the last, and more may follow: the place where that goes is marked."""
    first = group[0]
    if first.type in ("fence", "code_block"):
        lang, code = language(first.info), first.content.removesuffix("\n")
        return Block(n, "code", passed(coloured(code, lang)), lang, code, done=done)
    prepare(group)
    if end:
        mark_open(group)
    env: dict[str, Any] = {}
    made = _parser(breaks, True)
    html = passed(made.renderer.render(list(group), made.options, env)).strip()
    return Block(n, "prose", html, codes=tuple(Code(*each) for each in env.get("codes", ())), done=done)


@cache
def _parser(breaks: bool, tables: bool) -> MarkdownIt:
    return parser(breaks=breaks, tables=tables)
