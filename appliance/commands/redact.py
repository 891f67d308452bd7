"""Keeping secrets out of the audit log (LOG-5) and out of what the assistant is shown (AI-7).

Rule: redaction happens before a word leaves this room for the log or the model. It errs on the side of blanking; the run's own
record, which an approval is checked against, keeps every word.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from appliance.log import scrub

BLANK = "[redacted]"
LONGEST_WORD = 512
LONGEST_COMMAND = 4096  # characters of all its words: the log is kept for good
_NAMED = re.compile(
    r"(?i)((?:pass(?:word|wd|phrase)?|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credential|auth(?:orization)?|cookie|bearer)"
    r"[a-z0-9_-]*\s*[=: ]\s*(?:(?:bearer|basic|token)\s+)?)(\S+)"
)
_FLAG = re.compile(
    r"(?i)--?[a-z0-9-]*(?:pass(?:word|wd|phrase)?|secret|token|api-?key|credential|authorization|cookie)s?\Z"
)
_IN_URL = re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@]+@")
_KNOWN = re.compile(
    r"(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|sk-|rk_live_|sk_live_|AKIA|ASIA|AIza|npm_|pypi-|hf_|dop_v1_)[A-Za-z0-9_-]{10,}"
)
_DENSE = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}")
_DIGEST = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")  # commits and checksums are not secrets
# What stands between holds no other such mark: a file full of beginnings is read once, not from each of them.
_PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?:[^-]|-(?!----)){0,20000}(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)"
)
_BITS = 3.7  # per character: words and paths of people lie below, random base64 and hexadecimal of this length above


def stages(given: Sequence[Sequence[str]]) -> tuple[list[list[str]], int]:
    """A command as the audit log may keep it: its beginning, and how many words are left out of it."""
    found, room, left_out = [], LONGEST_COMMAND, 0
    for words in map(argv, given):
        kept = []
        for word in words:
            room -= len(word) + 1
            if room >= 0:
                kept.append(word)
        left_out += len(words) - len(kept)
        found.append(kept)
    return found, left_out


def argv(words: Iterable[str]) -> list[str]:
    """The words of a command without secrets."""
    found: list[str] = []
    blank_next = False
    for word in words:
        found.append(BLANK if blank_next else text(word))
        blank_next = bool(_FLAG.match(word))
    return found


def text(word: str) -> str:
    """One text with anything that looks like a secret blanked, and cut."""
    word = scrub(word[:LONGEST_WORD])
    word = _IN_URL.sub(rf"\1{BLANK}@", _KNOWN.sub(BLANK, word))
    word = _NAMED.sub(rf"\1{BLANK}", word)
    return _DENSE.sub(lambda found: BLANK if _random(found[0]) else found[0], word)


def body(words: str) -> str:
    """A longer text, such as what a command wrote, with anything that looks like a secret blanked, line by line and uncut."""
    words = _PEM.sub(BLANK, words)
    lines = (line for whole in words.split("\n") for line in _pieces(whole))
    return "".join(text(line) + end for line, end in lines).removesuffix("\n")


def _pieces(line: str) -> Iterable[tuple[str, str]]:
    """A line in parts that :func:`text` does not cut, each with what stands behind it."""
    while len(line) > LONGEST_WORD:
        at = line.rfind(" ", 1, LONGEST_WORD)
        at = LONGEST_WORD if at < 0 else at
        yield line[:at], ""
        line = line[at:]
    yield line, "\n"


def _random(word: str) -> bool:
    if _DIGEST.match(word) or not (any(map(str.isdigit, word)) and any(map(str.isalpha, word))):
        return False
    count = Counter(word)
    bits = -sum(n / len(word) * math.log2(n / len(word)) for n in count.values())
    return bits >= min(_BITS, math.log2(len(word)) * 0.8) and "/" not in word.strip("/")
