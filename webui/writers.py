"""Who writes at the other end of a unix socket: the kernel says it with what was written (unix(7), SCM_CREDENTIALS).

Why: code-server hands the socket of a window on to the process that serves this window, and that process speaks to us on the
editor's line too (SO_PEERCRED). So it is known whose browser a window is in, whatever the window itself says.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

LOOKS = 16  # the process that listens writes a few pieces before it hands a window's socket on; of other sockets it writes all
PAUSE_SECONDS = 0.02  # in which what was looked at is read
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def announce(sock: socket.socket) -> None:
    """Have the kernel note who writes. Before anything is written."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def listener(sock: socket.socket) -> int:
    """Pid of the process that took the connection."""
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[0])


async def other_writer(transport: asyncio.Transport, found: Callable[[int], None]) -> None:
    """Call ``found`` with the pid of the first process that writes and is not the one that listens, if there is one soon.

    The bytes stay where they are: ``transport`` waits while the kernel is asked, once for each of the first few pieces.
    """
    if transport.is_closing():
        return
    # Its own number: a loop lets nobody watch a descriptor that one of its transports reads.
    with socket.socket(fileno=socket.dup(transport.get_extra_info("socket").fileno())) as sock:
        own = listener(sock)
        for _ in range(LOOKS):
            if not transport.is_reading():  # a slow browser: its reader resumes it
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            transport.pause_reading()
            try:
                pid = await _writer(sock)
            finally:
                if not transport.is_closing():
                    transport.resume_reading()
            if pid not in (0, own):
                found(pid)
                break
            await asyncio.sleep(PAUSE_SECONDS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)


async def _writer(sock: socket.socket) -> int:
    """Pid of who wrote what comes next; 0 where that is not told."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock.fileno())
    try:
        _, told, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size), socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except (BlockingIOError, ConnectionError):
        return 0
    return next((int(_CREDENTIALS.unpack(data)[0]) for _, kind, data in told if kind == socket.SCM_CREDENTIALS), 0)
