"""A child forked ahead of its order: it waits in a fresh group of its own, so that a run need not wait for the kernel.

Entering a group waits for every processor of the machine (cgroup_attach_lock of the kernel): 5 to 25 ms, measured, of the
30 ms that a start took. Rules: what waits holds one end of a socket and nothing else; it keeps the broker's user until its
order, so that no run can signal or trace it, and from then on goes the way of every child (:func:`launch.become`). It
takes one order in its life, and ends with the broker.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import gc
import marshal
import os
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NoReturn

from appliance.broker import fingerprint, kernel, launch
from appliance.broker.cgroups import Group
from appliance.broker.launch import Launch
from appliance.broker.processes import Processes
from appliance.errors import Invalid, Unavailable

# From an order to the next child, unless the run ends first: a fork would hold up the news that it has ended.
REST_SECONDS = 0.03
# One that is being made is ahead, in the kernel's queue, of any that would be made now.
READY_SECONDS = 0.03
_READY = b"+"
_CHANNEL = 3
_MOST_BYTES = 192 * 1024  # of an order: what came in one packet of the broker's, and a run's environment
_ALL_DESCRIPTORS = 1 << 30


@dataclass(frozen=True)
class Order:
    """What the child becomes. ``expected``: the fingerprints of the folder and the program that were approved."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    expected: tuple[str, str] | None = None


@dataclass(frozen=True)
class Spare:
    """One that waits, alone in its group."""

    pid: int
    group: Group
    channel: socket.socket

    def obey(self, order: Order, root: int, stdin: int, stdout: int, stderr: int) -> int:
        """Become what is ordered. Its pid once the program runs. Raises Invalid (it cannot run) or Unavailable (no process)."""
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                packet = marshal.dumps((order.argv, order.env, order.cwd, order.expected))
                rights = array.array("i", (root, stdin, stdout, stderr, write))
                self.channel.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            except OSError as error:
                raise Unavailable(f"cannot start a process: {error.strerror}") from error
            finally:
                self.channel.close()
                os.close(write)
            if problem := launch.await_exec(read):
                raise Invalid(problem, code="cannot_run")
        finally:
            os.close(read)
        return self.pid


class Spares:
    """Keeps one child ready, from the first run on. ``plan`` is what all runs have in common."""

    def __init__(self, processes: Processes, plan: Launch) -> None:
        self._processes, self._plan = processes, plan
        self._waiting: Spare | None = None
        self._due: float | None = None

    @contextlib.contextmanager
    def take(self) -> Iterator[Spare | None]:
        """The child that waits, for one order; None where none does. It goes, with its group, when the order fails."""
        self._due = time.monotonic() + REST_SECONDS
        spare = self._ready()
        try:
            yield spare
        except BaseException:
            if spare is not None:
                self._discard(spare)
            raise

    def pump(self) -> float | None:
        """Make the next one when it is time. Seconds until then."""
        if self._due is None:
            return None
        if (left := self._due - time.monotonic()) > 0:
            return left
        self._due = None
        if self._waiting is None:
            with contextlib.suppress(OSError):  # no process or no group to be had just now: runs start without
                self._waiting = self._made()
        return None

    def hurry(self) -> None:
        """A run has ended and been told of: this is the time to make the next one."""
        if self._due is not None:
            self._due = 0.0

    def close(self) -> None:
        """Make no more, and end the one that waits."""
        spare, self._waiting, self._due = self._waiting, None, None
        if spare is not None:
            self._discard(spare)

    def _ready(self) -> Spare | None:
        spare = self._waiting
        if spare is None:
            return None
        poller = select.poll()
        poller.register(spare.channel, select.POLLIN)
        events = poller.poll(READY_SECONDS * 1000)
        if not events:
            return None
        self._waiting = None
        if events[0][1] == select.POLLIN and spare.channel.recv(1) == _READY:
            return spare
        self._discard(spare)  # somebody killed it, or it could not enter its group
        return None

    def _made(self) -> Spare | None:
        group = self._processes.hierarchy.create(f"spare-{os.urandom(8).hex()}")
        if group is None:
            return None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                pid = os.fork()
                if pid == 0:
                    _wait(replace(self._plan, group=group), theirs.fileno())
        except OSError:
            ours.close()
            group.remove()
            raise
        return Spare(pid, group, ours)

    def _discard(self, spare: Spare) -> None:
        spare.channel.close()
        launch.end(spare.pid)
        self._processes.bury(spare.group.name)


def _wait(plan: Launch, channel: int) -> NoReturn:
    """The child: it enters its group, lets go of all but the socket, says so, and becomes what it is told to."""
    try:
        gc.disable()
        kernel.default_signals()
        # First of all: while it waits for the kernel it must not keep the broker's sockets open, should that one be killed.
        _hold_only(channel)
        launch.enter_group(plan)
        with socket.socket(fileno=_CHANNEL) as orders:
            orders.send(_READY)
            packet, ancillary, flags, _ = orders.recvmsg(_MOST_BYTES, socket.CMSG_SPACE(5 * 4))
        if packet and not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            argv, env, cwd, expected = marshal.loads(packet)  # noqa: S302 - the broker alone holds the other end
            root, stdin, stdout, stderr, report = array.array("i", ancillary[0][2])
            entry = fingerprint.check(expected[0], expected[1], argv[0]) if expected else None
            launch.become(
                replace(plan, argv=argv, env=env, cwd=cwd, root=root, stdin=stdin, stdout=stdout, stderr=stderr,
                        entry=entry, group=None, oom_score_adj=None),
                report,
                os.getppid(),
            )  # fmt: skip
    finally:
        os._exit(1)


def _hold_only(channel: int) -> None:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    kept = fcntl.fcntl(channel, fcntl.F_DUPFD_CLOEXEC, _CHANNEL + 1)
    for number in range(_CHANNEL):
        os.dup2(null, number, inheritable=False)
    os.dup2(kept, _CHANNEL, inheritable=False)
    os.closerange(_CHANNEL + 1, _ALL_DESCRIPTORS)
