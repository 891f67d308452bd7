"""The broker's verb: the helper runs as the workspace's account, bounded, and ends with whoever asked."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.broker import Home, home_folder
from support.waiting import poll

from appliance.assembly import build_tools
from appliance.broker import protocol
from appliance.broker.client import BrokerError
from appliance.host.tools import FOLDER, unpacking

pytestmark = pytest.mark.timeout(180)


def ask(broker: Home, **words: str) -> socket.socket:
    return socket.socket(fileno=broker.call("tools", **words).fds[0])


def last(channel: socket.socket) -> dict[str, object]:
    """The helper's last word."""
    with channel, channel.makefile() as lines:
        return dict(json.loads(list(lines)[-1]))


def home_of(broker: Home) -> Path:
    return broker.paths.ide_home


def test_it_installs_as_the_workspaces_account_and_a_run_can_use_it(broker: Home) -> None:
    said = last(ask(broker, action="add", name="deno", series="2"))
    assert said["event"] == "done", said
    program = home_of(broker) / FOLDER / "bin/deno"
    owner = program.resolve().stat().st_uid
    assert owner == (pwd.getpwnam(broker.names["workspace"]).pw_uid if broker.switching else os.geteuid())
    reply = broker.call("spawn", argv=[str(program), "--version"], limits={"memory_mb": 1024})
    pidfd, out, *rest = reply.fds
    with os.fdopen(out) as text:
        assert text.read().startswith("deno 2.")
    for fd in (pidfd, *rest):
        os.close(fd)
    assert last(ask(broker, action="remove", name="deno", series="2"))["tools"] == []
    assert not program.exists()


APART = """
import sys
from appliance.broker import __main__, kernel
kernel.SYSTEMD, kernel.MACHINE = sys.argv.pop(1), sys.argv.pop(1)
helpers = __main__.ToolHelpers
__main__.ToolHelpers = lambda *parts, apart: helpers(*parts, apart=True)
kernel.unshare(kernel.CLONE_NEWNET)
sys.exit(__main__.main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root")
def test_it_fetches_through_the_machines_network_where_the_broker_has_none(names: dict[str, str]) -> None:
    """NET-2: in the docker runtime the broker's unit is PrivateNetwork; runs stay apart from the machine's, the helper cannot."""
    ours = f"/proc/{os.getpid()}/ns/net"
    with home_folder(names) as home:
        home.configure()
        home.process = subprocess.Popen(
            [sys.executable, "-I", "-c", APART, str(home.folder), ours, "--home", str(home.folder)], umask=0o077
        )
        poll(home._answers, what="the broker")
        assert _network(f"/proc/{home.pid}/ns/net") != _network(ours)
        with ask(home, action="add", name="deno", series="2"):
            record = json.loads((home.paths.run / "broker/processes.json").read_text())
            (pid,) = (row["pid"] for row in record["processes"] if row["kind"] == "tools")
            assert _network(f"/proc/{pid}/ns/net") == _network(ours)
            assert f"CapEff:\t{'0' * 16}" in Path(f"/proc/{pid}/status").read_text()
        assert run(home, "readlink", "/proc/self/ns/net", seconds=5).strip() == _network(f"/proc/{home.pid}/ns/net")


def _network(path: str) -> str:
    return str(Path(path).readlink())


def test_php_is_unpacked_by_a_run_of_the_workspaces_account_and_used_by_another(broker: Home) -> None:
    """SYS-2: no verb of its own, no root."""
    lines = run(broker, *unpacking("php", "8"), seconds=150).splitlines()
    assert json.loads(lines[-1])["event"] == "done", lines[-1]
    assert last(ask(broker, action="add", name="php", series="8"))["event"] == "done"
    program = home_of(broker) / FOLDER / "bin/php"
    uid = pwd.getpwnam(broker.names["workspace"]).pw_uid if broker.switching else os.geteuid()
    assert program.resolve().stat().st_uid == uid
    assert run(broker, str(program), "-r", "echo 6 * 7, ' ', posix_getuid();") == f"42 {uid}"
    assert last(ask(broker, action="remove", name="php", series="8"))["tools"] == []


def run(broker: Home, *argv: str, seconds: int = 30) -> str:
    """What a run writes."""
    reply = broker.call("spawn", argv=list(argv), limits={"seconds": seconds})
    pidfd, out, errors = reply.fds
    for fd in (pidfd, errors):
        os.close(fd)
    with os.fdopen(out) as text:
        return text.read()


def test_hanging_up_ends_the_work_and_leaves_nothing(broker: Home) -> None:
    place = home_of(broker) / FOLDER / "zig/0.17"
    with ask(broker, action="add", name="zig", series="0.17") as channel:
        assert b"progress" in channel.recv(65_536)
    poll(lambda: not place.exists() and not (home_of(broker) / FOLDER / ".cache").exists(), "the leftovers to go")
    assert last(ask(broker, action="list"))["tools"] == []


@pytest.mark.parametrize("asked", ["_run", "_ask"])
async def test_an_answer_that_nobody_waits_for_any_more_is_hung_up_on(tmp_path: Path, asked: str) -> None:
    """Cancelled while the broker is asked: what it started meanwhile ends, and no descriptor stays."""
    ends = [socket.socketpair() for _ in range(3 if asked == "_run" else 1)]
    came, go_on = threading.Event(), threading.Event()

    def late() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65_536)
            came.set()
            go_on.wait(20)
            socket.send_fds(connection, [protocol.encode({"id": 1, "ok": True})], [end.fileno() for end, _ in ends])
        for end, _ in ends:
            end.close()

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(tmp_path / "broker.sock"))
        listening.listen()
        broker = threading.Thread(target=late)
        broker.start()
        settings: Any = SimpleNamespace(paths=SimpleNamespace(socket=lambda name: tmp_path / f"{name}.sock"))
        anything: Any = SimpleNamespace(audit=None)
        toolbox = build_tools(settings, anything, anything, anything, runtime="process")
        ask = toolbox._run(["true"]) if asked == "_run" else toolbox._ask(action="list")
        asking = asyncio.ensure_future(ask)
        await asyncio.to_thread(came.wait, 20)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        go_on.set()
        await asyncio.to_thread(broker.join)
    for _, far in ends:
        with far:
            far.settimeout(10)
            assert await asyncio.to_thread(far.recv, 1) == b"", "hung up"


@pytest.mark.parametrize(
    "words",
    [
        {"action": "add"},
        {"action": "add", "name": "node"},
        {"action": "list", "name": "node", "series": "24"},
        {"action": "add", "name": "--help", "series": "24"},
        {"action": "add", "name": "node", "series": "24;id"},
        {"action": "add", "name": "../node", "series": "24"},
        {"action": "found"},
        {"action": "list", "env": "x"},
    ],
)
def test_only_its_closed_form_is_taken(broker: Home, words: dict[str, str]) -> None:
    with pytest.raises(BrokerError) as refused:
        broker.call("tools", **words)
    assert refused.value.code == "invalid"
