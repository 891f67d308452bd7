"""Texts for people, as rooms hand them over: a key of the string catalogue and what to fill in.

Rule: a room never builds a sentence; whoever shows the message knows the reader's language.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

Params = Mapping[str, str | int | float]


class Message(Struct, frozen=True):
    """A text for people: a key of the string catalogue and what to fill into it."""

    key: str
    params: Params = field(default_factory=dict)
