"""The verbs spawn, kill, freeze, thaw, runs and fingerprint: one execution as the workspace's user, bounded and reported.

Rule: a request chooses the programs, their words and their bounds; never the user, a folder outside the workspace or a
way to be killed late. Output goes through pipes that only the caller holds.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable
from typing import Any

from appliance.broker import environment
from appliance.broker.accounts import Accounts
from appliance.broker.backend import Notify
from appliance.broker.cgroups import Group, Limits
from appliance.broker.processes import Process, Processes
from appliance.broker.protocol import Field, Object, Peer, Reply, Verb, many, nested, one_of, table, text, whole, words
from appliance.broker.spawn import Container, Expected, Pipeline, Spawner, held
from appliance.broker.views import Views
from appliance.errors import Conflict, Invalid, NotFound, TooMany, Unavailable
from appliance.settings import Settings

MOST_RUNS = 16
MOST_STAGES = 8
MOST_LOOKS = 4
MOST_SECONDS = 3600
MOST_PIDS = 512
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)
_RUN = Field(text(r"run-[0-9a-f]{16}"))
_STAGES = many(MOST_STAGES, words(1024))


class Runs:
    """All runs of this broker."""

    def __init__(
        self,
        settings: Settings,
        accounts: Accounts,
        processes: Processes,
        notify: Notify,
        container: Callable[[], Container | None] | None = None,
    ) -> None:
        """``container`` says which is the IDE's where runs belong into one; None means on the host."""
        self._settings = settings
        self._accounts = accounts
        self._processes = processes
        self._notify = notify
        self._views = Views(settings, accounts, processes)
        self._spawner = Spawner(settings, accounts, processes, container, self._views)
        self._ended: deque[Object] = deque(maxlen=64)
        processes.on_gone("run", self._gone)

    def verbs(self) -> dict[str, Verb]:
        limits = {
            "seconds": Field(whole(1, MOST_SECONDS), False),
            "pids": Field(whole(1, MOST_PIDS), False),
            "memory_mb": Field(whole(16, most_memory_mb()), False),
        }
        expected = {
            "folder": Field(text(longest=64)),
            "programs": Field(many(MOST_STAGES, text())),
            "image": Field(text(longest=128), False),
        }
        return self._views.verbs() | {
            "spawn": Verb(
                self.spawn,
                {
                    "argv": Field(words(1024), False),
                    "stages": Field(_STAGES, False),
                    "run": Field(_RUN.check, False),
                    "cwd": Field(text(), False),
                    "env": Field(table(32), False),
                    "limits": Field(nested(limits), False),
                    "stdin": Field(one_of((None, "pipe")), False),
                    "view": Field(one_of(("plain", "rehearsal")), False),
                    "expected": Field(nested(expected), False),
                },
            ),
            "kill": Verb(self.kill, {"run": _RUN, "signal": Field(one_of([int(one) for one in _SIGNALS]), False)}),
            "freeze": Verb(self.freeze, {"run": _RUN}),
            "thaw": Verb(self.thaw, {"run": _RUN}),
            "runs": Verb(self.all),
            "fingerprint": Verb(self.fingerprint, {"programs": Field(words(MOST_STAGES)), "cwd": Field(text(), False)}),
        }

    def spawn(
        self,
        peer: Peer,
        argv: list[str] | None = None,
        stages: list[list[str]] | None = None,
        run: str = "",
        cwd: str = ".",
        env: dict[str, str] | None = None,
        limits: dict[str, int] | None = None,
        stdin: str | None = None,
        view: str = "plain",
        expected: dict[str, Any] | None = None,
    ) -> Reply:
        """Start a run. The answer carries pidfd, stdout, stderr and, if asked for, stdin. Raises CroftError."""
        bounds = {"seconds": 30, "pids": 64, "memory_mb": min(512, most_memory_mb())} | (limits or {})
        pipeline = _pipeline(argv, stages)
        name = run or f"run-{os.urandom(8).hex()}"
        if len(self._processes.of_kind("run")) >= MOST_RUNS:
            raise TooMany(f"{MOST_RUNS} commands are running already", retry_after=5)
        if self._processes.get(name) or any(one["run"] == name for one in self._ended):
            raise Conflict("there is a run of this name", code="exists")
        variables = environment.build(env or {}, self._accounts.workspace, str(self._settings.paths.ide_home), name)
        most = Limits(bounds["memory_mb"], None, bounds["pids"], swap=False)
        plan = Pipeline(
            name,
            pipeline,
            cwd or ".",
            variables,
            most,
            stdin == "pipe",
            _expected(expected, pipeline),
            bounds["seconds"] if view == "rehearsal" else 0.0,
        )
        with contextlib.ExitStack() as unsent:
            process, ends = self._spawner.start(plan)
            for fd in ends:
                held(unsent, fd)
            process.kill_at = process.began_at + bounds["seconds"]
            process.started_by, process.note = str(peer.uid), {"argv0": pipeline[0][0][:256]}
            self._processes.add(process)
            reply = Reply({"run": name, "pid": process.pid}, [os.dup(process.pidfd), *ends])
            unsent.pop_all()
        return reply

    def pump(self) -> float | None:
        """Make the next run's start short when there is nothing else to do. Seconds until then."""
        return self._spawner.spares.pump() if self._spawner.spares else None

    def close(self) -> None:
        """Start no more."""
        if self._spawner.spares:
            self._spawner.spares.close()

    def fingerprint(self, peer: Peer, programs: list[str], cwd: str = ".") -> Reply:
        """A descriptor to read ``{"image", "folder", "programs"}`` from: what a run here and now would start. Raises CroftError."""
        if len(self._processes.of_kind("look")) >= MOST_LOOKS:
            raise TooMany("too many commands are being looked at", retry_after=1)
        return Reply({}, [self._spawner.look(programs, cwd or ".")])

    def kill(self, peer: Peer, run: str, signal: int = 9) -> Reply:
        """Signal the first process of each stage; 9 kills everything the run started."""
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
        self._views.close(process.id)
        ended = {"run": process.id, **outcome(process)}
        self._ended.append(ended)
        self._notify({"event": "exit", **ended})
        if self._spawner.spares:
            self._spawner.spares.hurry()

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


