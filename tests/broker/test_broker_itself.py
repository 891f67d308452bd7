"""What the broker is: small, without network, deaf to other powers, and flat in its cost."""

from __future__ import annotations

import ast
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import appliance.broker

PSS_MOST_KIB = 15 * 1024


def pss(pid: int) -> int:
    return int(
        next(
            line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")
        ).split()[1]
    )


async def test_memory_stays_small_also_after_work(client, broker):
    """Figure F1: at most 15 MB."""
    for _ in range(100):
        await client.run("true")
    assert pss(broker.pid) <= PSS_MOST_KIB


def test_no_network_socket_is_ever_open(broker):
    """DECIDED 1. Every socket the broker holds, at rest and at work, is a unix one."""
    broker.call("spawn", argv=["true"])
    broker.call("files")
    unix = {line.split()[6] for line in Path(f"/proc/{broker.pid}/net/unix").read_text().splitlines()[1:]}
    links = [str(Path(entry.path).readlink()) for entry in os.scandir(f"/proc/{broker.pid}/fd")]
    sockets = {link[8:-1] for link in links if link.startswith("socket:[")}
    assert sockets
    assert sockets <= unix
    assert sum(1 for _ in os.scandir(f"/proc/{broker.pid}/task")) == 1, "a fork is safe only with one thread"


def test_no_network_socket_is_ever_asked_for(home, poll):
    """The same, seen by the kernel from the first instruction on."""
    home.configure()
    log = home.folder / "strace"
    traced = subprocess.Popen(
        [
            "strace",
            "-f",
            "-e",
            "trace=socket,socketpair",
            "-o",
            str(log),
            sys.executable,
            "-I",
            "-m",
            "appliance.broker",
            "--home",
            str(home.folder),
        ]
    )
    try:
        poll(lambda: home.socket.exists() and _ready(home), seconds=30)
        home.call("spawn", argv=["true"])
        home.call("files")
        pid = home.call("hello").data["pid"]
    finally:
        os.kill(pid, signal.SIGTERM)
        traced.wait(20)
    asked = [line for line in log.read_text().splitlines() if "socket" in line and "+++" not in line]
    assert asked
    # nft, which puts the fence up, speaks to the kernel.
    assert all("AF_UNIX" in line or "NETLINK_NETFILTER" in line for line in asked), asked


def _ready(home) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        return probe.connect_ex(str(home.socket)) == 0


def test_it_imports_only_what_it_may():
    """The standard library, settings and errors; no asyncio, no database, nothing else of the project."""
    parts = "appliance.broker.__main__, appliance.broker.forked, appliance.broker.units, appliance.broker.compose"
    code = f"import sys, {parts}; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {"asyncio", "sqlite3", "msgspec", "aiohttp", "ssl", "http.client", "subprocess", "logging"} & loaded
    assert not {"hashlib", "secrets", "shutil", "calendar", "threading"} & loaded, "a third of the broker's memory"
    ours = {name for name in loaded if name.split(".")[0] in ("appliance", "webui", "control_sync")}
    assert all(
        name in ("appliance", "appliance.settings", "appliance.errors") or name.startswith("appliance.broker")
        for name in ours
    ), ours


def test_no_shell_anywhere():
    paths = list(Path(appliance.broker.__path__[0]).glob("*.py"))
    assert len(paths) > 40
    for path in paths:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        assert "shell" not in [node.arg for node in nodes if isinstance(node, ast.keyword)], path.name
        named = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
        assert named.isdisjoint(("os.system", "os.popen")), path.name


def test_a_run_is_a_child_of_the_broker_never_of_its_client(broker):
    """Figure C4 by construction: what a spawn costs cannot depend on the daemon's size. `make bench` measures it."""
    reply = broker.call("spawn", argv=["sleep", "60"])
    parent = Path(f"/proc/{reply.data['pid']}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) == broker.pid
    broker.call("kill", run=reply.data["run"])
    for fd in reply.fds:
        os.close(fd)


def test_bad_options_and_settings_end_it_with_a_reason(home):
    done = subprocess.run(
        [sys.executable, "-I", "-m", "appliance.broker", "--listen", "x"], capture_output=True, text=True
    )
    assert done.returncode == 2
    home.configure(users__workspace="no-such-user-here", log__level="loud")
    done = subprocess.run(
        [sys.executable, "-I", "-m", "appliance.broker", "--home", str(home.folder)], capture_output=True, text=True
    )
    assert done.returncode == 78
    assert "log.level" in done.stderr
