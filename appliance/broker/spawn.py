"""Starting the stages of a run: in one group, joined by pipes of ours, all with the powers of the workspace's user.

Rule: nothing of a run starts before its group and limits stand, and a stage that cannot start takes the others along.
The last stage starts first, so that a missing program is noticed before the first one, which does the work, begins.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

from appliance.broker import fingerprint, kernel, layout
from appliance.broker.accounts import Accounts
from appliance.broker.cgroups import Group, Limits
from appliance.broker.launch import Inside, Launch, end, launch
from appliance.broker.processes import Process, Processes, Stage
from appliance.broker.spare import Order, Spare, Spares
from appliance.errors import Conflict, CroftError, Unavailable
from appliance.settings import Settings

MOST_FILE_BYTES = 4 << 30
_RLIMITS = ((resource.RLIMIT_NOFILE, 1024), (resource.RLIMIT_FSIZE, MOST_FILE_BYTES))


@dataclass(frozen=True)
class Expected:
    """The fingerprints an approval was given for: of the folder and of each stage's program, and the container's image."""

    folder: str
    programs: tuple[str, ...]
    image: str = ""


@dataclass(frozen=True)
class Pipeline:
    """What to start. ``stages`` are argument lists; ``cwd`` is relative to the workspace; ``rehearsal``: in a view."""

    name: str
    stages: tuple[tuple[str, ...], ...]
    cwd: str
    env: dict[str, str]
    limits: Limits
    stdin: bool
    expected: Expected | None = None
    rehearsal: float = 0.0  # seconds it may take, where it is one


class Container(NamedTuple):
    """The IDE's: its first process, and the id of the image it was made of."""

    pid: int
    image: str


class RoomMaker(Protocol):
    """Makes the views that rehearsals run in."""

    def open(self, run: str, root: int, seconds: float, container: Inside | None) -> Inside: ...

    def close(self, run: str, *, failed: bool = False) -> None: ...


