"""Children forked ahead of their orders: each waits in a fresh group of its own, so that a run need not wait for the kernel.

Entering a group waits for every processor of the machine (cgroup_attach_lock of the kernel): 5 to 25 ms, measured, of the
30 ms that a start took. Rules: what waits holds one end of a socket and nothing else; it keeps the broker's user until its
order, so that no run can signal or trace it, and from then on goes the way of every child (:func:`launch.become`). It
takes one order in its life, and ends with the broker.
"""

from __future__ import annotations

import array
import contextlib
import marshal
import os
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NoReturn

from appliance.broker import fingerprint, launch
from appliance.broker.cgroups import Group
from appliance.broker.launch import Launch
from appliance.broker.nursery import CHANNEL, Nursery, hold_only
from appliance.broker.processes import Processes
from appliance.errors import Invalid, Unavailable

# How many wait: asked for together they share what the kernel makes them wait for, so that runs in a row find one.
KEPT = 4
FEW = 2  # with fewer left, more are asked for as soon as a run has ended
# From an order to asking for the next ones, unless the run ends first: making their groups would hold up the news of that.
REST_SECONDS = 0.03
# One that is being made is ahead, in the kernel's queue, of any that would be made now.
READY_SECONDS = 0.03
_READY = b"+"
_MOST_BYTES = 192 * 1024  # of an order: what came in one packet of the broker's, and a run's environment


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


@dataclass
class _Coming:
    """One that was asked for; its pid is the first thing it says."""

    group: Group
    channel: socket.socket
    pid: int = 0


class Spares:
    """Keeps children ready, from the first run on. ``plan`` is what all runs have in common."""

    def __init__(self, processes: Processes, plan: Launch) -> None:
        self._processes, self._nursery = processes, Nursery(plan, _wait)
        self._coming: list[_Coming] = []
        self._due: float | None = None

    @contextlib.contextmanager
    def take(self) -> Iterator[Spare | None]:
        """A child that waits, for one order; None where none does. It goes, with its group, when the order fails."""
        self._due = time.monotonic() + REST_SECONDS
        child = self._ready()
        try:
            yield Spare(child.pid, child.group, child.channel) if child else None
        except BaseException:
            if child is not None:
                self._discard(child)
            raise

    def pump(self) -> float | None:
        """Ask for those that are missing when it is time. Seconds until then."""
        if self._due is None:
            return None
        if (left := self._due - time.monotonic()) > 0:
            return left
        self._due = None
        with contextlib.suppress(OSError):  # no process or no group to be had just now: runs start without
            while len(self._coming) < KEPT and self._processes.hierarchy.contains:
                self._ask()
        return None

    def hurry(self) -> None:
        """A run has ended and been told of: ask for the next ones now rather than later, if few are left."""
        if self._due is not None and len(self._coming) < FEW:
            self._due = 0.0

    def close(self) -> None:
        """Ask for no more, and end those that wait."""
        self._nursery.close()
        coming, self._coming, self._due = self._coming, [], None
        for child in coming:
            self._discard(child)

    def _ready(self) -> _Coming | None:
        """The first that says so, within a time that is shorter than a start without."""
        deadline = time.monotonic() + READY_SECONDS
        while self._coming:
            poller = select.poll()
            for child in self._coming:
                poller.register(child.channel, select.POLLIN)
            events = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not events:
                return None
            fd, event = events[0]
            child = next(one for one in self._coming if one.channel.fileno() == fd)
            if not child.pid and (word := child.channel.recv(16)):
                child.pid = int(word)
                continue
            self._coming.remove(child)
            if event == select.POLLIN and child.channel.recv(1) == _READY:
                return child
            self._discard(child)  # somebody killed it, or it could not enter its group
        return None

    def _ask(self) -> None:
        group = self._processes.hierarchy.create(f"spare-{os.urandom(8).hex()}")
        if group is None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._nursery.ask(group, theirs)
        except OSError:
            ours.close()
            group.remove()
            raise
        self._coming.append(_Coming(group, ours))

    def _discard(self, child: _Coming) -> None:
        with child.channel, contextlib.suppress(BlockingIOError):
            if not child.pid:
                child.pid = int(child.channel.recv(16, socket.MSG_DONTWAIT) or 0)
        if child.pid:
            launch.end(child.pid)
        self._processes.bury(child.group.name)


def _wait(plan: Launch, channel: int) -> NoReturn:
    """The child: it lets go of all but the socket, tells its pid, enters its group, says so, and becomes what it is told to."""
    try:
        hold_only(channel)
        with socket.socket(fileno=CHANNEL) as orders:
            orders.send(str(os.getpid()).encode("ascii"))
            launch.enter(plan)
            orders.send(_READY)
            packet, ancillary, flags, _ = orders.recvmsg(_MOST_BYTES, socket.CMSG_SPACE(5 * 4))
        if packet and not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            argv, env, cwd, expected = marshal.loads(packet)  # noqa: S302 - the broker alone holds the other end
            root, stdin, stdout, stderr, report = array.array("i", ancillary[0][2])
            entry = fingerprint.check(expected[0], expected[1], argv[0]) if expected else None
            # The nursery has settled with ``plan``: another account, capabilities, limits or umask would not take hold here.
            launch.become(
                replace(plan, argv=argv, env=env, cwd=cwd, root=root, stdin=stdin, stdout=stdout, stderr=stderr,
                        entry=entry),
                report,
                os.getppid(),
                ready=True,
            )  # fmt: skip
    finally:
        os._exit(1)