def _pipeline(argv: list[str] | None, stages: list[list[str]] | None) -> tuple[tuple[str, ...], ...]:
    """The stages of a request. Raises Invalid."""
    if (argv is None) == (stages is None):
        raise Invalid("a run takes argv or stages")
    found = tuple(tuple(stage) for stage in (stages or [argv or []]))
    for stage in found:
        if not stage[0]:
            raise Invalid("the first word of a stage is empty")
        if "/" in stage[0] and not stage[0].startswith("/"):
            raise Invalid("the first word of a stage must be a bare name or an absolute path")
    return found


def _expected(given: dict[str, Any] | None, stages: tuple[tuple[str, ...], ...]) -> Expected | None:
    if given is None:
        return None
    if len(given["programs"]) != len(stages):
        raise Invalid("expected must name one program for each stage")
    return Expected(given["folder"], tuple(given["programs"]), given.get("image", ""))


def outcome(process: Process) -> dict[str, Any]:
    """``exit_code signal reason usage`` of a process that is gone, and the ``stages`` of a pipeline, each with its own
    ``exit_code`` and ``signal``. Times in usage are seconds."""
    found = dict(process.outcome)
    figures = found.pop("figures", {})
    statuses, wall = found.pop("statuses", [None]), found.pop("wall", None)
    whole_one = _split(_whole(statuses))
    starved = process.reason == "exit" and figures.get("oom_kills") and -signal.SIGKILL in statuses
    reason = "oom" if starved else process.reason
    stages = {"stages": [_split(one) for one in statuses]} if len(statuses) > 1 else {}
    return {**whole_one, **stages, "reason": reason, "usage": {"wall": wall, **found, **figures}}


def _whole(statuses: list[int | None]) -> int | None:
    """One status for a pipeline, as ``pipefail`` has it: the last that failed. A stage before the last that ended
    because nobody read on (SIGPIPE) did not fail."""
    if None in statuses:
        return None
    failed = [one for one in statuses[:-1] if one not in (0, -signal.SIGPIPE)] + statuses[-1:]
    return next((one for one in reversed(failed) if one), 0)


def _split(status: int | None) -> dict[str, int | None]:
    if status is None:
        return {"exit_code": None, "signal": None}
    return {"exit_code": status if status >= 0 else None, "signal": -status if status < 0 else None}


def most_memory_mb() -> int:
    """What one run may have at most: the machine less 256 MiB for the daemon and sshd (SYS-5)."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return max(64, total - 256)
