"""Start one process with exactly the powers it is given, and none of the broker's.

Rule: between fork and exec the child only takes powers away, in the one order that works, and any failure ends it
there: it never runs with more than was asked. A fork is safe because the broker has one thread, and cheap because it
is small.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from appliance.broker import kernel
from appliance.broker.accounts import Account
from appliance.broker.cgroups import Group
from appliance.errors import Invalid, Unavailable

SEARCH_PATH = ("/usr/local/bin", "/usr/bin", "/bin")
# Longest wait for exec. A program or folder on a hung file system of the workspace must not hold the broker up.
EXEC_SECONDS = 2.0
_DEATH_SECONDS = 0.5
_NO_CAPABILITIES: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Inside:
    """A container to start in: a pidfd of its first process, and the folder there that takes the place of ``root``.

    ``person``: it lies in a user namespace of the broker's own user, which only a child can enter; see :func:`_stand_in`.
    """

    pidfd: int
    folder: str
    person: bool = False


@dataclass(frozen=True)
class Launch:
    """A process to be: what to run, as whom, where, and how bounded. Descriptors stay the caller's.

    ``argv[0]`` is an absolute path or a bare name on SEARCH_PATH. ``cwd`` is relative to the folder that ``root``
    describes, without links. ``entry`` runs in the forked child with the descriptor of ``root``, with the child's powers: before the
    program, or in place of it when ``argv`` is empty. Without ``network`` it has one of its own with nobody else in it, where
    with ``loopback`` it may talk to itself; ``machine``: it has the machine's, also where the broker has another. ``account``
    None means no change of user. ``dies_with_parent`` sends it SIGTERM when the broker or supervisor that started it ends,
    however that ends. ``inside`` joins the namespaces of a container, whose seccomp and AppArmor profiles do not apply then
    (docs/threat-model.md).
    """

    argv: tuple[str, ...]
    root: int
    stdin: int
    stdout: int
    stderr: int
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "."
    account: Account | None = None
    group: Group | None = None
    rlimits: tuple[tuple[int, int], ...] = ()
    capabilities: frozenset[int] = _NO_CAPABILITIES
    oom_score_adj: int | None = None
    network: bool = True
    loopback: bool = False
    machine: bool = False
    umask: int = 0o022
    dies_with_parent: bool = False
    entry: Callable[[int], None] | None = None
    inside: Inside | None = None


def launch(plan: Launch) -> int:
    """Start it and return its pid once the program runs. Raises Invalid (it cannot run) or Unavailable (no process)."""
    read, write = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    try:
        with _children_inside(plan.inside):
            pid = os.fork()
            if pid == 0:
                become(plan, write, parent)
    except OSError as error:
        os.close(read)
        os.close(write)
        raise Unavailable(f"cannot start a process: {error.strerror}") from error
    os.close(write)
    try:
        problem = await_exec(read)
    finally:
        os.close(read)
    if problem:
        end(pid)
        raise Invalid(problem, code="cannot_run")
    return pid


_UNCOLLECTED: set[int] = set()


def end(pid: int) -> None:
    """Kill a child and collect it, now or at a later call: one that hangs in a file system may take for ever to die."""
    os.kill(pid, signal.SIGKILL)
    _UNCOLLECTED.add(pid)
    deadline = time.monotonic() + _DEATH_SECONDS
    while not _collected(pid) and time.monotonic() < deadline:
        time.sleep(0.005)
    for other in _UNCOLLECTED - {pid}:
        _collected(other)


def _collected(pid: int) -> bool:
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            return False
    except ChildProcessError:
        pass  # whoever waits for every child has had it
    _UNCOLLECTED.discard(pid)
    return True


@contextlib.contextmanager
def _children_inside(inside: Inside | None) -> Iterator[None]:
    """Forked in here, a child is born in the container's process namespace; the broker itself stays where it is."""
    if inside is None or inside.person:
        yield
        return
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.setns(inside.pidfd, kernel.CLONE_NEWPID)
        try:
            yield
        finally:
            kernel.setns(own, kernel.CLONE_NEWPID)
    finally:
        os.close(own)


def await_exec(read: int) -> str:
    """Empty when the pipe closed on exec; else why it did not come to that."""
    poller = select.poll()
    poller.register(read, select.POLLIN)
    if not poller.poll(EXEC_SECONDS * 1000):
        return "cannot run the program: it did not start in time"
    return os.read(read, 4096).decode("utf-8", "replace")


