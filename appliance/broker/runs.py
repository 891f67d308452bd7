"""The verbs spawn, kill, freeze, thaw and runs: one execution as the workspace's user, bounded and reported.

Rule: a request chooses the program, its words and its bounds; never the user, a folder outside the workspace or a way
to be killed late. Output goes through pipes that only the caller holds.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from appliance.broker import environment, layout
from appliance.broker.accounts import Accounts
from appliance.broker.backend import Notify
from appliance.broker.cgroups import Group, Limits
from appliance.broker.launch import Inside, Launch, launch
from appliance.broker.processes import Process, Processes
from appliance.broker.protocol import Field, Object, Peer, Reply, Verb, nested, one_of, table, text, whole, words
from appliance.errors import Invalid, NotFound, TooMany, Unavailable
from appliance.settings import Settings

MOST_RUNS = 16
MOST_SECONDS = 3600
MOST_PIDS = 512
MOST_FILE_BYTES = 4 << 30
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)
_RUN = Field(text(r"run-[0-9a-f]{16}"))


class Runs:
    """All runs of this broker."""

    def __init__(
        self,
        settings: Settings,
        accounts: Accounts,
        processes: Processes,
        notify: Notify,
        container: Callable[[], int | None] | None = None,
    ) -> None:
        """``container`` says the pid of the IDE's container where runs belong into one; None means on the host."""
        self._container = container
        self._settings = settings
        self._accounts = accounts
        self._processes = processes
        self._notify = notify
        self._ended: deque[Object] = deque(maxlen=64)
        processes.on_gone("run", self._gone)

    def verbs(self) -> dict[str, Verb]:
        limits = {
            "seconds": Field(whole(1, MOST_SECONDS), False),
            "pids": Field(whole(1, MOST_PIDS), False),
            "memory_mb": Field(whole(16, most_memory_mb()), False),
        }
        return {
            "spawn": Verb(
                self.spawn,
                {
                    "argv": Field(words(1024)),
                    "cwd": Field(text(), False),
                    "env": Field(table(32), False),
                    "limits": Field(nested(limits), False),
                    "stdin": Field(one_of((None, "pipe")), False),
                    "view": Field(one_of(("plain",)), False),
                },
            ),
            "kill": Verb(self.kill, {"run": _RUN, "signal": Field(one_of([int(one) for one in _SIGNALS]), False)}),
            "freeze": Verb(self.freeze, {"run": _RUN}),
            "thaw": Verb(self.thaw, {"run": _RUN}),
            "runs": Verb(self.all),
        }

    def spawn(
        self,
        peer: Peer,
        argv: list[str],
        cwd: str = ".",
        env: dict[str, str] | None = None,
        limits: dict[str, int] | None = None,
        stdin: str | None = None,
        view: str = "plain",
    ) -> Reply:
        """Start a run. The answer carries pidfd, stdout, stderr and, if asked for, stdin. Raises CroftError."""
        bounds = {"seconds": 30, "pids": 64, "memory_mb": min(512, most_memory_mb())} | (limits or {})
        if "/" in argv[0] and not argv[0].startswith("/"):
            raise Invalid("argv[0] must be a bare name or an absolute path")
        if not argv[0]:
            raise Invalid("argv[0] is empty")
        if len(self._processes.of_kind("run")) >= MOST_RUNS:
            raise TooMany(f"{MOST_RUNS} commands are running already", retry_after=5)
        name = f"run-{os.urandom(8).hex()}"
        account = self._accounts.workspace
        variables = environment.build(env or {}, account, str(self._settings.paths.ide_home), name)
        most = Limits(bounds["memory_mb"], None, bounds["pids"], swap=False)
        with contextlib.ExitStack() as unsent:
            process, ends = self._launch(name, argv, cwd or ".", variables, most, stdin)
            for fd in ends:
                held(unsent, fd)
            process.kill_at = process.began_at + bounds["seconds"]
            process.started_by, process.note = str(peer.uid), {"argv0": argv[0][:256]}
            self._processes.add(process)
            reply = Reply({"run": name, "pid": process.pid}, [os.dup(process.pidfd), *ends])
            unsent.pop_all()
        return reply

    def kill(self, peer: Peer, run: str, signal: int = 9) -> Reply:
        """Signal the run's first process; 9 kills everything the run started."""
        process = self._find(run)
        if signal == 9:
            self._processes.stop(process, 0, "killed")
        else:
            process.send(signal)
        return Reply()

    def freeze(self, peer: Peer, run: str) -> Reply:
        self._group(run).freeze()
        return Reply()

    def thaw(self, peer: Peer, run: str) -> Reply:
        self._group(run).thaw()
        return Reply()

    def all(self, peer: Peer) -> Reply:
        """Live runs, and the last 64 that ended: a daemon that was away learns what became of its own."""
        found = self._processes.of_kind("run")
        live = [{"run": one.id, "pid": one.pid, "since": one.since, **one.note} for one in found]
        return Reply({"runs": live, "ended": list(self._ended)})

    def _gone(self, process: Process) -> None:
        ended = {"run": process.id, **outcome(process)}
        self._ended.append(ended)
        self._notify({"event": "exit", **ended})

    def _launch(
        self, name: str, argv: list[str], cwd: str, env: dict[str, str], limits: Limits, stdin: str | None
    ) -> tuple[Process, list[int]]:
        workspace = self._settings.paths.workspace
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            root = held(theirs, layout.open_folder(workspace, self._accounts.workspace.uid))
            ends = [_pipe(ours, theirs) for _ in ("stdout", "stderr")]
            into = os.pipe2(os.O_CLOEXEC) if stdin == "pipe" else (os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC),)
            held(theirs, into[0])
            kept = [ends[0][0], ends[1][0], *(held(ours, fd) for fd in into[1:])]
            inside = self._inside(str(workspace))
            if inside:
                held(theirs, inside.pidfd)
            group = theirs.enter_context(fresh_group(self._processes, name, limits))
            began = time.clock_gettime(time.CLOCK_BOOTTIME)
            pid = launch(
                Launch(
                    tuple(argv),
                    root,
                    into[0],
                    ends[0][1],
                    ends[1][1],
                    env=env,
                    cwd=cwd,
                    group=group,
                    inside=inside,
                    oom_score_adj=500,
                    account=self._accounts.workspace if self._accounts.switching else None,
                    rlimits=((resource.RLIMIT_NOFILE, 1024), (resource.RLIMIT_FSIZE, MOST_FILE_BYTES)),
                )
            )
            ours.pop_all()  # they are the caller's now
        return Process(name, "run", pid, 0, time.time(), group, began_at=began), kept

    def _inside(self, workspace: str) -> Inside | None:
        """The container to run in. Raises Unavailable while the IDE is not running."""
        if self._container is None:
            return None
        pid = self._container()
        if pid is None:
            raise Unavailable("cannot run a command: the IDE is not running", code="ide_stopped")
        return enter(pid, workspace, self._accounts.workspace.uid)

    def _find(self, run: str) -> Process:
        process = self._processes.get(run)
        if process is None:
            raise NotFound("there is no such run")
        return process

    def _group(self, run: str) -> Group:
        group = self._find(run).group
        if group is None:
            raise Unavailable("cannot freeze a run: cgroups cannot be written on this machine")
        return group


