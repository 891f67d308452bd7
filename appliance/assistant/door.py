"""The two doors into the daemon that the workspace's account may knock at: the editor's line, and `/v1` for its terminals.

Rules: nothing is read of a connection before the kernel says that its other end is that account; each door has so many places and
takes nobody in while they are taken, so that nothing in the workspace can use up the daemon's descriptors or its time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
# What talks to a connection that was let in. It may be built with the first one.
Behind = Callable[[], Awaitable[asyncio.Protocol]]

# Between two connections: a program that connects in a loop costs next to nothing.
PAUSE_SECONDS = 0.01
FULL_SECONDS = 0.2
TELL_SECONDS = 60.0


class Door:
    """``uid`` is the account that may come in, ``places`` how many connections there are at once."""

    def __init__(self, sock: socket.socket, uid: int, places: int, behind: Behind) -> None:
        self._sock = sock
        self._uid = uid
        self._places = places
        self._behind = behind
        self._open: set[asyncio.BaseTransport] = set()
        self._told = -TELL_SECONDS

    async def run(self) -> None:
        """Let people in until cancelled; then everybody is shown out."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._open = {one for one in self._open if not one.is_closing()}
                if len(self._open) < self._places:
                    await self._admit(await self._next(loop))
                    await asyncio.sleep(PAUSE_SECONDS)
                else:
                    self._tell("every place is taken")
                    await asyncio.sleep(FULL_SECONDS)
        finally:
            self._sock.close()
            for transport in self._open:
                transport.close()

    async def _next(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        while True:
            try:
                return (await loop.sock_accept(self._sock))[0]
            except OSError as error:  # no descriptor is left; soon one may be
                self._tell("no connection can be taken", error)
                await asyncio.sleep(FULL_SECONDS)

    async def _admit(self, connection: socket.socket) -> None:
        try:
            if (uid := peer_uid(connection)) != self._uid:
                self._tell(f"uid {uid} is not the workspace's")
                connection.close()
                return
            protocol = await self._behind()
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, connection)
        except Exception as error:  # noqa: BLE001 - whatever cannot be built behind one door must not end the others
            self._tell("what is behind the door could not be made", error)
            connection.close()
            return
        self._open.add(transport)

    def _tell(self, cause: str, error: Exception | None = None) -> None:
        """In the log, once a minute at most."""
        now = asyncio.get_running_loop().time()
        if now - self._told >= TELL_SECONDS:
            self._told = now
            log.warning("a connection from the workspace was not taken", extra={"cause": cause}, exc_info=error)


def lines(serve: Serve, longest: int) -> asyncio.Protocol:
    """For a door where lines are spoken: ``serve`` gets both ends; a line has at most ``longest`` bytes."""
    return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=longest), serve)


def peer_uid(connection: socket.socket) -> int:
    """Uid of the process at the other end (unix(7), SO_PEERCRED)."""
    return _peer(connection)[1]


def peer_pid(connection: socket.socket) -> int:
    """Its pid."""
    return _peer(connection)[0]


def _peer(connection: socket.socket) -> tuple[int, int]:
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(pid), int(uid)
