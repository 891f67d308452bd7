"""The verb files: a helper as the workspace's user, reached through a socket pair.

Rule: the broker itself opens nothing beneath the workspace; it only hands the folder's descriptor to the helper.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time

from appliance.broker import files_helper, layout
from appliance.broker.accounts import Accounts
from appliance.broker.cgroups import Limits
from appliance.broker.launch import Launch, launch
from appliance.broker.processes import Process, Processes
from appliance.broker.protocol import Peer, Reply
from appliance.broker.spawn import fresh_group, held
from appliance.errors import TooMany
from appliance.settings import Settings

MOST_HELPERS = 4
_MEMORY_MB = 128


class Files:
    """Starts file helpers. Each lives until its client closes the socket."""

    def __init__(self, settings: Settings, accounts: Accounts, processes: Processes) -> None:
        self._settings = settings
        self._accounts = accounts
        self._processes = processes

    def open(self, peer: Peer) -> Reply:
        """Start one helper. The answer carries its socket. Raises CroftError."""
        self._processes.end_stopped("files")
        if len(self._processes.of_kind("files")) >= MOST_HELPERS:
            raise TooMany("too many file helpers are open", retry_after=1)
        name = f"files-{os.urandom(8).hex()}"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = self._launch(name, theirs.fileno())
        process.started_by = str(peer.uid)
        self._processes.add(process)
        return Reply({}, [ours.detach()])

    def _launch(self, name: str, channel: int) -> Process:
        switching = self._accounts.switching
        with contextlib.ExitStack() as stack:
            root = held(stack, layout.open_folder(self._settings.paths.workspace, self._accounts.workspace.uid))
            null = held(stack, os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
            group = stack.enter_context(fresh_group(self._processes, name, Limits(_MEMORY_MB, None, 2)))
            pid = launch(
                Launch(
                    (),
                    root,
                    channel,
                    null,
                    null,
                    group=group,
                    oom_score_adj=500,
                    network=not switching,
                    account=self._accounts.workspace if switching else None,
                    umask=0o022,
                    entry=files_helper.serve,
                    rlimits=((resource.RLIMIT_NPROC, 0),) if switching else (),
                )
            )
        return Process(name, "files", pid, 0, time.time(), group)
