"""Short names for conversations: from the question at once, from the model when it has time.

Rule: a model's title is one short line without decoration, or it is not used.
"""

from __future__ import annotations

import re

MOST = 60
WORDS = 8
MAX_TOKENS = 24
_MARKS = re.compile(r"[*_`#>\"'«»“”]+")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_LABEL = re.compile(r"^(?:title|العنوان)\s*:\s*", re.IGNORECASE)


def of_question(text: str) -> str:
    """The first line of a question, cut at a word."""
    line = next((one.strip() for one in text.splitlines() if one.strip() and not one.startswith("```")), "")
    return _cut(" ".join(line.split()))


def of_model(text: str) -> str:
    """The title in a model's answer; '' where there is none to be used."""
    lines = [one.strip() for one in _THOUGHT.sub("", text).splitlines() if one.strip()]
    line = _LABEL.sub("", _MARKS.sub("", lines[0]).strip()).strip(" .:،؛") if lines else ""
    fits = 3 <= len(line) <= MOST and len(line.split()) <= WORDS and all(map(str.isprintable, line))
    return line if fits and any(map(str.isalpha, line)) else ""


def _cut(line: str) -> str:
    if len(line) <= MOST:
        return line
    return line[:MOST].rpartition(" ")[0].rstrip(" ,;:،؛") or line[:MOST]
