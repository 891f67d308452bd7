"""The daemon's end of the broker's socket (asyncio), and a plain one for the command line.

Rule: the broker's process never imports this module. A lost connection fails every waiting call at once; connecting
again is the caller's decision.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.broker import protocol
from appliance.broker.protocol import Object, Reply
from appliance.errors import CroftError, Unavailable

log = logging.getLogger(__name__)

Callback = Callable[[Object], None]
FIRST_WAIT = 0.1  # seconds; a restarting broker is back in well under a second
LONGEST_WAIT = 5.0


class BrokerError(CroftError):
    """The broker refused or failed a request; ``code`` and ``message`` are its own."""

    code = "broker"
    status = 502


class BrokerClient:
    """One connection. Descriptors in a :class:`Reply` belong to the caller.

    ``closed`` is done once the connection is lost; it is made by :meth:`connect`.
    """

    closed: asyncio.Future[None]

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._sending = asyncio.Lock()
        self._callbacks: list[Callback] = []
        self._next = 0

    async def connect(self) -> None:
        """Raises Unavailable when there is no broker or it does not accept this user."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(connection, str(self._path))
        except OSError as error:
            connection.close()
            raise Unavailable("cannot reach the broker", hint="Is `croft serve` running?") from error
        self._socket = connection
        self.closed = loop.create_future()
        loop.add_reader(connection, self._readable)

    def on_event(self, callback: Callback) -> None:
        """Call ``callback`` with every event packet, in order."""
        self._callbacks.append(callback)

    async def call(self, op: str, **arguments: Any) -> Reply:
        """One request. Raises BrokerError (refused) or Unavailable (the connection is or gets lost)."""
        if self._socket is None:
            raise Unavailable("the broker is not connected")
        self._next += 1
        number = self._next
        packet = protocol.encode({"id": number, "op": op, **arguments})
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            await self._send(packet)
            return await answer
        except asyncio.CancelledError:
            _abandon(answer)
            raise
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """Close the connection; waiting calls fail."""
        self._lost()

    async def _send(self, packet: bytes) -> None:
        async with self._sending:  # asyncio keeps one writer per socket
            if self._socket is None:
                raise Unavailable("the broker is not connected")
            try:
                await asyncio.get_running_loop().sock_sendall(self._socket, packet)
            except OSError as error:
                self._lost()
                raise Unavailable("the connection to the broker was lost") from error

    def _readable(self) -> None:
        if self._socket is None:
            return
        try:
            packet, fds, flags, _ = _receive(self._socket)
        except BlockingIOError:
            return
        except OSError:
            packet, fds, flags = b"", [], 0
        if not packet or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            _close(fds)
            self._lost()
            return
        self._take(protocol.decode(packet), fds)

    def _take(self, message: Object, fds: list[int]) -> None:
        if "event" in message:
            _close(fds)
            for callback in self._callbacks:
                callback(message)
            return
        answer = self._waiting.get(message.pop("id"))
        if answer is None or answer.done():
            _close(fds)
        elif message.pop("ok"):
            answer.set_result(Reply(message, fds))
        else:
            _close(fds)
            answer.set_exception(_error(message))

    def _lost(self) -> None:
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Unavailable("the connection to the broker was lost"))
        if not self.closed.done():
            self.closed.set_result(None)


def call(path: Path, op: str, *, timeout: float = 10.0, **arguments: Any) -> Reply:
    """One request on a connection of its own, without asyncio: for the command line.

    Raises as :meth:`BrokerClient.call`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            connection.sendall(protocol.encode({"id": 1, "op": op, **arguments}))
            while True:
                packet, fds, _, _ = _receive(connection)
                if not packet:
                    raise Unavailable("the broker closed the connection")
                message = protocol.decode(packet)
                if "event" not in message:
                    break
        except OSError as error:
            raise Unavailable("cannot reach the broker", hint="Is `croft serve` running?") from error
    if message["ok"]:
        return Reply({key: value for key, value in message.items() if key not in ("id", "ok")}, fds)
    _close(fds)
    raise _error(message)


async def call_alone(path: Path, op: str, **arguments: Any) -> Reply:
    """:func:`call` in a thread. Given up meanwhile, the descriptors of an answer that still comes are closed."""
    asking = asyncio.ensure_future(asyncio.to_thread(lambda: call(path, op, **arguments)))
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        asking.add_done_callback(_abandon)
        raise


def _receive(connection: socket.socket) -> tuple[bytes, list[int], int, Any]:
    return socket.recv_fds(connection, protocol.MAX_PACKET + 1, protocol.MAX_FDS, socket.MSG_CMSG_CLOEXEC)


def _error(message: Object) -> BrokerError:
    return BrokerError(message["error"]["message"], code=message["error"]["code"])


def _abandon(answer: asyncio.Future[Reply]) -> None:
    """The caller gave up just as the answer came: nobody else would close its descriptors."""
    if answer.done() and not answer.cancelled() and answer.exception() is None:
        _close(answer.result().fds)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


async def keep_connected(client: BrokerClient, changed: Callable[[], None]) -> None:
    """Connect, and again whenever the connection is lost, until cancelled. ``changed`` is called after
    either."""
    tries = 0
    while True:
        try:
            if not _connected(client):
                await client.connect()
        except Unavailable as error:
            log.log(
                logging.DEBUG if tries else logging.WARNING,
                "cannot connect to the broker",
                extra={"cause": error.message},
            )
            await asyncio.sleep(_wait(tries))
            tries += 1
            continue
        tries = 0
        changed()
        await asyncio.shield(client.closed)
        log.warning("connection to the broker lost")
        changed()
        await asyncio.sleep(_wait(0))


def _connected(client: BrokerClient) -> bool:
    closed: asyncio.Future[None] | None = getattr(client, "closed", None)
    return closed is not None and not closed.done()


def _wait(tries: int) -> float:
    longest: float = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(tries, 10))
    return longest * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
