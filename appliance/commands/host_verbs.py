"""What may be asked of the machine itself: a closed list of typed verbs, built in.

Rule: a verb is carried out by the daemon through its own parts, never by starting a program with these words. Policy only says who
may use which, and whether it asks (SECURITY 5.2, 7).
"""

from __future__ import annotations

from collections.abc import Mapping

# The words of a verb, and whether it only looks.
HOST_VERBS: Mapping[tuple[str, ...], bool] = {
    ("service", "list"): True,
    ("service", "logs"): True,
    ("service", "start"): False,
    ("service", "stop"): False,
    ("service", "restart"): False,
    ("unit", "status"): True,
    ("journal",): True,
    ("disk", "usage"): True,
    ("memory", "usage"): True,
}
