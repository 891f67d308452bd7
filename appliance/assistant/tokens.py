"""How many tokens a text is: estimated from its letters, corrected by what the model itself counted.

Rule: an estimate errs upwards; a prompt that turns out too long is refused by the engine, one that is shorter costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ASCII_PER_TOKEN = 3.6  # of English and code, in the vocabularies of the models in the catalogue
OTHER_PER_TOKEN = 1.7  # Arabic, accents, signs
PER_MESSAGE = 6  # what a chat template puts around each
LOWEST, HIGHEST = 0.5, 4.0
_WEIGHT = 0.3


class Tokens:
    """Estimates for each model, learned while it answers."""

    def __init__(self) -> None:
        self._factors: dict[str, float] = {}

    def of(self, text: str, model: str = "") -> int:
        """Tokens of ``text``."""
        plain = sum(map(str.isascii, text))
        found = plain / ASCII_PER_TOKEN + (len(text) - plain) / OTHER_PER_TOKEN
        return int(found * self._factors.get(model, 1.0)) + 1

    def of_prompt(self, messages: Sequence[Mapping[str, Any]], model: str = "") -> int:
        """Tokens of a whole prompt."""
        return sum(self.of(_text(message), model) + PER_MESSAGE for message in messages)

    def learn(self, messages: Sequence[Mapping[str, Any]], counted: int, model: str) -> None:
        """Take in that the model counted ``counted`` tokens for this prompt."""
        text = sum(self.of(_text(message)) + PER_MESSAGE for message in messages)
        if counted < 16 or text < 16:
            return
        seen = min(HIGHEST, max(LOWEST, counted / text))
        before = self._factors.get(model)
        self._factors[model] = seen if before is None else before + _WEIGHT * (seen - before)

    def cut(self, text: str, most: int, model: str = "") -> str:
        """``text`` if it has at most ``most`` tokens, else its beginning and its end with a mark between."""
        if self.of(text, model) <= most:
            return text
        keep = max(0, int(len(text) * most / self.of(text, model)) - len(CUT))
        return text[: keep * 2 // 3] + CUT + text[len(text) - keep // 3 :]


CUT = "\n[... cut ...]\n"


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    calls = message.get("tool_calls")
    return (content if isinstance(content, str) else "") + (str(calls) if calls else "")