def become(plan: Launch, report: int, parent: int, *, ready: bool = False) -> NoReturn:
    """The child. Writes why it failed to ``report``, which closes by itself on exec. ``ready``: it has entered and settled."""
    step = "prepare"
    try:
        if not ready:
            enter(plan)
            settle(plan)
        if plan.inside:
            step = "enter the container of"
            if plan.inside.person:
                kernel.setns(plan.inside.pidfd, kernel.CLONE_NEWUSER)
                kernel.setns(plan.inside.pidfd, kernel.CLONE_NEWPID)
            kernel.setns(plan.inside.pidfd, _JOINED)
        report = _place_descriptors(plan, report)
        if plan.inside and plan.inside.person:
            _stand_in()
        step = "limit"
        if plan.machine:
            kernel.join_machine()
        if not plan.network:
            kernel.unshare(kernel.CLONE_NEWNET)
            if plan.loopback:
                kernel.loopback_up()
        step = "drop the privileges of"
        _drop(plan)
        if plan.dies_with_parent:
            _die_with(parent)
        step = "open the folder of"
        if plan.inside:
            _enter_root(plan.inside.folder)
        folder = kernel.open_beneath(_ROOT, plan.cwd, os.O_PATH | os.O_DIRECTORY, links=False)
        os.fchdir(folder)
        os.close(folder)
        step = "run"
        if not plan.argv:
            os.close(report)
        if plan.entry:
            plan.entry(_ROOT)
        if plan.argv:
            os.close(_ROOT)
            _exec(plan)
        os._exit(0)
    except OSError as error:
        _write_all(report, f"cannot {step} the program: {error.strerror}")
    except BaseException as error:  # noqa: BLE001 - nothing may unwind into the broker's own frames
        _write_all(report, f"cannot {step} the program: {type(error).__name__}")
    finally:
        os._exit(127)


def enter(plan: Launch) -> None:
    """Its own session and group, before the child does anything for its order: all that takes is counted. Raises OSError."""
    os.setsid()
    for path in plan.group.join_paths() if plan.group else ():
        _write(path, "0")
    if plan.oom_score_adj is not None:
        _prefer_to_keep(plan.oom_score_adj)


def settle(plan: Launch) -> None:
    """What a child inherits from whoever did it before, so that it may be done ahead. Raises OSError."""
    kernel.default_signals()
    os.umask(plan.umask)
    for which, value in ((resource.RLIMIT_CORE, 0), *plan.rlimits):
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    if plan.account is not None:
        kernel.drop_bounding(plan.capabilities)
        os.setgroups(plan.account.groups)


_JOINED = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
_ROOT = 3  # where the child keeps the descriptor of the folder it starts beneath
_ALL_DESCRIPTORS = 1 << 30  # one close_range(2), whatever the limit is


def _prefer_to_keep(score: int) -> None:
    """Lowering the score takes CAP_SYS_RESOURCE, which root lacks in many containers: better exposed than not up."""
    try:
        _write("/proc/self/oom_score_adj", str(score))
    except PermissionError:
        if score > 0:
            raise


def _stand_in() -> None:
    """Returns in a child, which is born in the process namespace joined; we wait for it outside and end as it ends."""
    child = os.fork()
    if not child:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGTERM)
        kernel.set_capabilities(_NO_CAPABILITIES)
        return
    os.closerange(0, _ALL_DESCRIPTORS)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -status)
    os._exit(status if status >= 0 else 128 - status)


def _enter_root(folder: str) -> None:
    """The folder as the container mounts it. One from the host as working directory would lead out of it by ``..``."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.dup2(fd, _ROOT, inheritable=False)
    os.close(fd)


def _place_descriptors(plan: Launch, report: int) -> int:
    """0, 1, 2 and _ROOT as planned, ``report`` just above, everything else closed. Returns the new ``report``."""
    wanted = (plan.stdin, plan.stdout, plan.stderr, plan.root, report)
    # First out of the way of the numbers they will overwrite.
    safe = [_above(fd) for fd in wanted]
    for number, fd in enumerate(safe):
        os.dup2(fd, number, inheritable=number < _ROOT)
    os.closerange(len(wanted), _ALL_DESCRIPTORS)
    return len(wanted) - 1


def _above(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)


def _drop(plan: Launch) -> None:
    """Change user, give up every capability but the planned ones, for good (no_new_privs); :func:`settle` came before."""
    if plan.account is not None:
        if plan.capabilities:
            kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
        os.setresgid(plan.account.gid, plan.account.gid, plan.account.gid)
        os.setresuid(plan.account.uid, plan.account.uid, plan.account.uid)
        kernel.set_capabilities(plan.capabilities)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)


def _die_with(parent: int) -> None:
    """After the change of user, which would undo it. The check closes the gap before it."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise ProcessLookupError(3, "its parent has ended")


def _exec(plan: Launch) -> NoReturn:
    program = plan.argv[0]
    if "/" in program:
        os.execve(program, plan.argv, plan.env)  # noqa: S606 - no shell is the point
    failure: OSError = FileNotFoundError(2, "No such file or directory")
    for folder in SEARCH_PATH:
        try:
            os.execve(f"{folder}/{program}", plan.argv, plan.env)  # noqa: S606
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            failure = error
    raise failure


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)


def _write_all(fd: int, text: str) -> None:
    try:
        os.write(fd, text.encode("utf-8", "replace")[:4096])
    except OSError:
        sys.stderr.write(text)
