"""The packet filter around the workspace's account, in a network of its own: nothing of this machine is touched."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.waiting import poll

from appliance.broker import fence, nft
from appliance.broker.accounts import Account, Accounts
from appliance.settings import Paths, Settings, parse

UID, OTHER = 64_123, 64_124
METADATA = ["169.254.169.254", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"]
OWN = ["127.0.0.1", "203.0.113.1", "::1", "2001:db8::1"]  # loopback, and the address that the world knows

# For each (who serves, who connects, address, port): a listener, and a connection to it; a socket belongs to its maker.
# Says what came of each.
TRY = """
import json, os, socket, sys
def outcome(serves, connects, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    os.seteuid(serves)
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
        listener.settimeout(2)
        os.seteuid(0)
        os.seteuid(connects)
        with socket.socket(family) as client:
            os.seteuid(0)
            client.settimeout(2)
            try:
                client.connect((address, port))
            except OSError:
                return "closed"
            there, _ = listener.accept()
            with there:
                there.sendall(b"hello")
                return "open" if client.recv(5) == b"hello" else "silent"
print(json.dumps([outcome(*case) for case in json.loads(sys.argv[1])]))
"""

# sshd of another machine.
ELSEWHERE = """
import socket
with socket.create_server(("::", 22), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    while True:
        there, _ = server.accept()
        there.sendall(b"SSH-2.0-x")
        there.close()
"""
KNOCK = """
import os, socket, sys
os.setresuid(*[int(sys.argv[1])] * 3)
with socket.create_connection((sys.argv[2], 22), timeout=3) as sock:
    print(sock.recv(3).decode())
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a person cannot make packet rules, and Croft then says so")


@pytest.fixture(scope="module")
def inside() -> Iterator[Callable[..., str]]:
    """What runs a program in a network of our own, with the owner's rules and the fence for UID in it.

    sshd listens on 2222 as well. Another machine, which anybody may reach, is on the other end of a cable.
    """
    name = f"crf{os.getpid() % 100_000}"
    with namespace(name) as run, namespace(f"{name}o") as far:
        for address in {*OWN, *METADATA} - {"127.0.0.1", "::1"}:
            run("ip", "addr", "add", address, "dev", "lo")
        run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", f"{name}o")
        for end, number in ((run, 1), (far, 2)):
            end("ip", "addr", "add", f"198.51.100.{number}/30", "dev", "up0")
            end("ip", "addr", "add", f"2001:db8:1::{number}/64", "dev", "up0", "nodad")
            end("ip", "link", "set", "up0", "up")
        run(
            "nft",
            "-f",
            "-",
            given="table inet owners { chain c { type filter hook output priority 0; policy accept; }\n}\n",
        )
        run("nft", "-f", "-", given=fence.ruleset(UID, settings(), [22, 2222]))
        server = subprocess.Popen(["ip", "netns", "exec", f"{name}o", sys.executable, "-I", "-c", ELSEWHERE])
        try:
            yield run
        finally:
            server.kill()
            server.wait()


@contextmanager
def namespace(name: str) -> Iterator[Callable[..., str]]:
    def run(*words: str, given: str = "") -> str:
        done = subprocess.run(["ip", "netns", "exec", name, *words], capture_output=True, text=True, input=given)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        run("ip", "link", "set", "lo", "up")
        yield run
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def settings() -> Settings:
    return parse({"proxy": {"https_port": 443, "http_port": 80}}, Paths.under(Path("/nonexistent")))


def reach(run: Callable[..., str], uid: int, places: list[tuple[str, int]], *, served_by: int = 0) -> dict[Any, str]:
    """What comes of a connection by ``uid`` to each (address, port)."""
    cases = json.dumps([(served_by, uid, *place) for place in places])
    return dict(zip(places, json.loads(run(sys.executable, "-I", "-c", TRY, cases)), strict=True))


def all_of(addresses: list[str], ports: list[int]) -> list[tuple[str, int]]:
    return [(address, port) for address in addresses for port in ports]


def test_what_a_cloud_tells_a_machine_is_not_for_the_workspace(inside: Callable[..., str]) -> None:
    """NET-2, NET-5. Others on the machine are let through: the addresses do answer here."""
    places = all_of(METADATA, [80, 8080])
    assert set(reach(inside, UID, places).values()) == {"closed"}
    assert set(reach(inside, OTHER, places).values()) == {"open"}


def test_the_machines_own_services_are_not_for_the_workspace(inside: Callable[..., str]) -> None:
    """NET-2, NET-5: sshd wherever it listens, and all that only root may offer."""
    places = all_of(OWN, [22, 2222, 25, 111, 631, 1023])
    assert set(reach(inside, UID, places).values()) == {"closed"}
    assert set(reach(inside, OTHER, places).values()) == {"open"}


def test_its_own_servers_work_for_itself_and_for_others(inside: Callable[..., str]) -> None:
    """A development server, and its answers to whoever asks: the daemon for a preview, another machine."""
    places = all_of(OWN, [1024, 3000, 8080, 65_535])
    for uid in (UID, OTHER):
        assert set(reach(inside, uid, places, served_by=UID).values()) == {"open"}


def test_names_and_the_web_are_open(inside: Callable[..., str]) -> None:
    assert set(reach(inside, UID, all_of(["127.0.0.1"], [53, 80, 443])).values()) == {"open"}


@pytest.mark.parametrize("address", ["198.51.100.2", "2001:db8:1::2"])
def test_other_machines_are_reached_by_ssh_too(inside: Callable[..., str], address: str) -> None:
    """`git push` over ssh."""
    knock = (sys.executable, "-I", "-c", KNOCK, str(UID), address)
    assert poll(lambda: _quietly(inside, *knock) == "SSH\n", "sshd of another machine answers")


def _quietly(run: Callable[..., str], *words: str) -> str:
    try:
        return run(*words)
    except AssertionError:
        return ""


def test_only_our_own_table_is_made_and_removed(inside: Callable[..., str]) -> None:
    """The owner's rules stay as they are; made twice, there is one."""
    rules = fence.ruleset(UID, settings(), [22, 2222])
    inside("nft", "-f", "-", given=rules)
    assert set(inside("nft", "list", "tables").splitlines()) == {f"table inet {fence.table(UID)}", "table inet owners"}
    inside("nft", "delete", "table", "inet", fence.table(UID))
    assert inside("nft", "list", "tables").splitlines() == ["table inet owners"]
    inside("nft", "-f", "-", given=rules)


def test_the_ports_of_sshd_are_read_from_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "sshd_config.d").mkdir()
    (tmp_path / "sshd_config").write_text("#Port 99\nPort 2022\nListenAddress 0.0.0.0\nlistenaddress [::]:2023\n")
    (tmp_path / "sshd_config.d/a.conf").write_text("  port=2024\nPort 0\nPort 99999\nMatch User x\n")
    assert fence.sshd_ports(tmp_path) == [22, 2022, 2023, 2024]
    assert fence.sshd_ports(tmp_path / "none") == [22]


def test_name_servers_on_a_link_local_address_stay_reachable(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 169.254.169.253\nnameserver 9.9.9.9\nnameserver fe80::1\nnameserver x;drop\n")
    lines = nft.link_local_resolvers((file,))
    assert "ip daddr 169.254.169.253 meta l4proto { tcp, udp } th dport 53 accept" in lines
    assert "ip6 daddr fe80::1 meta" in lines
    assert "9.9.9.9" not in lines
    assert "x;drop" not in lines


def test_the_broker_puts_it_up_and_takes_it_down(home, names) -> None:
    """It stands while the broker runs, is found again after a crash, and goes with a deliberate end."""
    import pwd

    table = fence.table(pwd.getpwnam(names["workspace"]).pw_uid)

    def stands() -> bool:
        listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
        return f"table inet {table}" in listed.splitlines()

    home.start()
    assert home.call("hello").data["unfenced"] == ""
    assert stands()
    home.kill()
    assert stands(), "a crash must not open what a start closes"
    home.start()
    home.stop()
    assert not stands()


def test_a_machine_without_nftables_says_so(home) -> None:
    """The broker starts all the same; `croft doctor` warns."""
    libc = ctypes.CDLL(None, use_errno=True)

    def without_nft() -> None:
        clone_newns, ms_rec_private, ms_bind = 0x20000, 0x44000, 0x1000
        if libc.unshare(clone_newns) or libc.mount(None, b"/", None, ms_rec_private, None):
            raise OSError(ctypes.get_errno(), "cannot make a mount namespace")
        if libc.mount(b"/bin/false", str(nft.PROGRAM).encode(), None, ms_bind, None):
            raise OSError(ctypes.get_errno(), "cannot hide nft")

    home.start(inside=without_nft)
    assert "cannot keep the workspace away" in home.call("hello").data["unfenced"]
    from appliance.host import doctor
    from appliance.settings import load

    rows = {row["id"]: row for row in doctor.examine(load(home.paths))["checks"]}
    assert rows["broker"]["result"] == "warn"
    assert "may reach this machine's own services" in rows["broker"]["detail"]
    assert "nftables" in rows["broker"]["suggestion"]


def test_a_fence_that_took_too_long_is_put_up_later(monkeypatch, tmp_path) -> None:
    """NET-2: the first rules of a boot wait for the kernel's modules; a slow boot must not leave the machine open for good."""
    rules, slow = tmp_path / "rules", tmp_path / "slow"
    slow.touch()
    program = tmp_path / "nft"
    program.write_text(f"#!/bin/sh\n[ ! -e {slow} ] || exec sleep 60\ncat > {rules}\n")
    program.chmod(0o755)
    monkeypatch.setattr(nft, "PROGRAM", program)
    monkeypatch.setattr(nft, "_SECONDS", 0.5)
    monkeypatch.setattr(fence, "AGAIN_SECONDS", 0.2)
    someone = Account("someone", UID, UID, ())
    found = fence.Fence(parse({}, Paths.under(tmp_path)), Accounts(someone, someone, someone, someone, UID, True))

    found.put_up()
    assert "took longer than" in found.problem
    assert 0 < (found.pump() or 0) <= 0.2, "not yet"
    slow.unlink()
    poll(lambda: found.pump() is None, "it is tried again, once")
    assert found.problem == ""
    assert f"meta skuid != {UID} accept" in rules.read_text()
