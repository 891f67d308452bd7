"""The process that spares are born of: forked from the broker once, it does nothing but fork.

Why: whatever the broker touches after a fork the kernel copies for it, page by page, for as long as the child waits; with
a child for each run that was half of all that a run cost. Rules: it holds one end of a socket and nothing else, and ends
with the broker; its children are the broker's own (:func:`kernel.fork_sibling`), which waits for them as for any other.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import marshal
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from appliance.broker import kernel, launch
from appliance.broker.cgroups import Group
from appliance.broker.launch import Launch

CHANNEL = 3  # where a process of ours that waits keeps its socket
_ALL_DESCRIPTORS = 1 << 30
_MOST_BYTES = 8192

Entry = Callable[[Launch, int], NoReturn]


class Nursery:
    """Started with the first child that is asked for. ``entry`` is what each does, with its group and its descriptor."""

    def __init__(self, plan: Launch, entry: Entry) -> None:
        self._plan, self._entry = plan, entry
        self._socket: socket.socket | None = None
        self._pid = 0

    def ask(self, group: Group, channel: socket.socket) -> None:
        """Have a child born, soon, that holds ``channel`` and is to enter ``group``. Raises OSError."""
        packet = marshal.dumps({name: str(folder) for name, folder in group.folders.items()})
        try:
            self._send(packet, channel)
        except OSError:  # somebody killed it
            self.close()
            self._send(packet, channel)

    def _send(self, packet: bytes, channel: socket.socket) -> None:
        self._socket = self._socket or self._begin()
        socket.send_fds(self._socket, [packet], [channel.fileno()], socket.MSG_DONTWAIT)

    def close(self) -> None:
        """End it; those born of it live on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            launch.end(self._pid)

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._pid = os.fork()
            except OSError:
                ours.close()
                raise
            if self._pid == 0:
                _tend(self._plan, theirs.fileno(), self._entry)
        return ours


def _tend(plan: Launch, requests: int, entry: Entry) -> NoReturn:
    try:
        gc.disable()
        signal.set_wakeup_fd(-1)
        hold_only(requests)
        launch.settle(plan)
        with socket.socket(fileno=CHANNEL) as asked:
            while True:
                packet, fds, _, _ = socket.recv_fds(asked, _MOST_BYTES, 1)
                if not packet:
                    break
                folders = {name: Path(folder) for name, folder in marshal.loads(packet).items()}  # noqa: S302 - the broker's
                with contextlib.suppress(OSError):  # who asked finds the other end closed
                    if kernel.fork_sibling() == 0:
                        entry(replace(plan, group=Group(folders)), fds[0])
                os.close(fds[0])
    finally:
        os._exit(0)


def hold_only(descriptor: int) -> None:
    """Close everything but ``descriptor``, which is CHANNEL from now on; 0, 1 and 2 lead nowhere.

    First of all: what waits must not keep the broker's sockets open, should that one be killed.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    kept = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, CHANNEL + 1)
    for number in range(CHANNEL):
        os.dup2(null, number, inheritable=False)
    os.dup2(kept, CHANNEL, inheritable=False)
    os.closerange(CHANNEL + 1, _ALL_DESCRIPTORS)
