"""Telling systemd how we are (sd_notify(3)): ready, alive, stopping. Does nothing without systemd."""

from __future__ import annotations

import os
import socket


class Notifier:
    """Sends to the socket named in ``NOTIFY_SOCKET``; ``interval`` is how often to say we live, in seconds, or None."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        env = dict(os.environ) if environment is None else environment
        self._address = env.get("NOTIFY_SOCKET", "")
        usec = env.get("WATCHDOG_USEC", "")
        self.interval = int(usec) / 1e6 / 3 if usec.isascii() and usec.isdigit() and int(usec) else None

    def send(self, state: str) -> None:
        """Send e.g. ``READY=1``. A missing systemd is not an error."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto(state.encode(), address)
            except OSError:
                return
