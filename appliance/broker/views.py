"""Views: the rooms in which rehearsals run, and what is left of them for whoever looks at the result.

Rule: a view ends with its run. From then on two descriptors are all there is of it: one helper, as the workspace's user,
takes them once; what nobody takes is let go, for it lies in memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
import time
from dataclasses import dataclass

from appliance.broker import layout, view
from appliance.broker.accounts import Accounts
from appliance.broker.cgroups import Limits
from appliance.broker.launch import Inside, Launch, launch
from appliance.broker.processes import Process, Processes, now
from appliance.broker.protocol import Field, Peer, Reply, Verb, text
from appliance.broker.spawn import fresh_group, held
from appliance.errors import NotFound, TooMany, Unavailable
from appliance.settings import Settings

MOST_VIEWS = 4
MOST_HELPERS = 2
MOST_MB = 256
KEPT_SECONDS = 600.0
_BUILD_SECONDS = 3.0
_HELPER_MB = 256
_FILE_CLOCK = 5  # CLOCK_REALTIME_COARSE: what the kernel dates files by


@dataclass
class View:
    """``since`` is Unix time in nanoseconds, by the clock that dates files."""

    since: int
    pidfd: int
    upper: int
    merged: int
    ended_at: float | None = None


class Views:
    """All of them, by the name of their run."""

    def __init__(self, settings: Settings, accounts: Accounts, processes: Processes) -> None:
        self._settings, self._accounts, self._processes = settings, accounts, processes
        self._views: dict[str, View] = {}

    def verbs(self) -> dict[str, Verb]:
        return {"rehearsal": Verb(self.take, {"run": Field(text(r"run-[0-9a-f]{16}"), False)})}

    def open(self, run: str, root: int, seconds: float, container: Inside | None) -> Inside:
        """A fresh view for ``run``, on the host or inside ``container``. Raises TooMany, Unavailable (code ``no_view``)."""
        self._forget()
        if len(self._views) >= MOST_VIEWS:
            raise TooMany(f"{MOST_VIEWS} rehearsals are held already", retry_after=5)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            since = time.clock_gettime_ns(_FILE_CLOCK)
            process = self._keep(_keeper(run), root, theirs.fileno(), container)
            process.kill_at = now() + seconds + 30.0
            self._processes.add(process)
            theirs.close()
            try:
                fds = _answer(ours)
            except Unavailable:
                self._processes.stop(process, 0, "killed")
                raise
        self._views[run] = View(since, *fds)
        return Inside(fds[0], str(self._settings.paths.workspace), person=not self._accounts.switching)

    def close(self, run: str, *, failed: bool = False) -> None:
        """Its run is over: everything that is left in it dies. ``failed``: there is nothing to look at either."""
        if process := self._processes.get(_keeper(run)):
            self._processes.stop(process, 0, "killed")
        found = self._views.get(run)
        if found and failed:
            self._drop(run)
        elif found:
            found.ended_at = now()

    def take(self, peer: Peer, run: str = "") -> Reply:
        """A helper for the result of ``run``, once, or for merging alone. The answer carries its socket. Raises CroftError."""
        self._processes.end_stopped("merge")
        if len(self._processes.of_kind("merge")) >= MOST_HELPERS:
            raise TooMany("too many rehearsals are being looked at", retry_after=1)
        found = self._over(run) if run else None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as unsent:
            unsent.enter_context(ours)
            with theirs:
                since = {"since": found.since if found else 0}
                socket.send_fds(ours, [json.dumps(since).encode()], [found.upper, found.merged] if found else [])
                process = self._help(theirs.fileno())
            process.started_by = str(peer.uid)
            self._processes.add(process)
            unsent.pop_all()
        if found:
            self._drop(run)
        return Reply({}, [ours.detach()])

    def _over(self, run: str) -> View:
        found = self._views.get(run)
        if found is None:
            raise NotFound("nothing is left of this rehearsal")
        if found.ended_at is None or self._processes.get(_keeper(run)):
            raise Unavailable("this rehearsal is not over yet", code="not_over")
        return found

    def _keep(self, name: str, root: int, channel: int, container: Inside | None) -> Process:
        paths, person = self._settings.paths, not self._accounts.switching
        account = self._accounts.workspace
        room = view.Room(
            copied=(str(paths.workspace), str(paths.ide_home)),
            hidden=("/run", str(paths.run)),
            megabytes=_megabytes(),
            owned=(account.uid, account.gid),
            person=person,
        )
        return self._start(name, "view", root, channel, Limits(64, None, 8), entry=view.keeper(room), inside=container)

    def _help(self, channel: int) -> Process:
        switching = self._accounts.switching
        root = layout.open_folder(self._settings.paths.workspace, self._accounts.workspace.uid)
        try:
            return self._start(
                f"merge-{os.urandom(8).hex()}",
                "merge",
                root,
                channel,
                Limits(_HELPER_MB, None, 2),
                entry=_serve,
                network=not switching,
                account=self._accounts.workspace if switching else None,
                rlimits=((resource.RLIMIT_NPROC, 0),) if switching else (),
            )
        finally:
            os.close(root)

    def _start(self, name: str, kind: str, root: int, channel: int, limits: Limits, **how: object) -> Process:
        with contextlib.ExitStack() as stack:
            null = held(stack, os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
            group = stack.enter_context(fresh_group(self._processes, name, limits))
            plan = Launch((), root, channel, null, null, group=group, oom_score_adj=500, **how)  # type: ignore[arg-type]
            return Process(name, kind, launch(plan), 0, time.time(), group)

    def _forget(self) -> None:
        """Let go of what nobody asked for in time."""
        for run, found in list(self._views.items()):
            if found.ended_at is None and self._processes.get(_keeper(run)) is None:
                found.ended_at = now()  # its run never came to be
            if found.ended_at is not None and now() - found.ended_at > KEPT_SECONDS:
                self._drop(run)

    def _drop(self, run: str) -> None:
        found = self._views.pop(run)
        for fd in (found.pidfd, found.upper, found.merged):
            os.close(fd)


def _serve(root: int) -> None:
    """Loaded by the helper alone: hashing would cost the broker memory for as long as it lives."""
    from appliance.broker import rehearsal_helper

    rehearsal_helper.serve(root)


def _keeper(run: str) -> str:
    """The name of the process that keeps the view of ``run``: the next broker knows it too."""
    return run.replace("run-", "view-")


def _answer(channel: socket.socket) -> list[int]:
    """The three descriptors of a finished room. Raises Unavailable saying why there is none."""
    poller = select.poll()
    poller.register(channel, select.POLLIN)
    said: bytes = b""
    fds: list[int] = []
    if poller.poll(_BUILD_SECONDS * 1000):
        said, fds, _, _ = socket.recv_fds(channel, 4096, 3, socket.MSG_CMSG_CLOEXEC)
    if len(fds) == 3:
        return fds
    cause = said.decode("utf-8", "replace") or "cannot build a view of the workspace: it took too long"
    raise Unavailable(f"rehearsal is not available: {cause}", code="no_view")


def _megabytes() -> int:
    """Room for all copies of one run: memory, so at most a sixteenth of the machine's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return max(32, min(MOST_MB, total // 16))
