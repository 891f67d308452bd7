"""Our own reading of a typed line: words, quotes and the pipes between commands. Nothing is ever expanded.

Rule: a line that a shell would read differently is refused, never guessed at. So ``$``, globs, lists, redirections and comments
outside quotes are refused with their place. ``~``, ``#`` and ``@{...}`` inside a word are literal in every shell and here
(``HEAD~1``, ``issue#12``, ``stash@{0}``); at the start of a word they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from appliance.commands.hidden import is_hidden, plain

# Of all commands of a line together, as of commands given word by word. A verdict takes time in proportion (POL-16), and nobody
# reads more before approving it.
MOST_CHARACTERS = 4096
MOST_WORDS = 256

# A stretch of a word that means itself; "|" and blanks end it, everything else is looked at.
_PLAIN = re.compile(r"[^\s|;&<>()$`*?\[\]~#!{}\\'\"\x00-\x1f\x7f]+")
# Single-quoted stretches, one right behind the other.
_SINGLE = re.compile(r"(?:'[^']*')+")
_STASH = re.compile(r"\{[A-Za-z0-9._/-]{1,64}\}")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
# In double quotes a shell expands "$name", "${", "$(" and the special parameters; "$" before anything else means itself.
_INSIDE_DOUBLE = re.compile(r"""(?:[^"\\$`]|\\.|\$(?![A-Za-z0-9_({@*#?$!'-]))*""", re.DOTALL)
_ESCAPED = re.compile(r'\\([$`"\\])')
_SAFE_WORD = re.compile(r"[A-Za-z0-9_@%+=:,./-]+\Z")


class LineRefused(Exception):
    """A line that cannot be read. ``code``: shell, assignment, quote, hidden, empty, stage or long; ``position`` from 0."""

    def __init__(self, code: str, position: int, char: str = "") -> None:
        super().__init__(f"cannot read the line: {code} at {position}")
        self.code, self.position, self.char = code, position, char


def parse_line(text: str) -> tuple[tuple[str, ...], ...]:
    """The commands of a pipeline, each as its words. Raises LineRefused."""
    if len(text) > MOST_CHARACTERS:
        raise LineRefused("long", MOST_CHARACTERS)
    reader = _Reader(text)
    stages: list[tuple[str, ...]] = []
    while True:
        start = reader.at
        stages.append(reader.stage())
        if text.startswith(("||", "|&"), reader.at):
            raise LineRefused("shell", reader.at, "|")
        if not stages[-1]:
            raise LineRefused("empty" if len(stages) == 1 and reader.at >= len(text) else "stage", start, "|")
        if reader.at >= len(text):
            return tuple(stages)
        reader.at += 1  # the pipe


def quoted(word: str) -> str:
    """``word`` so that :func:`parse_line` (and a shell) reads it back as it is."""
    if _SAFE_WORD.match(word) and not _ASSIGNMENT.match(word):
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"


def joined(stages: Sequence[Sequence[str]]) -> str:
    """A line that :func:`parse_line` reads as ``stages``."""
    return " | ".join(" ".join(map(quoted, argv)) for argv in stages)


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.words = text, 0, 0

    def stage(self) -> tuple[str, ...]:
        """The words up to the next pipe or the end."""
        argv: list[str] = []
        while (word := self._word(first=not argv)) is not None:
            argv.append(word)
            self.words += 1
            if self.words > MOST_WORDS:
                raise LineRefused("long", self.at)
        return tuple(argv)

    def _word(self, *, first: bool) -> str | None:
        text, end = self.text, len(self.text)
        while self.at < end and text[self.at] in " \t":
            self.at += 1
        parts: list[str] = []
        start = self.at
        while self.at < end and text[self.at] not in " \t|":
            parts.append(self._part(start))
        if self.at == start:
            return None
        if first and (found := _ASSIGNMENT.match(text, start)) and found.end() <= self.at:
            raise LineRefused("assignment", start, text[found.end() - 1])
        return "".join(parts)

    def _part(self, start: int) -> str:
        """The next stretch of a word that began at ``start``: plain, quoted, or one character that means itself here."""
        text, at = self.text, self.at
        if found := _PLAIN.match(text, at):
            self.at = found.end()
            return _visible(found[0], at)
        char = text[at]
        if char == "'":
            return self._single()
        if char == '"':
            return self._double()
        if char in "~#" and at > start and text[at - 1] not in "=:":
            self.at += 1
            return char
        if char == "{" and text[at - 1 : at] == "@" and at > start and (found := _STASH.match(text, at)):
            self.at = found.end()
            return found[0]
        raise LineRefused("hidden" if is_hidden(char) else "shell", at, char)

    def _single(self) -> str:
        found = _SINGLE.match(self.text, self.at)
        if not found:
            raise LineRefused("quote", self.at, "'")
        self.at = found.end()
        return _visible(found[0], found.start()).replace("''", "").strip("'")

    def _double(self) -> str:
        text, start = self.text, self.at
        end = _INSIDE_DOUBLE.match(text, start + 1).end()  # type: ignore[union-attr]  # it may be empty
        inside = _visible(text[start + 1 : end], start + 1)
        if text[end : end + 1] in ("", "\\"):
            raise LineRefused("quote", start, '"')
        if text[end] != '"':
            raise LineRefused("shell", end, text[end])
        self.at = end + 1
        return _ESCAPED.sub(r"\1", inside)


def _visible(text: str, at: int) -> str:
    """``text``, unless a control character is in it: what else is hidden is for the judge, who knows free text."""
    if text.isprintable() or plain(text):
        return text
    for offset, char in enumerate(text):
        if char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff":
            raise LineRefused("hidden", at + offset, char)
    return text
