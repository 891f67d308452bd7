"""The workspace's files as this room may look at them: through the broker's file helper, never by opening one.

Rule: one helper, started when first needed and let go when idle; whatever happens to it, the next question starts another.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from appliance.broker import protocol
from appliance.broker.client import BrokerClient
from appliance.errors import CroftError, Unavailable

IDLE_SECONDS = 60.0
ANSWER_WITHIN = 10.0
MOST_READ = 40_000


class FileRefused(CroftError):
    """The helper's own code and words: outside not_found forbidden invalid."""

    code = "file"
    status = 400


class Place(Struct, frozen=True):
    """Where a path leads: ``path`` beneath the workspace and ``kind``, or ``code`` when it leads nowhere we go."""

    path: str = ""
    kind: str = ""
    code: str = ""


class WorkspaceFiles:
    """Questions are answered one after the other."""

    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker
        self._socket: socket.socket | None = None
        self._turn = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._next = 0

    async def resolve(self, paths: Sequence[str]) -> list[Place]:
        """Where each path leads now, links followed. Raises Unavailable."""
        found: list[Place] = []
        for start in range(0, len(paths), 128):
            answer = await self._ask("resolve", paths=list(paths[start : start + 128]))
            found += [Place(**row) for row in answer["paths"]]
        return found

    async def read(self, path: str, most: int) -> bytes | None:
        """A regular file's first bytes; None where there is no such file. Raises FileRefused, Unavailable."""
        data = b""
        while len(data) < most:
            try:
                answer = await self._ask("read", path=path, offset=len(data), length=min(MOST_READ, most - len(data)))
            except FileRefused as error:
                if error.code == "not_found":
                    return None
                raise
            data += base64.b64decode(answer["data"])
            if answer["end"] or not answer["data"]:
                break
        return data

    async def entries(self, path: str) -> list[dict[str, Any]]:
        """The rows of a folder (at most one packet's worth). Raises FileRefused, Unavailable."""
        return list((await self._ask("list", path=path))["entries"])

    async def stat(self, path: str) -> dict[str, Any] | None:
        """The row of what ``path`` names, links followed; None where there is nothing. Raises FileRefused, Unavailable."""
        try:
            return await self._ask("stat", path=path)
        except FileRefused as error:
            if error.code == "not_found":
                return None
            raise

    async def write(self, path: str, data: bytes, *, version: str = "") -> dict[str, Any]:
        """Write a whole file at once, in new folders where there are none: a new one, or with ``version`` in place of exactly
        that one. Raises FileRefused (``exists`` ``changed`` ``forbidden`` ...), Unavailable."""
        new = {"mode": "new", "folders": "/" in path}
        how: dict[str, Any] = {"mode": "replace", "version": version} if version else new
        held = os.memfd_create("croft-write", os.MFD_CLOEXEC)
        try:
            await asyncio.to_thread(_fill, held, data)
            return await self._ask("write", path=path, fds=[held], **how)
        finally:
            os.close(held)

    def close(self) -> None:
        """Let the helper go."""
        self._stay()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _ask(self, op: str, *, fds: Sequence[int] = (), **arguments: Any) -> dict[str, Any]:
        async with self._turn:
            self._stay()
            try:
                async with asyncio.timeout(ANSWER_WITHIN):
                    answer = await self._converse(op, arguments, fds)
            except (TimeoutError, OSError) as error:
                self.close()
                raise Unavailable("the workspace's files cannot be looked at right now") from error
            except BaseException:
                self.close()  # an answer may be under way that nobody waits for
                raise
            self._rest()
        if not answer.pop("ok"):
            raise FileRefused(answer["error"]["message"], code=answer["error"]["code"])
        return answer

    async def _converse(self, op: str, arguments: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
        for again in (True, False):
            helper = self._socket or await self._start()
            self._next += 1
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                loop = asyncio.get_running_loop()
                packet = protocol.encode({"id": self._next, "op": op, **arguments})
                if fds:
                    socket.send_fds(helper, [packet], list(fds))  # one packet at a time: there is always room for it
                else:
                    await loop.sock_sendall(helper, packet)
                if packet := await loop.sock_recv(helper, protocol.MAX_PACKET + 1):
                    return protocol.decode(packet)
            self.close()  # it has ended: killed, or the broker stopped
            if not again:
                break
        raise Unavailable("the workspace's files cannot be looked at right now")

    async def _start(self) -> socket.socket:
        reply = await self._broker.call("files")
        self._socket = socket.socket(fileno=reply.fds[0])
        self._socket.setblocking(False)
        return self._socket

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()

    def _rest(self) -> None:
        self._stay()
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.close)


def _fill(held: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(held, rest) :]
