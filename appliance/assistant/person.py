"""Who talks to the assistant, as far as this room needs to know.

Rule: made where a request is authenticated, never from what a request says.
"""

from __future__ import annotations

from dataclasses import dataclass

CONSOLE = "console"


@dataclass(frozen=True)
class Person:
    """``id`` is a user id or ``console``; ``role`` viewer, operator or admin; ``actor`` is how the audit log names them."""

    id: str
    name: str
    role: str
    actor: str

    @property
    def may_use_tools(self) -> bool:
        """A viewer chats; files and commands are for operators and admins (DECIDED 18)."""
        return self.role != "viewer"
