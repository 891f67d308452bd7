"""The daemon's end of the helper for rehearsals: collecting a result, merging it.

Rule: one helper for one question; the file that it reads or writes is lent to it by descriptor, so it needs no path of ours.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

from msgspec import Struct

from appliance.broker import protocol
from appliance.broker.client import BrokerClient, BrokerError
from appliance.errors import CroftError, NotFound, Unavailable

OVER_WITHIN = 15.0  # until everything of a run that has ended is gone
ANSWER_WITHIN = 180.0
_AGAIN = 0.05


class Merged(Struct, frozen=True):
    """``conflicts``: paths that somebody else changed; nothing was merged then, but for ``torn``."""

    conflicts: tuple[str, ...]
    torn: tuple[str, ...]


class MergeRefused(CroftError):
    """The helper's own code and words."""

    code = "merge"
    status = 502


class Merger:
    """Asks the broker for helpers over a connection that somebody else keeps."""

    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker

    async def collect(self, run: str, parcel: Path) -> tuple[int, int]:
        """Write what ``run`` left into a new file; where its list lies there and its size. Raises NotFound, CroftError."""
        answer = await self._ask(run, parcel, "collect")
        return int(answer["at"]), int(answer["length"])

    async def merge(self, run: str, parcel: Path, towards: str, at: int, size: int) -> Merged:
        """Bring the workspace to the state ``after`` or ``before`` the run. Raises CroftError when it is not known how far it came."""
        answer = await self._ask("", parcel, "merge", run=run, towards=towards, at=at, length=size)
        return Merged(tuple(answer["conflicts"]), tuple(answer["torn"]))

    async def _ask(self, view: str, parcel: Path, op: str, **arguments: Any) -> dict[str, Any]:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC if view else os.O_RDONLY
        try:
            fd = os.open(parcel, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise Unavailable("what is kept of this rehearsal cannot be opened") from error
        try:
            with await self._helper(view) as helper:
                socket.send_fds(helper, [protocol.encode({"id": 1, "op": op, **arguments})], [fd])
                async with asyncio.timeout(ANSWER_WITHIN):
                    packet = await asyncio.get_running_loop().sock_recv(helper, protocol.MAX_PACKET + 1)
        except (OSError, TimeoutError) as error:
            raise Unavailable("the helper for rehearsals does not answer") from error
        finally:
            os.close(fd)
        if not packet:
            raise Unavailable("the helper for rehearsals has ended")
        answer = protocol.decode(packet)
        if not answer.pop("ok"):
            raise MergeRefused(answer["error"]["message"], code=answer["error"]["code"])
        return answer

    async def _helper(self, view: str) -> socket.socket:
        """A helper, for the view of a run or for none. Raises NotFound where nothing is left of it, Unavailable."""
        deadline = asyncio.get_running_loop().time() + OVER_WITHIN
        while True:
            try:
                reply = await self._broker.call("rehearsal", **({"run": view} if view else {}))
            except BrokerError as error:
                if error.code == "not_found":
                    raise NotFound(error.message) from error
                late = asyncio.get_running_loop().time() > deadline
                if late or error.code not in ("not_over", "too_many_requests"):
                    raise Unavailable(error.message) from error
                await asyncio.sleep(_AGAIN)
                continue
            found = socket.socket(fileno=reply.fds[0])
            found.setblocking(False)
            return found
