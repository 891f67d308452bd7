"""The verb tools: one look at, or change of, the toolchains in the workspace's home, as its user.

It works on the host's side of the home in both runtimes, so that it needs no container; what runs is our own program
and uv, with words from a closed form (docs/decisions/0017-tools.md).

Rule: nothing that the workspace's account may write is started here. Whoever asked holds the only socket to it; closing
that ends the work.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from dataclasses import replace

from appliance.broker import environment, layout
from appliance.broker.accounts import Accounts
from appliance.broker.cgroups import Limits
from appliance.broker.launch import Launch, launch
from appliance.broker.processes import Process, Processes
from appliance.broker.protocol import Field, Peer, Reply, Verb, one_of, text
from appliance.broker.spawn import fresh_group, held
from appliance.errors import Invalid, TooMany
from appliance.settings import Settings

MOST = 4  # one that changes something, and looks
SECONDS = 1800
_LIMITS = Limits(1024, None, 64)


class ToolHelpers:
    """Starts appliance/host/tools.py."""

    def __init__(self, settings: Settings, accounts: Accounts, processes: Processes, *, apart: bool = False) -> None:
        """``apart``: this broker may have a network of its own, from where nothing can be fetched."""
        self._settings, self._accounts, self._processes, self._apart = settings, accounts, processes, apart

    def verbs(self) -> dict[str, Verb]:
        takes = {
            "action": Field(one_of(("list", "add", "remove"))),
            "name": Field(text(r"[a-z]{1,16}"), False),
            "series": Field(text(r"[0-9]{1,4}(\.[0-9]{1,4})?"), False),
        }
        return {"tools": Verb(self.start, takes)}

    def start(self, peer: Peer, action: str, name: str = "", series: str = "") -> Reply:
        """The answer carries the socket that the helper writes lines of JSON to. Raises CroftError."""
        if (action == "list") != (not name) or bool(name) != bool(series):
            raise Invalid("list takes no name; add and remove take a name and a series")
        self._processes.end_stopped("tools")
        if len(self._processes.of_kind("tools")) >= MOST:
            raise TooMany("too many tool helpers are running", retry_after=1)
        run = f"tools-{os.urandom(8).hex()}"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                process = self._launch(run, (action, *filter(None, (name, series))), theirs.fileno())
            except BaseException:
                ours.close()
                raise
        process.started_by = str(peer.uid)
        process.kill_at = time.clock_gettime(time.CLOCK_BOOTTIME) + SECONDS
        self._processes.add(process)
        return Reply({}, [ours.detach()])

    def _launch(self, run: str, words: tuple[str, ...], channel: int) -> Process:
        home, workspace = self._settings.paths.ide_home, self._accounts.workspace
        argv = (sys.executable, "-I", "-m", "appliance.host.tools", *words)
        with contextlib.ExitStack() as stack:
            root = held(stack, layout.open_folder(home, workspace.uid))
            null = held(stack, os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
            group = stack.enter_context(fresh_group(self._processes, run, _LIMITS))
            account = workspace if self._accounts.switching else None
            env = environment.build({}, workspace, str(home), run)
            plan = Launch(argv, root, null, channel, null, env, account=account, group=group, oom_score_adj=500)
            pid = launch(replace(plan, machine=self._apart))
        return Process(run, "tools", pid, 0, time.time(), group)
