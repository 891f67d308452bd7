"""Linux calls that Python 3.11 does not offer, by ctypes.

Rule: every call raises OSError with the kernel's errno; none is ignored, because each of them takes a power away.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
from functools import cache
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2

SYSTEMD, MACHINE = "/run/systemd/system", "/proc/1/ns/net"
CAP_NET_BIND_SERVICE = 10
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# openat2(2); the number is the same on every architecture since Linux 5.6.
SYS_OPENAT2 = 437
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

# clone3(2), Linux 5.3; the number is the same on every architecture.
_SYS_CLONE3 = 435
_CLONE_PARENT = 0x00008000

RENAME_NOREPLACE = 1

# mount_setattr(2), Linux 5.12; the number is the same on every architecture.
_SYS_MOUNT_SETATTR = 442
_AT_RECURSIVE = 0x8000
_MOUNT_ATTR_RDONLY = 1

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2

_CAPABILITY_VERSION_3 = 0x20080522

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_libc = ctypes.CDLL(None, use_errno=True)
_python = ctypes.PyDLL(None, use_errno=True)  # its calls keep the interpreter's lock


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _checked(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def prctl(option: int, value: int = 0, second: int = 0) -> None:
    """prctl(2) with up to two arguments."""
    _checked(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(second), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def fork_sibling() -> int:
    """As os.fork(), but the child is our parent's: that one waits for it, and is who it outlives or not (clone3(2)).

    For a process with one thread; what Python would do after a fork concerns others. Raises OSError (ENOSYS where it is barred).
    """
    arguments = (ctypes.c_uint64 * 8)(_CLONE_PARENT)
    size = ctypes.c_size_t(ctypes.sizeof(arguments))
    return _checked(_python.syscall(ctypes.c_long(_SYS_CLONE3), arguments, size))


def unshare(flags: int) -> None:
    """unshare(2)."""
    _checked(_libc.unshare(flags))


def loopback_up() -> None:
    """Programs in this network, made a moment ago, may talk to themselves (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def setns(fd: int, flags: int) -> None:
    """setns(2): join namespaces of the process (a pidfd) or the one (a file of /proc/PID/ns) that ``fd`` names."""
    _checked(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)))


def join_machine() -> None:
    """Into the machine's own network: as a unit the broker has one by itself (docker runtime), where nobody else is.

    Without systemd there is no such unit, and PID 1 may be somebody whom even this root may not look at. Raises OSError.
    """
    if not os.path.isdir(SYSTEMD):  # noqa: PTH112 - between fork and exec, the less the better
        return
    machine = os.open(MACHINE, os.O_RDONLY | os.O_CLOEXEC)
    if not os.path.samestat(os.fstat(machine), os.stat("/proc/self/ns/net")):  # noqa: PTH116
        setns(machine, CLONE_NEWNET)
    os.close(machine)


def mount_tmpfs(path: str, options: str) -> None:
    """mount(2) a tmpfs that holds no programs, devices or setuid files. Raises OSError."""
    mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)


def mount(source: str, path: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2). Raises OSError."""
    words = (os.fsencode(source), os.fsencode(path), kind.encode("ascii"))
    _checked(_libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(options) or None), path)


def all_read_only() -> None:
    """Make every mount of this mount namespace read-only. Raises OSError (ENOSYS before Linux 5.12)."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _checked(
        _libc.syscall(
            ctypes.c_long(_SYS_MOUNT_SETATTR), ctypes.c_int(-1), b"/", ctypes.c_uint(_AT_RECURSIVE), attributes, size
        )
    )


def sync_files(fd: int) -> None:
    """syncfs(2): everything written to the file system of ``fd`` is on the disk then. Raises OSError."""
    _checked(_libc.syncfs(ctypes.c_int(fd)))


def unmount(path: str) -> None:
    """umount2(2), now or when nobody uses it any more. Raises OSError."""
    _checked(_libc.umount2(os.fsencode(path), ctypes.c_int(_MNT_DETACH)), path)


def open_beneath(root: int, path: str, flags: int, mode: int = 0, *, links: bool = True, mounts: bool = True) -> int:
    """Open ``path`` without ever leaving the folder that ``root`` is a descriptor of.

    Links that stay inside are followed unless ``links`` is False; links out, ``..`` out and /proc's magic links fail with
    EXDEV or ELOOP, and so does what is mounted on the way unless ``mounts``. The kernel checks each step, so a link swapped
    meanwhile gains nothing. Source: openat2(2).
    """
    resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
    resolve |= (0 if links else RESOLVE_NO_SYMLINKS) | (0 if mounts else RESOLVE_NO_XDEV)
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    result = _libc.syscall(ctypes.c_long(SYS_OPENAT2), ctypes.c_int(root), os.fsencode(path), ctypes.byref(how), size)
    return _checked(result, path)


def rename_new(folder: int, old: str, new: str) -> None:
    """Rename within ``folder``; fails with EEXIST instead of replacing (renameat2(2))."""
    _checked(_libc.renameat2(folder, os.fsencode(old), folder, os.fsencode(new), RENAME_NOREPLACE), new)


@cache
def last_capability() -> int:
    """The highest capability this kernel knows. Asked for before a fork, its child need not look again."""
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text("ascii"))


def drop_bounding(keep: frozenset[int]) -> None:
    """Empty the capability bounding set but for ``keep``. Needs CAP_SETPCAP, so it comes before the change of user."""
    for capability in range(last_capability() + 1):
        if capability not in keep:
            prctl(PR_CAPBSET_DROP, capability)


def set_capabilities(keep: frozenset[int]) -> None:
    """Hold exactly ``keep`` (numbers below 32), inheritable and ambient too, so that they survive exec."""
    bits = sum(1 << capability for capability in keep)
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)(_CapData(bits, bits, bits), _CapData(0, 0, 0))
    _checked(_libc.capset(ctypes.byref(header), data))
    for capability in keep:
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def default_signals() -> None:
    """Undo what Python and the broker changed, so that a program starts as from a shell."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def start_time(pid: int) -> int:
    """Clock ticks after boot at which ``pid`` started (field 22 of /proc/PID/stat); with the pid it names one process.

    Raises ProcessLookupError when there is none.
    """
    return int(stat_fields(pid)[19])


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on. Raises ProcessLookupError."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode("ascii", "replace")
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    # The second field is the program's name and may itself hold spaces and brackets.
    return text[text.rindex(")") + 2 :].split()


@cache
def boot_id() -> str:
    """Names this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
