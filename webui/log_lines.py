"""Log lines made safe to show: colours as names from a closed list, everything else a terminal would obey left out (WEB-15).

Rule: what a service wrote is text. Nothing of it becomes markup, a link, a title or a move of the cursor; characters that are
not seen are named where the line is shown (webui.filters.pieces).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from msgspec import Struct

from appliance.services.model import LogLine
from webui import filters

LEVELS = ("debug", "info", "warning", "error")
SINCE = {"": 0, "15m": 900, "1h": 3600, "6h": 6 * 3600, "24h": 86_400}

# CSI, OSC and other escape sequences (ECMA-48), whole: their arguments must not stay behind as text.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])|\x9b[0-?]*[ -/]*[@-~]"
)
_GRAPHICS = re.compile(r"(?:\x1b\[|\x9b)([0-9;]{0,60})m")
_COLOURS = ("", "red", "green", "yellow", "blue", "magenta", "cyan", "")  # black and white are the page's own

_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d(?:\.\d{1,9})?)(Z|[+-]\d\d:?\d\d)?")
_JSON_STAMP = re.compile(r'"ts":\s*(\d{9,11}(?:\.\d{1,9})?)[,}]')
_LOOKED_THROUGH = 200  # characters in which a line says when it was written


class Part(NamedTuple):
    """A stretch of a line in one style; ``style`` is "" or words of the closed list: colours, bold, dim."""

    text: str
    style: str


class Filter(Struct, frozen=True):
    """What of a log is wanted. ``since`` is Unix seconds; 0 means all."""

    text: str = ""
    level: str = "debug"
    since: float = 0.0

    def wants(self, row: dict[str, Any]) -> bool:
        if LEVELS.index(row["level"]) < LEVELS.index(self.level):
            return False
        if self.since and row["at"] is not None and row["at"] < self.since:
            return False
        return self.text.casefold() in row["text"].casefold()


def rows(lines: Iterable[LogLine]) -> list[dict[str, Any]]:
    """Lines as pages and programs get them; a line without a time of its own has that of the line before."""
    found: list[dict[str, Any]] = []
    for line in lines:
        row = as_json(line)
        if row["at"] is None and found:
            row["at"] = found[-1]["at"]
        found.append(row)
    return found


def as_json(line: LogLine) -> dict[str, Any]:
    """One line: ``at`` (Unix seconds or None), ``level``, ``text``, and ``parts`` where it has colours."""
    found = parts(line.text)
    text = "".join(part.text for part in found)
    row: dict[str, Any] = {"at": line.at or written_at(text), "level": filters.log_level(text), "text": text}
    if any(part.style for part in found):
        row["parts"] = [list(part) for part in found]
    return row


def clean(text: str) -> str:
    """``text`` without terminal control sequences; other control characters are named where it is shown."""
    # What is left of the two that begin a sequence goes too: with what stands next to it, it might begin another.
    return _ESCAPES.sub("", text).replace("\x1b", "").replace("\x9b", "")


def parts(text: str) -> list[Part]:
    """``text`` in stretches of one style, without control sequences."""
    found: list[Part] = []
    style: dict[str, str] = {}
    start = 0
    for match in _GRAPHICS.finditer(text):
        _add(found, text[start : match.start()], style)
        style = _restyle(style, match[1].split(";"))
        start = match.end()
    _add(found, text[start:], style)
    return found


def _add(found: list[Part], text: str, style: dict[str, str]) -> None:
    if said := clean(text):
        found.append(Part(said, " ".join(style[kind] for kind in ("colour", "weight") if kind in style)))


def _restyle(style: dict[str, str], codes: Sequence[str]) -> dict[str, str]:
    """The style after an SGR sequence; what is not in the closed list changes nothing."""
    after = dict(style)
    for code in codes:
        number = int(code or 0) if len(code) < 4 else -1
        if number == 0:
            after.clear()
        elif number in (1, 2):
            after["weight"] = "bold" if number == 1 else "dim"
        elif number == 22:
            after.pop("weight", None)
        elif number == 39:
            after.pop("colour", None)
        elif number in (38, 48):
            break  # the rest are arguments: a colour by number, which no theme of ours promises to show readably
        elif 30 <= number <= 37 or 90 <= number <= 97:
            if name := _COLOURS[number % 10]:
                after["colour"] = name
            else:
                after.pop("colour", None)
    return after


def written_at(text: str) -> float | None:
    """The time a line says of itself, Unix seconds; without a zone it is taken as UTC."""
    head = text[:_LOOKED_THROUGH]
    if found := _JSON_STAMP.search(head):
        return float(found[1])
    found = _STAMP.search(head)
    if found is None:
        return None
    zone = (found[3] or "Z").replace("Z", "+00:00")
    try:
        return datetime.fromisoformat(f"{found[1]}T{found[2][:15]}{zone}").astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return None
