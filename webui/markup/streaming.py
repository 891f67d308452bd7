"""A text in blocks while it is being written.

Rules: a finished block never changes; what has come is seen at once; the work for a text grows with its length, not with the square of
it. So what is still open is read again only as often as the text that came pays for (``CREDIT`` characters of reading for each
that came); in between, words are passed on as they are, and put right with the next reading.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from markdown_it.token import Token

from webui.markup.blocks import Add, Block, Patch, block_of, clean, groups
from webui.markup.unseen import suspicious

CREDIT = 8
START = 512
# These may change how what stands around them is read.
_MARKUP = re.compile(r"[\n\t`*_~\[\])<>|\\&:#]")
# A last line that may become a list, a heading, a rule or a fence with the next character: it is held back rather than shown wrongly.
_UNDECIDED = re.compile(
    # Each character fits one part alone: otherwise a long line of them takes time with the square of its length.
    r"(?:\A|(?<=\n))(?:[ \t>]*(?:(?:[-=*+#|~`:][-=*+#>|~`:]*|\d{1,9}[.)]?)[ \t]*)?| {0,3}(?:`{3,}|~~~)[^`\n]*)\Z"
)
_CLOSING = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*")
_MAY_CLOSE = re.compile(r"(?:\A|(?<=\n)) {0,3}[`~]*[ \t]*\Z")


class Streaming:
    """Give :meth:`feed` all of the text so far, again and again, then :meth:`finish` once. Patches are applied in order, each once;
    who missed some takes :attr:`blocks` instead."""

    def __init__(self, *, breaks: bool = False) -> None:
        self._breaks = breaks
        self._fed = 0  # characters taken in
        self._text = ""
        self._start = 0  # where the first block begins that is not done
        self._shown = 0  # up to where readers have the text
        self._settled = 0  # up to where whole lines were looked at for blocks that are done
        self._credit = START
        self._fence = ""  # the fence of code that is open at the end, '' without
        self._done: list[Block] = []
        self._open = 0  # blocks that readers have after those

    @property
    def blocks(self) -> list[Block]:
        """Everything that readers have now."""
        return [*self._done, *self._opened(self._text[self._start : self._shown])]

    def feed(self, text: str) -> list[Patch]:
        """What changes with ``text``, which begins with what was fed before."""
        new = self._take(text)
        if not new:
            return []
        if self._fence:
            return self._more_code()
        if self._open and not _special(self._text[self._shown :]):
            return self._add(len(self._text))
        return self._read_or_add()

    def finish(self, text: str | None = None) -> list[Patch]:
        """The end of the text: everything is done now, and equal to what :func:`webui.markup.render` makes of it."""
        if text is not None:
            self._take(text)
        blocks = self._blocks(groups(self._text[self._start :], breaks=self._breaks))
        patches: list[Patch] = [*blocks, *self._emptied(len(self._done) + len(blocks))]
        self._done += blocks
        self._start = self._shown = len(self._text)
        self._open, self._fence = 0, ""
        return patches

    def _take(self, text: str) -> str:
        new = clean(text[self._fed :])
        self._fed = len(text)
        self._text += new
        self._credit += CREDIT * len(new)
        return new

    def _more_code(self) -> list[Patch]:
        """Code goes on: as it is for now, in colours as soon as that is paid for; or its fence is closed."""
        lines = self._text[self._shown :].split("\n")
        if any(self._closes(line) for line in lines[:-1]):
            return self._read()
        held = _MAY_CLOSE.search(self._text, self._text.rfind("\n") + 1)
        if len(lines) > 1 or _special_in_code(self._text[self._shown :]):
            return self._read_or_add(held.start() if held else None)
        return self._add(held.start() if held else len(self._text))

    def _closes(self, line: str) -> bool:
        found = _CLOSING.fullmatch(line)
        return found is not None and found[1].startswith(self._fence)

    def _read_or_add(self, end: int | None = None) -> list[Patch]:
        if self._credit >= len(self._text) - self._start or not self._open:
            return self._read()
        return self._add(len(self._text) if end is None else end)

    def _add(self, end: int) -> list[Patch]:
        if end <= self._shown:
            return []
        added = Add(len(self._done) + self._open - 1, self._text[self._shown : end])
        self._shown = end
        return [added]

    def _read(self) -> list[Patch]:
        """Read what is open again; blocks that are done by now leave it."""
        settled = self._settle()
        tail = self._text[self._start :]
        held = _UNDECIDED.search(tail, tail.rfind("\n") + 1)
        shown = (tail[: held.start()] if held else tail).rstrip(" \n")
        self._credit -= len(tail)
        self._shown = self._start + len(shown)
        opened = self._opened(shown)
        gone = self._emptied(len(self._done) + len(opened), settled=len(settled))
        self._open = len(opened)
        return [*settled, *opened, *gone]

    def _settle(self) -> list[Block]:
        """Blocks that nothing that follows can change, by the lines that are whole."""
        end = self._text.rfind("\n") + 1
        if end <= max(self._settled, self._start):
            return []
        self._settled = end
        whole = self._text[self._start : end]
        self._credit -= len(whole)
        lines, found = whole.split("\n"), groups(whole, breaks=self._breaks)
        if not found:
            return []
        count = len(found) - (0 if _is_done(found[-1][0], lines) else 1)
        first = _lines_of(found[-1][0])[1] if count == len(found) else _lines_of(found[count][0])[0]
        blocks = self._blocks(found[:count])
        self._done += blocks
        if blocks:
            self._start += sum(len(line) + 1 for line in lines[:first])
        return blocks

    def _opened(self, text: str) -> list[Block]:
        found = groups(text, breaks=self._breaks)
        self._fence = _open_fence(found[-1][0], text) if found else ""
        first = len(self._done)
        last = len(found) - 1
        return [
            block_of(each, first + n, breaks=self._breaks, done=False, end=n == last) for n, each in enumerate(found)
        ]

    def _blocks(self, found: Sequence[Sequence[Token]]) -> list[Block]:
        first = len(self._done)
        return [block_of(group, first + n, breaks=self._breaks) for n, group in enumerate(found)]

    def _emptied(self, count: int, *, settled: int = 0) -> list[Block]:
        """Blocks that readers have beyond ``count``: what they showed is part of another now."""
        had = len(self._done) - settled + self._open
        return [Block(n, "prose", "", done=False) for n in range(count, had)]


def _special(text: str) -> bool:
    return _MARKUP.search(text) is not None or suspicious(text)


def _special_in_code(text: str) -> bool:
    return not text.isascii() or suspicious(text)


def _lines_of(token: Token) -> tuple[int, int]:
    first, last = token.map or (0, 0)
    return first, last


def _is_done(token: Token, lines: Sequence[str]) -> bool:
    """Whether a block at the end is done, though nothing follows it yet."""
    after = _lines_of(token)[1]
    if token.type == "fence":
        return not _open_fence(token, "\n".join(lines))
    if token.type == "paragraph_open":
        return after < len(lines) - 1 and not lines[after].strip()
    return token.type == "hr" or (token.type == "heading_open" and token.markup.startswith("#"))


def _open_fence(token: Token, text: str) -> str:
    """The fence of a block of code that no line of ``text`` closes; '' for everything else."""
    if token.type != "fence":
        return ""
    first, after = _lines_of(token)
    closing = _CLOSING.fullmatch(text.split("\n")[after - 1]) if after - 1 > first else None
    return "" if closing and closing[1].startswith(token.markup) else token.markup
