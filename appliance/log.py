"""Logging: fixed text with fields, JSON under systemd, text on a terminal.

Rule: secrets never reach a field. :func:`scrub` is the last net, not the first: it blanks anything shaped like one of our own
tokens, because a URL or an upstream's error text may carry one.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import time
from typing import Any

# Every secret Croft hands out starts with one of these marks (identity.secrets), so that it can be found and blanked.
# No word boundary before it: in JSON a line break is written "\\n", whose letter would hide the token behind it.
_OURS = re.compile(r"croft_[a-z]+_[A-Za-z0-9_-]{16,}")
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")
# What may drive a terminal or reorder a line though JSON lets it through: DEL, C1, line separators, direction marks.
_TRICKY = re.compile(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]|" + _TRICKY.pattern)
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def scrub(text: str) -> str:
    """``text`` with anything shaped like a token blanked."""
    return _JWT.sub("[token]", _OURS.sub("[token]", text))


def _escape(text: str, what: re.Pattern[str]) -> str:
    return what.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _PLAIN}


class JsonFormatter(logging.Formatter):
    """One JSON object a line; control characters are escaped by JSON itself (LOG-4)."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "from": record.name,
            "text": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return _escape(scrub(json.dumps(entry, ensure_ascii=False, default=str)), _TRICKY)


class TextFormatter(logging.Formatter):
    """For people at a terminal: time, level, text, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(
            f"{key}={json.dumps(value, ensure_ascii=False, default=str)}" for key, value in _fields(record).items()
        )
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        text = record.getMessage().replace("\n", "\\n")
        line = f"{stamp} {record.levelname.lower():7} {record.name}: {text} {extra}".rstrip()
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return _escape(scrub(line), _CONTROL)


def set_up(level: str, style: str) -> None:
    """Send all logging to standard output. ``style`` is auto, text or json."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Bytes that are not UTF-8 reach us as lone surrogates; written as escapes they neither fail nor break the JSON.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    handler = logging.StreamHandler(sys.stdout)
    as_text = style == "text" or (style == "auto" and sys.stdout.isatty())
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    for noisy in ("aiohttp.access", "aiosqlite", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Log from ``level`` (debug, info, warning, error) on, from now on."""
    logging.getLogger().setLevel(level.upper())
