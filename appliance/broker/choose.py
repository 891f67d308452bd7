"""Which runtime this machine gets.

Rule: decided once at start, from the settings and what the machine is; a backend is imported only when it is used.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from appliance.broker.accounts import Accounts
from appliance.broker.backend import Notify, ServiceBackend
from appliance.broker.logs import Logs
from appliance.broker.processes import Processes
from appliance.settings import Settings

ENGINE_SOCKET = "/run/docker.sock"


def runtime(settings: Settings) -> str:
    """``docker`` or ``process``; ``auto`` is docker if an engine answers here."""
    if settings.runtime != "auto":
        return settings.runtime
    return "docker" if os.geteuid() == 0 and _engine_answers() else "process"


def backend(
    settings: Settings, installed: bool, accounts: Accounts, processes: Processes, logs: Logs, notify: Notify
) -> ServiceBackend:
    """The backend for this machine. Raises CroftError."""
    if runtime(settings) == "docker":
        from appliance.broker.compose import ComposeBackend

        return ComposeBackend(settings, accounts, notify)
    if installed and accounts.switching and Path("/run/systemd/system").is_dir():
        from appliance.broker.units import UnitsBackend

        return UnitsBackend(settings, accounts, logs, notify)
    from appliance.broker.forked import ForkedBackend

    return ForkedBackend(settings, accounts, processes, logs, notify)


def _engine_answers() -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(ENGINE_SOCKET)
        except OSError:
            return False
    return True
