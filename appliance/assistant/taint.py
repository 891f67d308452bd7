"""Whether a conversation holds text that somebody else may have written (AI-3).

Rule: it errs towards yes, and never turns back to no while that text can still be in the context: a tainted assistant only loses what
would have run without a person.
"""

from __future__ import annotations

from collections.abc import Iterable

from appliance.assistant.messages import Message, Role, State

PASTED_CHARACTERS = 400
PASTED_LINES = 4


def tainted(path: Iterable[Message]) -> bool:
    """Whether anything of these messages came from a file, an output, a page or the clipboard."""
    return any(message.context or message.steps or _unknown(message) or _pasted(message) for message in path)


def _unknown(message: Message) -> bool:
    """An answer that Croft did not see the end of: the words are on disk, what had been looked at for them is not."""
    return message.state in (State.RUNNING, State.INTERRUPTED)


def _pasted(message: Message) -> bool:
    return message.role is Role.USER and pasted(message.text)


def pasted(text: str) -> bool:
    """Whether a question looks like more than somebody typed."""
    return len(text) > PASTED_CHARACTERS or text.count("\n") >= PASTED_LINES or "```" in text
