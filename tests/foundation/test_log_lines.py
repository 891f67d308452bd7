"""Log lines: each one record, valid JSON, harmless on a terminal, and without a token in it."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from appliance import log as logs
from appliance.identity import secrets

NASTY = [
    "a\r\nb",
    "\x1b[2J\x1b]52;c;eA==\x07",
    "\x9b31m",
    "\u2028\u2029",
    "\u202egnp",
    '"},{"text":"forged',
    "مرحبا",
    "\udcff",
    "\0",
]


def record(text: str, **fields: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "croft", "levelno": 20, "levelname": "INFO", "msg": text, "args": (), **fields}
    )


@pytest.mark.parametrize("text", NASTY)
def test_json_lines_are_one_line_of_valid_json(text: str) -> None:
    """LOG-4."""
    line = logs.JsonFormatter().format(record("fixed", detail=text))
    assert json.loads(line)["detail"] == text
    assert len(line.splitlines()) == 1
    assert not any(0x7F <= ord(char) <= 0x9F or ord(char) < 32 or char in "\u2028\u2029\u202e" for char in line)


@pytest.mark.parametrize("text", NASTY)
def test_text_lines_cannot_drive_a_terminal(text: str) -> None:
    line = logs.TextFormatter().format(record(text, detail=text))
    assert "\n" not in line
    assert not any(ord(char) < 32 or 0x7F <= ord(char) <= 0x9F or char in "\u2028\u202e" for char in line)


@pytest.mark.parametrize("formatter", [logs.JsonFormatter(), logs.TextFormatter()])
def test_tokens_are_blanked_wherever_they_stand(formatter: logging.Formatter) -> None:
    """LOG-5."""
    ours, jwt = secrets.new("ses"), "eyJhbGciOiJFZERTQSJ9." + "a" * 30 + "." + "b" * 86
    for secret in (ours, jwt):
        try:
            raise RuntimeError(f"refused\n{secret}\nend")
        except RuntimeError:
            failed = record(
                "failed", exc_info=sys.exc_info(), url=f"https://h/?t={secret}", deep={"a": [f"x\n{secret}"]}
            )
        line = formatter.format(failed)
        assert secret[12:] not in line
        assert "[token]" in line


def test_what_stdout_cannot_spell_still_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    try:
        logs.set_up("info", "auto")
        logging.getLogger("croft").info("مرحبا", extra={"detail": "\udcff"})
        sys.stdout.flush()
    finally:
        root.handlers[:], root.level = kept, level
    assert json.loads(raw.getvalue())["detail"] == "\udcff"
    assert json.loads(raw.getvalue())["text"] == "مرحبا"
