"""Who may see a run and who may decide one, checked here and nowhere else in this room.

Rule: only a person decides: in a session of their own, or root at the machine's console (POL-11).
"""

from __future__ import annotations

from appliance.commands.asker import Asker
from appliance.commands.history import Run
from appliance.commands.model import Actor, Scope
from appliance.errors import Forbidden


def may_see(asker: Asker, run: Run) -> bool:
    """Operators and admins see every run; viewers, tokens and the assistant their own."""
    named = bool(asker.person or asker.token or asker.actor is Actor.AI)
    return sees_all(asker) or (asker.account == run.asker.account and named)


def sees_all(asker: Asker) -> bool:
    return asker.in_person and asker.role != "viewer"


def check_decider(decider: Asker, scope: Scope) -> None:
    """Raises Forbidden unless this is a person who may decide (POL-11, AUTH-10)."""
    if not decider.may_decide:
        raise Forbidden("only a person decides this", hint="Decide on the Commands page.", code="not_a_person")
    if decider.role == "viewer" or (scope == "host" and decider.role != "admin"):
        wanted = "admin" if scope == "host" else "operator"
        raise Forbidden(f"this needs the role {wanted}", hint="Ask an admin of this appliance.")
    if scope == "host" and decider.session and not decider.fresh:
        raise Forbidden(
            "this needs a fresh sign-in", hint="Sign in again, then repeat it within five minutes.", code="step_up"
        )


def check_rehearser(asker: Asker, scope: Scope) -> None:
    """Raises Forbidden unless this is a person who may try a command of the workspace without being asked (DECIDED 18)."""
    if not asker.may_decide:
        raise Forbidden("only a person rehearses a command", hint="Ask for it without a view.", code="not_a_person")
    if asker.role == "viewer":
        raise Forbidden("this needs the role operator", hint="Ask for the command; an operator decides.")
    if scope != "workspace":
        raise Forbidden("only commands of the workspace can be rehearsed", hint="Ask for it without a view.")
