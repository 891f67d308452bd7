"""What the broker asks of a service runtime, and how a part joins the broker's one loop.

Rule: nothing here blocks. A backend answers at once with what it knows and reports the rest through ``notify``.

The loop: every registered descriptor carries ``data = callable(mask)``; the loop calls it when the descriptor is ready.
``pump`` is called after every turn and says in how many seconds it wants to be called again (None: only after events).
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from appliance.broker.protocol import Verb

SERVICES: tuple[str, ...] = ("ide", "proxy", "ai")
STATES: tuple[str, ...] = ("absent", "stopped", "starting", "running", "stopping", "failed")

Row = dict[str, Any]
"""``service state since pid exit_code signal started_by run_id memory_bytes memory_limit cpu_usec outdated``; unknown figures are
None. ``memory_limit``: in bytes, what holds it now.

``outdated``: it runs with a configuration that is not the present one, which a stop and a start would mend.
"""

Notify = Callable[[dict[str, Any]], None]
"""Sends one event (``{"event": NAME, ...}``) to every connected client."""


class ServiceBackend(Protocol):
    """One runtime: forked processes, systemd units or containers."""

    runtime: str

    def register(self, selector: selectors.BaseSelector) -> None:
        """Join the loop. Called once, before anything else; adopt what is already running."""

    def services(self) -> list[Row]:
        """One row per entry of SERVICES."""

    def start(self, service: str, model_mb: int | None, started_by: str, safe: bool = False) -> Row:
        """Start ``service`` with its share (appliance.broker.shares), after :meth:`share`; one that is already up keeps running.
        ``safe`` starts the IDE without the extensions people installed (R4). Raises CroftError."""

    def share(self, model_mb: int | None) -> None:
        """Write the limits of what runs, as far as what it holds allows. ``model_mb``: see :func:`appliance.broker.shares.plan`."""

    def stop(self, service: str, grace: float) -> Row:
        """Ask ``service`` to end and kill it ``grace`` seconds later. Answers at once (state ``stopping``)."""

    def logs(self, service: str) -> int:
        """A read-only descriptor of the service's log; the caller closes it. Raises CroftError where there is none."""

    def pump(self) -> float | None:
        """Do what has fallen due."""

    def verbs(self) -> Mapping[str, Verb]:
        """Verbs that only this runtime has."""

    def shutdown(self) -> None:
        """A deliberate end of the whole appliance has begun: begin to stop whatever must not outlive it."""

    def busy(self) -> bool:
        """Whether :meth:`shutdown` is still under way."""
