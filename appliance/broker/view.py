"""The room a rehearsal runs in: the machine as it is, read-only, with throw-away copies where the workspace's user may write.

Rules: whatever a run does in here ends in one disk in memory of fixed size. It sees no process, no network, no socket and
no terminal of anybody else, for a process of the same user would be a way out (/proc/PID/root, kill, ptrace). The room is
whole before anything starts in it; where the kernel cannot build it, nothing starts at all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.broker import kernel

_FILES = 32_768  # in all copies together
_APART = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWPID | kernel.CLONE_NEWUTS
_PLAIN = kernel.MS_NOSUID | kernel.MS_NODEV


@dataclass(frozen=True)
class Room:
    """What to build. ``copied`` are the folders with a throw-away copy, the workspace first; ``hidden`` hold sockets.

    ``owned``: uid and gid of the workspace's user. ``person`` means without root: inside a user namespace of one's own.
    """

    copied: tuple[str, ...]
    hidden: tuple[str, ...]
    megabytes: int
    owned: tuple[int, int]
    person: bool


def keeper(room: Room) -> Callable[[int], None]:
    """The entry of a child of the broker: it builds the room and keeps it until it is killed.

    Descriptor 0 is a socket to the broker. It is told, in one packet, ``ok`` with a pidfd of the room's first process and
    descriptors of the workspace's upper layer and of its merged view; or why the room cannot be.
    """

    def entry(root: int) -> None:
        channel = socket.socket(fileno=0)
        step = "separate"
        try:
            _separate(room.person)
            child = os.fork()
            if child:
                channel.detach()
                os.closerange(0, 1 << 30)
                os.waitpid(child, 0)
                os._exit(0)
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            step = "furnish"
            fds = [os.pidfd_open(os.getpid()), *_furnish(room)]
            step = "close"
            _give_up_powers(room.person)
            socket.send_fds(channel, [b"ok"], fds)
            channel.detach()
        except OSError as error:
            channel.send(f"cannot {step} a view of the workspace: {error.strerror}".encode())
            os._exit(1)
        os.closerange(0, 1 << 30)
        _bury_the_dead()

    return entry


def _separate(person: bool) -> None:
    """Namespaces of our own; the next child is the first process in them."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(_APART | (kernel.CLONE_NEWUSER if person else 0))
    if person:
        # The same numbers inside: what the run makes belongs to the person.
        Path("/proc/self/setgroups").write_text("deny", "ascii")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", "ascii")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", "ascii")


def _furnish(room: Room) -> tuple[int, int]:
    """Mount everything. Descriptors of the workspace's upper layer and merged view. Raises OSError."""
    kernel.mount("none", "/", "none", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.all_read_only()
    with contextlib.ExitStack() as held:
        lower = [_opened(held, folder) for folder in room.copied]
        layer = _layer(held, room)
        _bind(layer, "tmp", "/tmp")  # noqa: S108 - it covers the machine's own
        for name, place in (("vartmp", "/var/tmp"), ("shm", "/dev/shm")):  # noqa: S108
            if Path(place).is_dir():
                _bind(layer, name, place)
        for number, folder in enumerate(room.copied):
            os.makedirs(folder, 0o755, exist_ok=True)  # noqa: PTH103 - only where the private /tmp has just covered it
            _overlay(lower[number], layer, number, folder, room)
        for place in room.hidden:
            if Path(place).is_dir() and place not in room.copied:
                kernel.mount(
                    "tmpfs", place, "tmpfs", _PLAIN | kernel.MS_NOEXEC | kernel.MS_RDONLY, "size=4k,nr_inodes=16"
                )
        kernel.mount(
            "devpts", "/dev/pts", "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"
        )
        kernel.mount("proc", "/proc", "proc", _PLAIN | kernel.MS_NOEXEC)
        kernel.loopback_up()
        upper = os.open(f"/proc/self/fd/{layer}/up0", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return upper, os.open(room.copied[0], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _layer(held: contextlib.ExitStack, room: Room) -> int:
    """The one disk in memory, with a folder for each place; it is covered at once, so no path leads to its root."""
    options = f"size={room.megabytes}m,nr_inodes={_FILES},mode=711"
    kernel.mount("tmpfs", "/tmp", "tmpfs", _PLAIN, options)  # noqa: S108
    layer = _opened(held, "/tmp")  # noqa: S108
    for name in ("tmp", "vartmp", "shm"):
        os.mkdir(name, dir_fd=layer)
        os.chmod(f"/proc/self/fd/{layer}/{name}", 0o1777)  # noqa: PTH101, S103 - as the machine's own
    return layer


def _overlay(lower: int, layer: int, number: int, folder: str, room: Room) -> None:
    """Copy-on-write over ``folder``. Features that leave marks of their own in the upper layer stay off."""
    like = os.fstat(lower)
    for name in (f"up{number}", f"work{number}"):
        os.mkdir(name, 0o700, dir_fd=layer)
    up = f"/proc/self/fd/{layer}/up{number}"
    if not room.person:
        os.chown(up, *room.owned)
    os.chmod(up, like.st_mode & 0o777)  # noqa: PTH101
    marks = "userxattr" if room.person else "redirect_dir=off,metacopy=off,index=off"
    options = f"lowerdir=/proc/self/fd/{lower},upperdir={up},workdir=/proc/self/fd/{layer}/work{number},{marks}"
    kernel.mount("overlay", folder, "overlay", _PLAIN, options)


def _bind(layer: int, name: str, place: str) -> None:
    kernel.mount(f"/proc/self/fd/{layer}/{name}", place, "none", kernel.MS_BIND)


def _opened(held: contextlib.ExitStack, folder: str) -> int:
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    held.callback(os.close, fd)
    return fd


def _give_up_powers(person: bool) -> None:
    """The first process only buries from here on."""
    if not person:
        kernel.drop_bounding(frozenset())
    kernel.set_capabilities(frozenset())
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if not person:  # a person's own children could not enter it then
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def _bury_the_dead() -> None:
    """Collect whoever is left to the first process of a process namespace, for as long as it lives."""
    while True:
        signal.sigwait({signal.SIGCHLD})
        for _ in _dead():
            pass


def _dead() -> Iterator[int]:
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            yield pid