def enter(pid: int, workspace: str, uid: int) -> Inside:
    """The container whose first process is ``pid``: it must be ``uid``'s and not on the host. Raises Unavailable."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise Unavailable("cannot run a command: the IDE has just stopped", code="ide_stopped") from error
    try:
        place = Path(f"/proc/{pid}")
        if place.stat().st_uid == uid and not place.joinpath("ns/pid").samefile("/proc/self/ns/pid"):
            return Inside(pidfd, workspace)
    except FileNotFoundError:
        pass  # it ended just now, which is refused like a process that is not the container's
    os.close(pidfd)
    raise Unavailable("cannot run a command: the IDE's container is not what it should be", code="ide_stopped")


@contextlib.contextmanager
def fresh_group(processes: Processes, name: str, limits: Limits) -> Iterator[Group | None]:
    """A new group with its limits, removed again when nothing comes to run in it. Raises Unavailable if refused."""
    if processes.get(name) is None:
        processes.hierarchy.group(name).remove()  # what a start that failed half-way left behind
    group = processes.hierarchy.create(name)
    try:
        try:
            if group is not None:
                group.limit(limits)
        except OSError as error:
            raise Unavailable(f"cannot limit the process: {error.strerror}") from error
        yield group
    except BaseException:
        if group is not None:
            group.remove()
        raise


def held(stack: contextlib.ExitStack, fd: int) -> int:
    """``fd``, closed when ``stack`` ends."""
    stack.callback(os.close, fd)
    return fd


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    return held(ours, read), held(theirs, write)


def outcome(process: Process) -> dict[str, Any]:
    """``exit_code signal reason usage`` of a process that is gone. Times in usage are seconds."""
    found = dict(process.outcome)
    figures = found.pop("figures", {})
    figures.pop("memory_bytes", None)
    code, number, wall = found.pop("exit_code", None), found.pop("signal", None), found.pop("wall", None)
    starved = process.reason == "exit" and number == signal.SIGKILL and figures.get("oom_kills")
    reason = "oom" if starved else process.reason
    return {"exit_code": code, "signal": number, "reason": reason, "usage": {"wall": wall, **found, **figures}}


def most_memory_mb() -> int:
    """What one run may have at most: the machine less 256 MiB for the daemon and sshd (SYS-5)."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return max(64, total - 256)
