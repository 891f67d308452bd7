"""The broker's socket: who may connect, one packet in, one packet out, and nobody can hold the loop up.

Rule: no call here blocks. A peer is checked by the kernel's word (SO_PEERCRED) before its first packet is read, and a
client that does not read its answers is dropped.
"""

from __future__ import annotations

import array
import os
import selectors
import socket
import struct
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.broker import protocol
from appliance.broker.protocol import Object, Peer, Reply, Verb
from appliance.errors import CroftError, Invalid, Unavailable

MOST_CLIENTS = 16
MOST_QUEUED = 256
_FIRST = 0  # number in answers to packets whose own number could not be read


class Client:
    """One connection."""

    def __init__(self, connection: socket.socket, peer: Peer) -> None:
        self.socket = connection
        self.peer = peer
        self.queue: deque[tuple[bytes, list[int]]] = deque()

    def send(self) -> bool:
        """Send what the kernel takes. False when the connection is of no more use."""
        while self.queue:
            packet, fds = self.queue[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self.socket.sendmsg([packet], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return True
            except OSError:
                return False
            self.queue.popleft()
            _close(fds)
        return True

    def close(self) -> None:
        for _, fds in self.queue:
            _close(fds)
        self.socket.close()


class Server:
    """Listens on ``path`` and answers by ``verbs``; ``uids`` are the users who may ask."""

    def __init__(
        self, selector: selectors.BaseSelector, path: Path, gid: int, uids: frozenset[int], verbs: Mapping[str, Verb]
    ) -> None:
        self._selector = selector
        self._uids = uids
        self._verbs = verbs
        self._clients: dict[int, Client] = {}
        self._listener = listen(path, gid)

    def begin(self) -> None:
        """Accept clients from now on."""
        self._selector.register(self._listener, selectors.EVENT_READ, lambda mask: self._accept())

    def notify(self, event: Object) -> None:
        """Send an event to every client."""
        packet = protocol.encode(event)
        for client in list(self._clients.values()):
            self._queue(client, packet, [])

    def close(self) -> None:
        """Drop everyone. The socket's file stays: the next broker replaces it."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # gone again, or out of descriptors: the next turn tries again
        peer = credentials(connection)
        if peer.uid not in self._uids or len(self._clients) >= MOST_CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        client = Client(connection, peer)
        self._clients[connection.fileno()] = client
        self._selector.register(connection, selectors.EVENT_READ, lambda mask: self._ready(client, mask))

    def _ready(self, client: Client, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush(client)
        if mask & selectors.EVENT_READ and client.socket.fileno() >= 0:
            self._read(client)

    def _read(self, client: Client) -> None:
        try:
            # No room for descriptors: the kernel then throws away whatever a client attaches.
            packet, _, flags, _ = client.socket.recvmsg(protocol.MAX_PACKET + 1)
        except BlockingIOError:
            return
        except OSError:
            packet, flags = b"", 0
        if not packet:
            self._drop(client)
            return
        answer, fds = self._answer(client, packet, flags)
        self._queue(client, answer, fds)

    def _answer(self, client: Client, packet: bytes, flags: int) -> tuple[bytes, list[int]]:
        number, reply = _FIRST, Reply()
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise Invalid("the packet is too large or carries descriptors")
            message = protocol.decode(packet)
            number = protocol.request_id(message)
            verb, arguments = protocol.arguments(self._verbs, message)
            reply = verb.run(client.peer, **arguments)
            return protocol.encode({"id": number, "ok": True, **reply.data}), reply.fds
        except CroftError as error:
            problem: CroftError = error
        except OSError as error:
            problem = Unavailable(f"cannot do this on this machine: {error.strerror}")
        _close(reply.fds)
        return protocol.encode(protocol.failure(number, problem)), []

    def _queue(self, client: Client, packet: bytes, fds: list[int]) -> None:
        client.queue.append((packet, fds))
        if len(client.queue) > MOST_QUEUED:
            self._drop(client)
        else:
            self._flush(client)

    def _flush(self, client: Client) -> None:
        if not client.send():
            self._drop(client)
            return
        # Who does not take its answers is not asked for more: they may hold descriptors of ours.
        mask = selectors.EVENT_WRITE if client.queue else selectors.EVENT_READ
        key = self._selector.get_key(client.socket)
        if key.events != mask:
            self._selector.modify(client.socket, mask, key.data)

    def _drop(self, client: Client) -> None:
        if self._clients.pop(client.socket.fileno(), None) is not None:
            self._selector.unregister(client.socket)
            client.close()


def listen(path: Path, gid: int, kind: int = socket.SOCK_SEQPACKET) -> socket.socket:
    """A socket at ``path``, 0660 with group ``gid``, in place of a dead one."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    os.chown(path, os.geteuid(), gid)
    path.chmod(0o660)
    listener.listen(16)
    listener.setblocking(False)
    return listener


def credentials(connection: socket.socket) -> Peer:
    """Who connected (unix(7), SO_PEERCRED)."""
    size = struct.calcsize("iII")
    found: tuple[Any, ...] = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return Peer(*found)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
    fds.clear()
