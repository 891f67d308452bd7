"""Machines as the installer sees them."""

from __future__ import annotations

import dataclasses

from appliance.host.machine import Machine


def small(**changes: object) -> Machine:
    """A VPS with 2 GB, but for ``changes``."""
    machine = Machine(
        "debian", "13", "Debian 13", "x86_64", (3, 13), True, "", 2000, 0, 2, frozenset({"avx2"}), 15_000, False, False
    )
    return dataclasses.replace(machine, **changes)  # type: ignore[arg-type]
