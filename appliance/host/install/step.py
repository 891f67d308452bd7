"""One step of an installation, and the runner that takes them in order.

Rule: `check` looks and changes nothing; `apply` may run any number of times; `undo` takes back only what the
journal records.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from appliance.host.install.host import Console
from appliance.host.install.journal import Journal


class Step(Protocol):
    """What every step offers. ``id`` names it in the journal, ``title`` to people."""

    id: str
    title: str

    def check(self) -> bool:
        """Whether everything this step is for is already so."""

    def plan(self) -> list[str]:
        """Exactly what `apply` would do, one line each."""

    def apply(self) -> None:
        """Make it so."""

    def undo(self) -> None:
        """Take it back, as far as the journal says that it was done here."""


def apply_all(steps: Sequence[Step], console: Console) -> int:
    """Bring every step about; returns how many changed something. Raises InstallError from the one that failed."""
    changed = 0
    for number, step in enumerate(steps, 1):
        place = f"[{number:2}/{len(steps)}]"
        if step.check():
            console.say(f"{place} {step.title}: already so")
            continue
        console.say(f"{place} {step.title} ...")
        begun = time.monotonic()
        step.apply()
        changed += 1
        console.say(f"         done in {time.monotonic() - begun:.1f} s")
    return changed


def undo_all(steps: Sequence[Step], journal: Journal, console: Console) -> None:
    """Take everything back in reverse order; what fails stays in the journal for the next try."""
    begun = [step for step in steps if journal.touched(step.id)]
    for number, step in enumerate(reversed(begun), 1):
        console.say(f"[{number:2}/{len(begun)}] {step.title}: undo")
        step.undo()
        journal.forget(step.id)


def describe(steps: Sequence[Step], console: Console) -> None:
    """Print the exact plan."""
    for number, step in enumerate(steps, 1):
        if step.check():
            console.say(f"{number:2}. {step.title}: nothing to do")
            continue
        console.say(f"{number:2}. {step.title}:")
        for line in step.plan():
            console.say(f"      - {line}")
