"""A rehearsal straight at the broker: run, collect, merge."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.broker import protocol
from appliance.broker.client import BrokerError
from support.broker import Home
from support.waiting import poll


@dataclass
class Result:
    """What a rehearsal left: its parcel (a file of the caller's) and the list of changes in it."""

    run: str
    parcel: Path
    at: int
    length: int
    output: str

    @property
    def listed(self) -> dict[str, Any]:
        return json.loads(self.parcel.read_bytes()[self.at : self.at + self.length])

    @property
    def changes(self) -> dict[str, tuple[str, str]]:
        """Path to the kinds before and after."""
        return {row["path"]: (_kind(row["before"]), _kind(row["after"])) for row in self.listed["changes"]}


def rehearse(home: Home, script: str, **limits: int) -> Result:
    """Run a shell script in a view and collect what it changed."""
    reply = home.call("spawn", argv=["sh", "-c", script], view="rehearsal", limits={"seconds": 20, **limits})
    os.close(reply.fds[0])
    output = b""
    for fd in reply.fds[1:]:
        with os.fdopen(fd, "rb") as pipe:
            output += pipe.read()
    run = reply.data["run"]
    helper = poll(lambda: _helper(home, run), "the rehearsal is over", 20, pause=0.005)
    parcel = home.paths.run / f"{run}.parcel"
    with helper:
        said = ask(helper, "collect", parcel)
    return Result(run, parcel, said["at"], said["length"], output.decode())


def let_go(home: Home, run: str) -> None:
    """Take the result of a run that was rehearsed, and forget it."""
    poll(lambda: _helper(home, run), "the rehearsal is over", 20, pause=0.005).close()


def merge(home: Home, result: Result, towards: str = "after") -> dict[str, Any]:
    """The helper's answer."""
    with socket.socket(fileno=home.call("rehearsal").fds[0]) as helper:
        return ask(helper, "merge", result.parcel, run=result.run, towards=towards, at=result.at, length=result.length)


def ask(helper: socket.socket, op: str, parcel: Path, **arguments: Any) -> dict[str, Any]:
    helper.settimeout(30)
    fd = os.open(parcel, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        socket.send_fds(helper, [protocol.encode({"id": 1, "op": op, **arguments})], [fd])
    finally:
        os.close(fd)
    answer = protocol.decode(helper.recv(protocol.MAX_PACKET))
    assert answer.pop("ok"), answer
    return answer


def _helper(home: Home, run: str) -> socket.socket | None:
    try:
        return socket.socket(fileno=home.call("rehearsal", run=run).fds[0])
    except BrokerError as error:
        if error.code in ("not_over", "too_many_requests"):
            return None
        raise


def picture(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Everything beneath a folder: kind, mode and content by path."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(folder.rglob("*")):
        name, mode = str(path.relative_to(folder)), path.lstat().st_mode
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        else:
            found[name] = (oct(mode), path.read_bytes() if path.is_file() else "")
    return found


def _kind(state: dict[str, Any] | None) -> str:
    return state["kind"] if state else ""
