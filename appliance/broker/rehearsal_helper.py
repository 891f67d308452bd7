"""The helper for rehearsals: finds out what a run changed, and merges exactly that, as the workspace's user.

Rule: it holds the workspace, what is left of one view, and the file its caller lends it; nothing else, no network, and
it can start nothing. It decides nothing: who may apply what is settled before it is asked.
"""

from __future__ import annotations

import json
import os
import socket

from appliance.broker import kernel, protocol
from appliance.broker.changes import Collector, Trees
from appliance.broker.files_helper import converse
from appliance.broker.merge import Merge
from appliance.broker.protocol import Field, Object, Verb, one_of, text, whole
from appliance.errors import Invalid, NotFound

MOST_LIST = 32 << 20  # bytes of a list of changes


class Helper:
    """``root`` is the workspace; ``upper`` and ``merged`` are of the view, if there is one."""

    def __init__(self, root: int, since: int, view: list[int]) -> None:
        self._root, self._since, self._view = root, since, view

    def verbs(self) -> dict[str, Verb]:
        place = {"at": Field(whole(0, 1 << 40)), "length": Field(whole(2, MOST_LIST))}
        run = Field(text(r"run-[0-9a-f]{16}"))
        return {
            "collect": Verb(self.collect),
            "merge": Verb(self.merge, {"run": run, "towards": Field(one_of(("after", "before"))), **place}),
        }

    def collect(self, fds: list[int]) -> Object:
        """Write contents and the list of changes into the file that came along. Raises CroftError."""
        if not self._view:
            raise NotFound("nothing is left of this rehearsal")
        upper, merged = (kernel.open_beneath(fd, ".", os.O_RDONLY | os.O_DIRECTORY) for fd in self._view)
        lower = kernel.open_beneath(self._root, ".", os.O_RDONLY | os.O_DIRECTORY)
        return Collector(_lent(fds), self._since).collect(Trees(lower, upper, merged))

    def merge(self, fds: list[int], run: str, towards: str, at: int, length: int) -> Object:
        """Bring the workspace to the state ``after`` the run, or ``before`` it: ``{conflicts, torn}``; both empty when done."""
        parcel = _lent(fds)
        listed = json.loads(os.pread(parcel, length, at))
        merge = Merge(self._root, parcel, run, listed["changes"], backwards=towards == "before")
        conflicts, torn = merge.run()
        return {"conflicts": conflicts[:50], "torn": torn[:50]}


def serve(root: int) -> None:
    """Answer requests on descriptor 0 until the other end closes. The broker's own packet comes first."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=0)
    first, view, _, _ = socket.recv_fds(channel, protocol.MAX_PACKET, 2)
    converse(channel, Helper(root, int(json.loads(first)["since"]), view).verbs())


def _lent(fds: list[int]) -> int:
    if len(fds) != 1:
        raise Invalid("this takes one descriptor")
    return fds[0]
