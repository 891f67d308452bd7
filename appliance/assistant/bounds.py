"""What a question may hold, and who may send what along.

Rule: checked before anything is kept or asked; a refusal says what would be taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from appliance.assistant.person import Person
from appliance.errors import Forbidden, Invalid

MOST_TEXT = 100_000
MOST_CHIPS = 20
MOST_CHIPS_TEXT = 400_000


def check_question(person: Person, text: str, context: Sequence[Mapping[str, Any]], tools: bool) -> None:
    """Raises Invalid, or Forbidden where the person may not use tools or send files along (DECIDED 18)."""
    if not text.strip():
        raise Invalid("there is no question", hint="Write one.", code="empty")
    if len(text) > MOST_TEXT:
        raise Invalid("the question is too long", hint=f"At most {MOST_TEXT} characters.", code="too_long")
    if (tools or context) and not person.may_use_tools:
        raise Forbidden("files and commands need the role operator", hint="Ask an admin of this appliance.")
    check_chips(context)


def check_chips(context: Sequence[Mapping[str, Any]]) -> None:
    """Raises Invalid when too much is sent along."""
    if len(context) > MOST_CHIPS or sum(len(str(one.get("text", ""))) for one in context) > MOST_CHIPS_TEXT:
        raise Invalid(
            "too much is sent along",
            hint=f"At most {MOST_CHIPS} pieces of {MOST_CHIPS_TEXT} characters together.",
            code="too_long",
        )
