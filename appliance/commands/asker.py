"""Who asks for a command: carried from the request to the audit record, and looked up again when a run starts.

Rule: an Asker is made where a request is authenticated, never from what a request says.
"""

from __future__ import annotations

from msgspec import Struct

from appliance.commands.model import Actor, Role

CONSOLE = "console"


class Asker(Struct, frozen=True):
    """``person`` is a user's id (empty for the console and the registry), ``session`` and ``token`` the id of what it came by.

    ``fresh``: the person proved who they are within the last five minutes. ``unattended``: nobody is there, the clock asks;
    then only what the rules allow runs by itself, and a lease, given to a person at work, is not used. ``tainted``: what asks has read
    what others wrote (a file, an output, pasted text); then only what reads runs by itself, and no lease is used (AI-3).
    ``picked``: the assistant wrote the line and a person chose to run it.
    """

    actor: Actor
    role: Role
    person: str = ""
    name: str = ""
    session: str = ""
    token: str = ""
    address: str = ""
    fresh: bool = False
    unattended: bool = False
    tainted: bool = False
    picked: bool = False

    @property
    def account(self) -> str:
        """Whose budget and whose history it is: a token has its own, whoever made it."""
        if self.token:
            return f"token:{self.token}"
        if self.actor is Actor.HUMAN:
            return f"user:{self.person or CONSOLE}"
        return f"{self.actor}:{self.person}"

    @property
    def auditor(self) -> str:
        """The actor as the audit log names it."""
        if self.token:
            return f"token:{self.token}"
        if self.actor is Actor.HUMAN:
            return self.person or CONSOLE
        return f"{self.actor}:{self.person}" if self.person else str(self.actor)

    @property
    def in_person(self) -> bool:
        """Whether a person asks by themselves, and not a token or the assistant in their name."""
        return self.actor is Actor.HUMAN and not self.token

    @property
    def may_decide(self) -> bool:
        """Whether it is a person in a session of their own, or root at the console: nobody else approves (POL-11)."""
        return self.in_person and bool(self.session or not self.person)
