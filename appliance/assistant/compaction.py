"""Making a conversation fit the context of the model: what stays whole, what is cut, what is left out.

Rules: pure. The last question always stays; the newest turns stay before the oldest; what is left out is said, to the model in a line for
each question and to the person as a number. Contexts of one to four thousand tokens are the common case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.assistant.tokens import PER_MESSAGE, Tokens

UNKNOWN_CONTEXT = 4096
SMALLEST_ANSWER = 96
SMALLEST_STEPS = 64
_NOTE = "Before this, left out here, the person asked:"
_NOTE_SHARE = 8  # one part of so many of the budget
_LINE = 70  # characters of each question


@dataclass(frozen=True)
class Fitted:
    """A prompt. ``left_out``: how many turns are not in it; ``cut``: whether some text in it was shortened."""

    messages: list[dict[str, Any]]
    tokens: int
    left_out: int = 0
    cut: bool = False


def answer_room(context: int, most: int) -> int:
    """How many tokens of the context the answer may take."""
    return max(SMALLEST_ANSWER, min(most, (context or UNKNOWN_CONTEXT) // 3))


def fit(
    system: str,
    turns: Sequence[dict[str, Any]],
    steps: Sequence[dict[str, Any]],
    budget: int,
    tokens: Tokens,
    model: str,
) -> Fitted:
    """A prompt of at most about ``budget`` tokens. ``turns`` end with the question; ``steps`` are what was done for it since."""
    first = {"role": "system", "content": system}
    room = budget - tokens.of_prompt([first], model)
    # Where something was done for the question, that gets a third of the room at least.
    question, cut_question = _cut(turns[-1], room * 2 // 3 if steps else room, tokens, model)
    room -= tokens.of_prompt([question], model)
    done, cut_steps = _shorten(steps, max(SMALLEST_STEPS, room), tokens, model)
    room -= tokens.of_prompt(done, model)
    kept = _newest(turns[:-1], room, tokens, model)
    if len(kept) < len(turns) - 1:
        noted = budget // _NOTE_SHARE
        kept = _newest(turns[:-1], room - noted, tokens, model)
        left = turns[: len(turns) - 1 - len(kept)]
        if note := _note(left, min(noted, room - tokens.of_prompt(kept, model)), tokens, model):
            first = {"role": "system", "content": f"{system}\n{note}"}
    messages = [first, *kept, question, *done]
    left_out = len(turns) - 1 - len(kept)
    return Fitted(messages, tokens.of_prompt(messages, model), left_out, cut_question or cut_steps)


def _newest(turns: Sequence[dict[str, Any]], room: int, tokens: Tokens, model: str) -> list[dict[str, Any]]:
    """As many of the last turns as fit, beginning with a question: an answer without one confuses."""
    at = len(turns)
    while at > 0 and (room := room - tokens.of_prompt([turns[at - 1]], model)) >= 0:
        at -= 1
    while at < len(turns) and turns[at]["role"] != "user":
        at += 1
    return list(turns[at:])


def _note(left: Sequence[Mapping[str, Any]], room: int, tokens: Tokens, model: str) -> str:
    lines: list[str] = []
    for turn in reversed(left):
        if turn["role"] != "user":
            continue
        line = "- " + " ".join(str(turn["content"]).rpartition("]\n\n")[2].split())[:_LINE]
        if tokens.of("\n".join([_NOTE, *lines, line]), model) > room:
            break
        lines.insert(0, line)
    return "\n".join([_NOTE, *lines]) if lines else ""


def _cut(message: dict[str, Any], most: int, tokens: Tokens, model: str) -> tuple[dict[str, Any], bool]:
    text = str(message.get("content") or "")
    shorter = tokens.cut(text, max(16, most - PER_MESSAGE), model)
    return ({**message, "content": shorter}, True) if shorter != text else (message, False)


def _shorten(
    steps: Sequence[dict[str, Any]], room: int, tokens: Tokens, model: str
) -> tuple[list[dict[str, Any]], bool]:
    """The steps, the oldest results cut first and most: the newest one is what the model has to go on."""
    done, cut = list(steps), False
    for at in range(len(done)):
        over = tokens.of_prompt(done, model) - room
        if over <= 0:
            break
        if done[at]["role"] == "assistant":
            continue  # its calls must stay as they are for the results to belong to
        size = tokens.of(str(done[at].get("content") or ""), model)
        done[at], shortened = _cut(done[at], max(24, size - over), tokens, model)
        cut = cut or shortened
    return done, cut
