"""What an engine leaves in the kernel is taken away, and nothing else: real rules, in a network namespace of their own.

Covers SYS-9.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

# As Docker 26 writes them on a machine that did not forward.
ENGINES = """*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
"""
ROOM = """
set -eu
mount -t sysfs sysfs /sys
ip link set lo up
ip link add eth0 type bridge
ip link set eth0 up
echo 0 >/proc/sys/net/ipv4/ip_forward
eval "$BEFORE"
found=$("$0" -c 'import json
from appliance.host.install import docker_network, host
print(json.dumps(docker_network.as_found(host.Host())))')
ip link add docker0 type bridge
ip address add 172.17.0.1/16 dev docker0
ip link set docker0 up
iptables-restore --noflush
echo 1 >/proc/sys/net/ipv4/ip_forward
eval "$SINCE"
"$0" -c 'import json, sys
from appliance.host.install import docker_network, host
docker_network.take_away(host.Host(), json.loads(sys.argv[1]))' "$found"
iptables-save | grep -v '^#' || true
nft list tables
echo "docker0: $(ip -o link | grep -c docker0 || true), forwarding: $(cat /proc/sys/net/ipv4/ip_forward)"
"""
# The older iptables, whose tables nft does not see, in the place of the newer one.
OLDER = "mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi; "
SETTING = "mount -t tmpfs tmpfs /etc/sysctl.d; echo net.ipv4.ip_forward=1 >/etc/sysctl.d/60-mine.conf"
TRANSLATES = "nft add table ip mine; nft add chain ip mine out '{ type nat hook postrouting priority 100; }'"
GONE, STAYS = "docker0: 0, forwarding: 0", "docker0: 0, forwarding: 1"


def left(before: str = "", since: str = "") -> list[str]:
    """What the installer says, the rules afterwards, and whether there is a bridge and forwarding.

    ``before``: what the owner did before the engine came; ``since``: after.
    """
    words = ["unshare", "--net", "--mount", "bash", "-c", ROOM, sys.executable]
    env = {**os.environ, "BEFORE": before, "SINCE": since}
    return subprocess.run(words, input=ENGINES, check=True, capture_output=True, text=True, env=env).stdout.splitlines()


def rules(said: list[str]) -> list[str]:
    return [line for line in said if line.startswith("-A")]


@pytest.mark.parametrize("iptables", ["", OLDER])
def test_of_an_engine_alone_nothing_is_left(iptables: str) -> None:
    said = left(iptables)
    assert [line for line in said if "DOCKER" in line or "DROP" in line or line.startswith(("-A", "table"))] == []
    assert said[-1] == GONE
    assert not any("kept" in line for line in said)


def test_a_rule_of_the_owners_stays() -> None:
    rule = "-A INPUT -p tcp -m tcp --dport 25 -j DROP"
    said = left(f"iptables {rule}")
    assert rules(said) == [rule]
    assert ":FORWARD ACCEPT [0:0]" in said
    assert said[-1] == GONE


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -p tcp -m tcp --dport 5000 -m comment --comment DOCKER-registry -j ACCEPT",
        "-A INPUT -i docker0 -j DROP",
        "-A FORWARD -d 10.0.0.0/8 -i docker0 -j DROP",
        "-A POSTROUTING -s 10.8.0.0/24 ! -o docker0 -j MASQUERADE",
        "-N DOCKER-mine",
    ],
)
def test_a_rule_that_names_something_of_the_engines_stays(rule: str) -> None:
    said = left(since=f"iptables -t {'nat' if 'POSTROUTING' in rule else 'filter'} {rule}")
    assert rule in said or ":DOCKER-mine - [0:0]" in said
    assert not any(":DOCKER-ISOLATION" in line or ":DOCKER " in line for line in said)


def test_rules_that_the_owner_gave_the_engine_stay_with_the_way_to_them() -> None:
    rule = "-A DOCKER-USER -s 203.0.113.0/24 -j DROP"
    said = left(since=f"iptables -I {rule.removeprefix('-A ')}")
    assert rules(said) == ["-A FORWARD -j DOCKER-USER", rule, "-A DOCKER-USER -j RETURN"]
    assert ":FORWARD DROP [0:0]" in said
    assert any("kept" in line and "DOCKER-USER" in line for line in said)


def test_a_machine_that_forwarded_before_goes_on() -> None:
    said = left("echo 1 >/proc/sys/net/ipv4/ip_forward; iptables -P FORWARD DROP; iptables -A FORWARD -i wg0 -j ACCEPT")
    assert said[-1] == STAYS
    assert ":FORWARD DROP [0:0]" in said, "that was not the engine's doing"
    assert rules(said) == ["-A FORWARD -i wg0 -j ACCEPT"]


@pytest.mark.parametrize("iptables", ["", OLDER])
def test_a_firewall_that_let_nothing_through_before_goes_on(iptables: str) -> None:
    """As ufw leaves it."""
    said = left(f"{iptables} iptables -P INPUT DROP; iptables -P FORWARD DROP; iptables -A INPUT -i lo -j ACCEPT")
    assert {":INPUT DROP [0:0]", ":FORWARD DROP [0:0]", "-A INPUT -i lo -j ACCEPT"} <= set(said)
    assert said[-1] == GONE
    assert not any("kept" in line for line in said)


def test_a_firewall_that_the_owner_put_up_since_goes_on() -> None:
    said = left(since="iptables -P INPUT DROP; iptables -A INPUT -i lo -j ACCEPT")
    assert {":INPUT DROP [0:0]", ":FORWARD DROP [0:0]"} <= set(said)
    assert any("kept" in line and "FORWARD DROP in iptables" in line for line in said)


@pytest.mark.parametrize(
    "since",
    [
        "ip link add wg0 type bridge; ip link set wg0 up",
        "iptables -t nat -A PREROUTING -p tcp --dport 25565 -j DNAT --to-destination 203.0.113.9",
        TRANSLATES,
        SETTING,
    ],
)
def test_forwarding_that_the_owner_may_need_since_goes_on(since: str) -> None:
    """And while packets go through, what drops them is not opened either."""
    said = left(since=since)
    assert said[-1] == STAYS
    assert ":FORWARD DROP [0:0]" in said
    assert any("kept" in line and "net.ipv4.ip_forward" in line for line in said)


def test_an_owners_table_of_nft_stays() -> None:
    """Also an empty one whose name is iptables', and any beside the older iptables."""
    assert "table ip nat" in left("nft add table ip nat")
    said = left(since=f"{OLDER} nft add table ip nat; nft add chain ip nat mine")
    assert "table ip nat" in said


@pytest.mark.parametrize("forwards", [0, 1])
def test_the_other_family_is_let_through_only_while_nothing_can_pass(forwards: int) -> None:
    engines = "ip6tables -N DOCKER; ip6tables -A FORWARD -j DOCKER; ip6tables -P FORWARD DROP"
    said = left(f"echo {forwards} >/proc/sys/net/ipv6/conf/all/forwarding", engines)
    assert ("table ip6 filter" in said) == bool(forwards)
    assert any("FORWARD DROP in ip6tables" in line for line in said) == bool(forwards)
