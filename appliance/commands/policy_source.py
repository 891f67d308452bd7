"""A policy's text as a document: where its keys stand, and reading them as what they must be.

Rule: whatever is not exactly of the kind asked for is a PolicyFault that names its line; nothing is converted or guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from appliance.commands.hidden import plain
from appliance.commands.model import ROLES, Actor, Limits, Rate
from appliance.messages import Message

# What a run's environment may hold: nothing that makes a program load, run or write anything (POL-7). The broker refuses the rest too.
_ENV_NAME = re.compile(
    r"LANG|LANGUAGE|LC_[A-Z]+|TZ|TERM|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|CLICOLOR|CI|PATH"
    r"|PAGER|GIT_PAGER|GIT_TERMINAL_PROMPT|GIT_CONFIG_GLOBAL|PYTHONNOUSERSITE"
)
_ENV_FIXED = {
    "PAGER": "cat", "GIT_PAGER": "cat", "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": "/dev/null", "PYTHONNOUSERSITE": "1"
}  # fmt: skip
_ENV_PATH = re.compile(r"/(usr/local/bin|usr/bin|bin)(:/(usr/local/bin|usr/bin|bin))*")
_ENV_VALUE = re.compile(r"[A-Za-z0-9_.:/@+-]{0,64}")
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_LIMITS = {
    "seconds": (1, 3600), "output_kb": (1, 1 << 20), "pids": (1, 512), "memory_mb": (16, 1 << 20), "parallel": (1, 16)
}  # fmt: skip
_RATES = {"per_minute": (1, 10_000), "per_day": (1, 1_000_000)}


class PolicyFault(Exception):
    """A policy that cannot be used: ``line`` from 1 (0 where no line can be named) and what is wrong, for people."""

    def __init__(self, line: int, code: str, **params: str | int) -> None:
        super().__init__(f"line {line}: {code} {params}")
        self.line = line
        self.message = Message(f"policy.fault.{code}", {"line": line, **params})


class Source:
    """One document. Each reader takes the table that holds the key and the line its block begins at. Raises PolicyFault."""

    def __init__(self, text: str, document: Mapping[str, Any]) -> None:
        self.text, self.document = text, document
        self.lines = text.split("\n")

    def id(self, table: Mapping[str, Any], line: int) -> str:
        value = table.get("id")
        if not isinstance(value, str) or not _ID.fullmatch(value) or value in ("unmatched", "default"):
            raise PolicyFault(self.line_of("id", line), "id")
        return value

    def string(self, table: Mapping[str, Any], key: str, line: int) -> str:
        value = table.get(key, "")
        if not isinstance(value, str) or not plain(value) or len(value) > 400:
            raise PolicyFault(self.line_of(key, line), "string", setting=key)
        return value

    def boolean(self, table: Mapping[str, Any], key: str, line: int, *, default: bool = False) -> bool:
        value = table.get(key, default)
        if not isinstance(value, bool):
            raise PolicyFault(self.line_of(key, line), "boolean", setting=key)
        return value

    def words(self, table: Mapping[str, Any], key: str, line: int, *, empty: bool = False) -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(word, str) and (word or empty) for word in value):
            raise PolicyFault(self.line_of(key, line), "words", setting=key)
        if not key.startswith("examples_") and not all(map(plain, value)):
            raise PolicyFault(self.line_of(key, line), "string", setting=key)
        return tuple(value)

    def choices(self, value: Any, known: Sequence[str], line: int, key: str) -> tuple[str, ...]:
        words = self.words({key: value}, key, line)
        for word in words:
            if word not in known:
                raise PolicyFault(self.line_of(key, line), "choice", setting=key, choices=", ".join(known))
        return words

    def table(self, value: Any, key: str, line: int = 0) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise PolicyFault(line, "table", setting=key)
        return value

    def actors(self, value: Any, line: int, key: str) -> frozenset[Actor]:
        return frozenset(Actor(word) for word in self.choices(value, tuple(map(str, Actor)), line, key))

    def roles(self, table: Mapping[str, Any], line: int) -> frozenset[Any]:
        return frozenset(self.choices(table.get("roles", list(ROLES)), ROLES, line, "roles"))

    def env(self, table: Any, line: int) -> dict[str, str]:
        where = self.line_of("env", line)
        for name, value in self.table(table, "env", where).items():
            if not _ENV_NAME.fullmatch(name) or not isinstance(value, str) or not _ENV_VALUE.fullmatch(value):
                raise PolicyFault(where, "env", name=name)
            if value != _ENV_FIXED.get(name, value) or (name == "PATH" and not _ENV_PATH.fullmatch(value)):
                raise PolicyFault(where, "env", name=name)
        return dict(table)

    def limits(self, table: Any, base: Limits, line: int, key: str) -> Limits:
        return Limits(**self.numbers(table, _LIMITS, base, line, key))

    def rate(self, table: Any, base: Rate, line: int) -> Rate:
        return Rate(**self.numbers(table, _RATES, base, line, "rate"))

    def numbers(
        self, table: Any, bounds: Mapping[str, tuple[int, int]], base: Any, line: int, key: str
    ) -> dict[str, int]:
        where = self.line_of(key, line)
        self.keys(self.table(table, key, where), tuple(bounds), where)
        values = {name: table.get(name, getattr(base, name)) for name in bounds}
        for name, (low, high) in bounds.items():
            if type(values[name]) is not int or not low <= values[name] <= high:
                raise PolicyFault(where, "number", setting=name, low=low, high=high)
        return values

    # -- places -----------------------------------------------------------------------------------------------------------------------

    def keys(self, table: Mapping[str, Any], known: Sequence[str], line: int) -> None:
        for key in table:
            if key not in known:
                raise PolicyFault(self.line_of(key, line), "key", setting=key)

    def header(self, text: str) -> int:
        return next((number for number, line in enumerate(self.lines, start=1) if line.strip() == text), 0)

    def line_of(self, key: str, start: int) -> int:
        """The line of ``key`` in the block that begins at ``start``, or the block's own."""
        wanted = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]")
        for number in range(start, len(self.lines)):
            line = self.lines[number]
            if wanted.match(line):
                return number + 1
            if number > start and line.lstrip().startswith("["):
                break
        return start

    def blocks(self, kind: str) -> Iterator[tuple[Mapping[str, Any], int]]:
        """Every ``[[kind]]`` with the line of its header."""
        tables = self.document.get(kind, [])
        if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
            raise PolicyFault(0, "blocks", setting=kind)
        header = re.compile(rf"\s*\[\[\s*{kind}\s*\]\]\s*(#.*)?")
        lines = [number for number, line in enumerate(self.lines, start=1) if header.fullmatch(line)]
        known = lines if len(lines) == len(tables) else [0] * len(tables)
        yield from zip(tables, known, strict=True)

    def unique(self, ids: Sequence[str], lines: Sequence[int]) -> None:
        seen: set[str] = set()
        for name, line in zip(ids, lines, strict=True):
            if name in seen:
                raise PolicyFault(line, "duplicate", rule=name)
            seen.add(name)