class Spawner:
    """Starts runs, and looks at what one would start."""

    def __init__(
        self,
        settings: Settings,
        accounts: Accounts,
        processes: Processes,
        container: Callable[[], Container | None] | None,
        views: RoomMaker,
    ) -> None:
        """``container`` says which is the IDE's where runs belong into one; None means on the host."""
        self._views = views
        self._settings, self._accounts, self._processes, self._container = settings, accounts, processes, container
        kernel.last_capability()  # children are born knowing it
        account = accounts.workspace if accounts.switching else None
        self._powers = Launch((), -1, -1, -1, -1, account=account, rlimits=_RLIMITS, oom_score_adj=500)
        # Without another user for runs they could signal and trace what waits.
        keeps = container is None and accounts.switching
        self.spares = Spares(processes, self._powers) if keeps else None

    def start(self, plan: Pipeline) -> tuple[Process, list[int]]:
        """The run, and our ends of stdout, stderr and, if asked for, stdin. Raises CroftError; nothing is left then."""
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            base = self._base(theirs, plan.cwd)
            if plan.expected and plan.expected.image != base.image:
                raise Conflict(fingerprint.CHANGED, code="changed")
            if plan.rehearsal:
                base = replace(base, inside=self._views.open(plan.name, base.root, plan.rehearsal, base.inside))
                ours.callback(self._views.close, plan.name, failed=True)
            out, err = _pipe(ours, theirs), _pipe(ours, theirs)
            into = os.pipe2(os.O_CLOEXEC) if plan.stdin else (_null(),)
            held(theirs, into[0])
            kept = [out[0], err[0], *(held(ours, fd) for fd in into[1:])]
            spare = self._spare(theirs, plan, base)
            group = spare.group if spare else theirs.enter_context(fresh_group(self._processes, plan.name, plan.limits))
            began = time.clock_gettime(time.CLOCK_BOOTTIME)
            pids = self._launch_all(plan, base, group, spare, into[0], out[1], err[1])
            ours.pop_all()  # they are the caller's now
        process = Process(plan.name, "run", pids[0], 0, time.time(), group, began_at=began)
        process.later = [Stage(pid) for pid in pids[1:]]
        return process, kept

    def look(self, words: Sequence[str], cwd: str) -> int:
        """A descriptor to read the fingerprints of ``cwd`` and of the programs from (JSON). Raises CroftError."""
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            base = self._base(theirs, cwd)
            out = _pipe(ours, theirs)
            null = held(theirs, _null())
            name = f"look-{os.urandom(8).hex()}"
            group = theirs.enter_context(fresh_group(self._processes, name, Limits(128, None, 2)))
            pid = launch(
                self._plan(base, (), null, out[1], null, {}, cwd, group, fingerprint.report(words, base.image))
            )
            ours.pop_all()
        process = Process(name, "look", pid, 0, time.time(), group)
        process.kill_at = time.clock_gettime(time.CLOCK_BOOTTIME) + 2
        try:
            self._processes.add(process)
        except OSError:
            os.close(out[0])
            raise
        return out[0]

    def _launch_all(
        self,
        plan: Pipeline,
        base: _Base,
        group: Group | None,
        spare: Spare | None,
        stdin: int,
        stdout: int,
        stderr: int,
    ) -> list[int]:
        """Pids in the order of the stages."""
        pids: list[int] = []
        try:
            if spare:
                return [spare.obey(_order(plan), base.root, stdin, stdout, stderr)]
            with contextlib.ExitStack() as joints:
                after = stdout
                for number in reversed(range(len(plan.stages))):
                    before, joint = stdin, after
                    if number:
                        before, after = _pipe(joints, joints)
                    check = self._check(plan, number)
                    argv = plan.stages[number]
                    pids.append(launch(self._plan(base, argv, before, joint, stderr, plan.env, plan.cwd, group, check)))
        except CroftError as error:
            for pid in pids:
                end(pid)
            if group:
                group.kill()
            if error.message.endswith(fingerprint.CHANGED):
                raise Conflict(fingerprint.CHANGED, code="changed") from error
            raise
        return pids[::-1]

    def _spare(self, stack: contextlib.ExitStack, plan: Pipeline, base: _Base) -> Spare | None:
        """A child that waits, in its bounded group, where one may become this run. Raises Unavailable."""
        if self.spares is None or base.inside or len(plan.stages) > 1:
            return None
        spare = stack.enter_context(self.spares.take())
        if spare:
            _bound(spare.group, plan.limits)
        return spare

    def _check(self, plan: Pipeline, number: int) -> Callable[[int], None] | None:
        if plan.expected is None:
            return None
        return fingerprint.check(plan.expected.folder, plan.expected.programs[number], plan.stages[number][0])

    def _plan(
        self,
        base: _Base,
        argv: tuple[str, ...],
        stdin: int,
        stdout: int,
        stderr: int,
        env: dict[str, str],
        cwd: str,
        group: Group | None,
        entry: Callable[[int], None] | None,
    ) -> Launch:
        return replace(
            self._powers,
            argv=argv,
            root=base.root,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            group=group,
            inside=base.inside,
            entry=entry,
        )

    def _base(self, stack: contextlib.ExitStack, cwd: str) -> _Base:
        workspace = self._settings.paths.workspace
        root = held(stack, layout.open_folder(workspace, self._accounts.workspace.uid))
        if self._container is None:
            return _Base(root, None)
        container = self._container()
        if container is None:
            raise Unavailable("cannot run a command: the IDE is not running", code="ide_stopped")
        inside = enter(container.pid, str(workspace), self._accounts.workspace.uid)
        held(stack, inside.pidfd)
        return _Base(root, inside, container.image)


@dataclass(frozen=True)
class _Base:
    """Where runs start: the workspace's descriptor, and the container with its image's id if there is one."""

    root: int
    inside: Inside | None
    image: str = ""


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
        if group is not None:
            _bound(group, limits)
        yield group
    except BaseException:
        if group is not None:
            group.remove()
        raise


def _bound(group: Group, limits: Limits) -> None:
    try:
        group.limit(limits)
    except OSError as error:
        raise Unavailable(f"cannot limit the process: {error.strerror}") from error


def _order(plan: Pipeline) -> Order:
    expected = (plan.expected.folder, plan.expected.programs[0]) if plan.expected else None
    return Order(plan.stages[0], plan.env, plan.cwd, expected)


def held(stack: contextlib.ExitStack, fd: int) -> int:
    """``fd``, closed when ``stack`` ends."""
    stack.callback(os.close, fd)
    return fd


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    return held(ours, read), held(theirs, write)


def _null() -> int:
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
