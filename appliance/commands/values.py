"""The types of values in rules: what a flag or an operand may hold (SECURITY 5.2, POL-4).

Rule: every type is a closed grammar checked in linear time, and none but ``text`` and ``pattern`` takes free text. A value never
starts with ``-``, so that no value is ever read as a flag.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable

from msgspec import Struct

from appliance.commands.hidden import reads_as_written

# Answers "" when the value fits, else what is wrong with it: the last part of a catalogue key under ``policy.value``.
Check = Callable[[str], str]

MOST_PATH = 4096  # PATH_MAX, limits.h
MOST_TEXT = 4000
MOST_PATTERN = 500
MOST_PRODUCT = 1000  # of counts that may stand in one another
MOST_REPEAT = 255  # RE_DUP_MAX is 32767; such counts cost memory and mean nothing in a search


class BadType(ValueError):
    """A type as written in a rule that cannot be read."""


class ValueType(Struct, frozen=True):
    """One type of value.

    ``path``: it names something beneath the workspace; ``new``: which need not exist; ``maybe``: it could be read as a path.
    """

    spec: str
    check: Check
    path: bool = False
    new: bool = False
    maybe: bool = False
    text: bool = False


class Exclusions(Struct, frozen=True):
    """Names that no path may hold in any of its parts: exact ones, beginnings and endings, all compared in lower case."""

    exact: frozenset[str]
    starts: tuple[str, ...]
    ends: tuple[str, ...]
    names: tuple[str, ...] = ()  # as they were written

    @classmethod
    def of(cls, globs: Iterable[str]) -> Exclusions:
        """From names with at most one ``*``, at the start or the end. Raises BadType."""
        exact, starts, ends = set(), [], []
        names = tuple(globs)
        for name in names:
            bare = name.strip("*").casefold()
            if not bare or "/" in name or "*" in bare or (name[0] == "*" and name[-1] == "*"):
                raise BadType(f"{name!r} is not a name with one * at its start or end")
            if name[-1] == "*":
                starts.append(bare)
            elif name[0] == "*":
                ends.append(bare)
            else:
                exact.add(bare)
        return cls(frozenset(exact), tuple(starts), tuple(ends), names)

    def covers(self, path: str) -> bool:
        """Whether any part of ``path`` is excluded."""
        names = path.casefold().split("/")
        return not self.exact.isdisjoint(names) or any(
            name.startswith(self.starts) or name.endswith(self.ends) for name in names
        )


NOTHING = Exclusions(frozenset(), (), ())


def parse_type(spec: str, exclusions: Exclusions) -> ValueType:
    """A type as rules write it: ``path``, ``int(1..9)``, ``enum(a,b)``... Raises BadType."""
    name, _, inside = spec.partition("(")
    if inside and not inside.endswith(")"):
        raise BadType(f"the type {spec!r} lacks its closing bracket")
    inside = inside[:-1]
    if name == "int":
        return ValueType(spec, _int(inside))
    if name == "enum":
        return ValueType(spec, _enum(inside))
    if inside or spec.endswith(")"):
        raise BadType(f"the type {name!r} takes nothing in brackets")
    if name in ("path", "newpath"):
        return ValueType(spec, _path(exclusions), path=True, new=name == "newpath")
    if name == "text":
        return ValueType(spec, _text, text=True)
    if name == "rev":
        return ValueType(spec, _revision(exclusions), maybe=True)
    check = _SIMPLE.get(name)
    if check is None:
        raise BadType(f"there is no type {name!r}; there are {', '.join(sorted(TYPES))}")
    return ValueType(spec, check)


def lexical(cwd: str, value: str) -> str | None:
    """``value`` seen from ``cwd``, both relative to the workspace, without ``.`` and ``..``; None when it leads outside."""
    parts: list[str] = []
    for part in f"{cwd}/{value}".split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def turns_back(value: str) -> bool:
    """Whether ``..`` follows a name in ``value``: where that name is a link, the kernel goes up from where it leads."""
    inside = False
    for part in value.split("/"):
        if part == ".." and inside:
            return True
        inside = inside or part not in ("", ".", "..")
    return False


def path_fault(value: str, exclusions: Exclusions) -> str:
    """What is wrong with a relative path, apart from where ``..`` leads: empty, absolute, look_alike, excluded...; or ""."""
    if not value.strip(" ") or len(value) > MOST_PATH:
        return "length"
    if value[0] in "/\\":
        return "absolute"
    # "(", ")", "!" and "," alone are words of find's own language.
    if value[0] in "-~:" or value in ("(", ")", "!", ","):
        return "start"
    if not value.isascii() and _looks_otherwise(value):
        return "look_alike"
    return "excluded" if exclusions.covers(value) else ""


# Characters that are drawn like "/", "\\" and "-" and that no normalisation turns into them (Unicode, confusables.txt).
_LIKE_SLASH = frozenset("\u1735\u2041\u2044\u2215\u2216\u2571\u2572\u29f8\u29f9\u3033\u31d3\ufe68")
_LIKE_DASH = frozenset(
    "\u00ad\u02d7\u058a\u06d4\u1806\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\u2796\u2cba\ufe58\ufe63\uff0d"
)


def _looks_otherwise(value: str) -> bool:
    """Whether a path would be read as another: letters of other widths, strokes that are no slash, a dash that is no flag."""
    if unicodedata.normalize("NFKC", value) != unicodedata.normalize("NFC", value):
        return True
    return value[0] in _LIKE_DASH or not _LIKE_SLASH.isdisjoint(value)


def _path(exclusions: Exclusions) -> Check:
    return lambda value: path_fault(value, exclusions)


def _int(inside: str) -> Check:
    found = re.fullmatch(r"(-?[0-9]{1,12})\.\.(-?[0-9]{1,12})", inside)
    if not found or int(found[1]) > int(found[2]):
        raise BadType(f"int needs bounds such as int(1..100), not int({inside})")
    low, high = int(found[1]), int(found[2])

    def check(value: str) -> str:
        digits = value.removeprefix("-") if low < 0 else value
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 12):
            return "number"
        return "" if low <= int(value) <= high else "range"

    return check


def _enum(inside: str) -> Check:
    words = frozenset(word.strip() for word in inside.split(","))
    if not inside or "" in words:
        raise BadType("enum needs words such as enum(a,b)")
    return lambda value: "" if value in words else "choice"


def _grammar(pattern: str, longest: int) -> Check:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if len(value) > longest:
            return "length"
        return "" if compiled.fullmatch(value) else "grammar"

    return check


_REF = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9_./@^~{}+-]*")
_BACK_REFERENCE = re.compile(r"\\[1-9kg]")
_REPEAT = re.compile(r"\{[0-9,]*\\?\}")


def _rev(value: str) -> str:
    """A revision or a range of two, as git writes them; no ``:`` (a path in a tree) and nothing that could be a path outside."""
    if not value or len(value) > 256:
        return "length"
    if value[0] == "-":
        return "start"
    sides = value.removeprefix("^").replace("...", "..").split("..")
    if len(sides) > 2 or not any(sides):
        return "grammar"
    for side in filter(None, sides):
        if not _REF.fullmatch(side) or side.endswith("/") or "//" in side or "/./" in side:
            return "grammar"
    return ""


def _revision(exclusions: Exclusions) -> Check:
    """A revision that is no excluded path either: git takes a word for the one or the other by what exists."""
    return lambda value: _rev(value) or ("excluded" if exclusions.covers(value) else "")


def _pattern(value: str) -> str:
    """A search pattern: no references back, which no linear engine has, and no large counts."""
    if not value or len(value) > MOST_PATTERN:
        return "length"
    if value[0] == "-":
        return "start"
    if _BACK_REFERENCE.search(value):
        return "back_reference"
    inner, outer = 1, 1
    for found in _REPEAT.finditer(value):
        count = max(map(int, re.findall("[0-9]+", found[0])), default=1)
        if count > MOST_REPEAT:
            return "repeat"
        # A group, or what is repeated already, may hold repeats of its own: such a count multiplies, another does not.
        if value[: found.start()].rstrip("\\").endswith((")", "}", "?", "*", "+")):
            outer *= max(count, 1)
        else:
            inner = max(inner, count)
    return "" if outer * inner <= MOST_PRODUCT else "repeat"


def _glob(value: str) -> str:
    if not value or len(value) > 255:
        return "length"
    if value[0] in "-/~" or ".." in value.split("/"):
        return "start"
    return "" if value.count("*") <= 8 else "repeat"


def _text(value: str) -> str:
    if not value or len(value) > MOST_TEXT:
        return "length"
    if value[0] == "-":
        return "start"
    return "" if reads_as_written(value) else "hidden"


def _port(value: str) -> str:
    return _PORT(value)


_PORT = _int("1..65535")
# What to sort references by: a name of a field, "-" for the other way round.
# Newer git has fields that start programs ("signature", "describe"), so the harmless ones are listed.
REFERENCE_SORT = re.compile(
    r"-?((version:|v:)?refname|objectname|objectsize|upstream|subject|(author|committer|tagger|creator)(name|email|date)?)"
)
_JSON_PATH = r"(\.|(\.[A-Za-z_][A-Za-z0-9_]*(\[[0-9]{0,6}\])*|\.?\[[0-9]{0,6}\])+)"
_SIMPLE: dict[str, Check] = {
    "glob": _glob,
    "pattern": _pattern,
    "port": _port,
    # A name of a package, a branch, a column: no folder but the one of a scoped package.
    "word": _grammar(r"(@[A-Za-z0-9_-][A-Za-z0-9._-]*/)?[A-Za-z0-9_][A-Za-z0-9._+-]*", 128),
    "unit": _grammar(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*\.(service|socket|timer|target)", 128),
    "container": _grammar(r"[a-z][a-z0-9_-]*", 32),
    # How many lines, from the end or (with +) from the start.
    "count": _grammar(r"\+?[0-9]{1,9}", 10),
    # Numbers and permissions as find(1) takes them; a sign says more or less.
    "compared": _grammar(r"[+-]?[0-9]{1,12}[bcwkMG]?", 15),
    "permissions": _grammar(r"[-/]?([0-7]{3,4}|[ugoa]*[+=-]?[rwxst]+(,[ugoa]*[+=-]?[rwxst]+)*)", 32),
    # Lines as git blame takes them.
    "lines": _grammar(r"[0-9]{1,7},\+?[0-9]{1,7}", 16),
    "refsort": _grammar(REFERENCE_SORT.pattern, 32),
    # git's --format with placeholders that only print: %G runs gpg, %(describe) runs git.
    "format": _grammar(
        r"(oneline|short|medium|full|fuller|reference|raw|email)|(t?format:[^%]*|[^%]*(?=%))([^%]|%([HhTtPpsbBfdDne%]|[ac][nNeEdDrisItlL]"
        r"|C(red|green|blue|reset)|C\([a-z0-9 ,]+\)))*",
        300,
    ),
    # What git takes as a date; "now", "2 weeks ago", 2026-01-31T10:00.
    "date": _grammar(r"[A-Za-z0-9][A-Za-z0-9 :.+/-]*", 40),
    # strftime(3), as date(1) takes it.
    "timeformat": _grammar(r"\+[A-Za-z0-9 %:.,/_-]+", 64),
    # Columns as cut(1) takes them.
    "columns": _grammar(r"[0-9]{1,4}(-[0-9]{0,4})?(,[0-9]{1,4}(-[0-9]{0,4})?)*|-[0-9]{1,4}", 64),
    "character": _grammar(r"[^\s-]| ", 1),
    # Characters as tr(1) takes them; classes and ranges included.
    "characters": _grammar(r"[^-\s][^\n]*| ", 64),
    # A key of sort(1).
    "sortkey": _grammar(r"[0-9]{1,3}(\.[0-9]{1,3})?[bdfghinMrRV]*(,[0-9]{1,3}(\.[0-9]{1,3})?[bdfghinMrRV]*)?", 32),
    # Fields and places of a JSON document, as jq(1) takes them; no calls, no variables.
    "jsonpath": _grammar(rf"{_JSON_PATH}( ?\| ?{_JSON_PATH}){{0,8}}", 200),
    # A sentence to print: letters of any script, no slash.
    "phrase": _grammar(r"\w[\w\u064b-\u0652 .,:;!?'\"()@#%+=&-]*", 500),
}
TYPES = frozenset(_SIMPLE) | {"path", "newpath", "text", "rev", "int", "enum"}
