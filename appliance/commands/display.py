"""From the bytes a command wrote to text that is safe to show (WEB-15).

Rule: of all control sequences only colours and styles (SGR) with plain numbers stay, as data for whoever renders them; the
rest goes, and other control characters are shown as pictures. Frames are cut so that each can be shown by itself.
"""

from __future__ import annotations

import re

LONGEST_SEQUENCE = 4096  # bytes held back at most while a sequence is incomplete

_SAFE = bytes([9, 10, 13, *range(0x20, 0x7F)])
_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x9c|\x1b\\)?|[ -/]*[0-~])"  # ECMA-48, 7 bits
    r"|\x9b[0-?]*[ -/]*[@-~]|[\x90\x98\x9d-\x9f][^\x07\x1b\x9c]*(?:\x07|\x9c|\x1b\\)?"  # and 8 bits
)
_STYLE = re.compile(r"\x1b\[[0-9;:]{0,32}m\Z")
_REST = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_BEGUN = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*|[ -/]*)?\Z")


def render(data: bytes) -> str:
    """Text to show; colours stay as ``ESC [ … m``. What is no UTF-8 shows as U+FFFD."""
    if not data.translate(None, _SAFE):
        return data.decode("ascii")
    text = data.decode("utf-8", "replace")
    if not _REST.search(text):
        return text
    kept: list[str] = []
    at = 0
    for found in _SEQUENCE.finditer(text):
        kept.append(_REST.sub(_picture, text[at : found.start()]))
        if _STYLE.match(found[0]):
            kept.append(found[0])
        at = found.end()
    kept.append(_REST.sub(_picture, text[at:]))
    return "".join(kept)


def complete(data: bytes) -> int:
    """How many of these bytes can be shown by themselves: not half a character, not half a sequence."""
    end = len(data)
    escape = data.rfind(b"\x1b", max(0, end - LONGEST_SEQUENCE))
    if escape >= 0 and _BEGUN.match(data, escape):
        return escape
    for back in range(1, min(3, end) + 1):
        byte = data[end - back]
        if byte >= 0xC0:
            return end - back if (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) > back else end
        if byte < 0x80:
            break
    return end


def _picture(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number < 0x20:
        return chr(0x2400 + number)
    return "\u2421" if number == 0x7F else "\ufffd"
