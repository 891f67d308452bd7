"""What an engine leaves in the kernel is taken away, and nothing else: real rules, in a network namespace of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

# As Docker 26 writes them on a machine that did not forward.
ENGINES = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
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
{owners}COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
"""
ROOM = """
set -eu
mount -t sysfs sysfs /sys
ip link add docker0 type bridge
eval "${SINCE:-}"
iptables-restore
echo 1 >/proc/sys/net/ipv4/ip_forward
"$0" -c 'import sys
from appliance.host.install import docker_network, host
docker_network.take_away(host.Host(), sys.argv[1])' "$1"
iptables-save | grep -v '^#' || true
nft list tables
echo "docker0: $(ip -o link | grep -c docker0 || true), forwarding: $(cat /proc/sys/net/ipv4/ip_forward)"
"""


# The older iptables, whose tables nft does not see, in the place of the newer one.
OLDER = "mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi; "


def left(before: str, owners: str = "", since: str = "") -> list[str]:
    """The rules afterwards, and whether there is a bridge and forwarding. ``before``: forwarding as it was at first."""
    words = ["unshare", "--net", "--mount", "bash", "-c", ROOM, sys.executable, before]
    rules = ENGINES.format(owners=owners)
    env = {**os.environ, "SINCE": since}
    return subprocess.run(words, input=rules, check=True, capture_output=True, text=True, env=env).stdout.splitlines()


def test_of_an_engine_alone_nothing_is_left() -> None:
    assert [line for line in left("0\n") if line.startswith("-A") or "DOCKER" in line or " DROP " in line] == []
    assert left("0\n")[-1] == "docker0: 0, forwarding: 0"


def test_a_rule_of_the_owners_stays() -> None:
    rule = "-A INPUT -p tcp -m tcp --dport 25 -j DROP"
    said = left("0\n", f"{rule}\n")
    assert [line for line in said if line.startswith("-A")] == [rule]
    assert ":FORWARD ACCEPT [0:0]" in said


def test_a_machine_that_forwarded_before_goes_on() -> None:
    said = left("1\n", "-A FORWARD -i wg0 -j ACCEPT\n")
    assert said[-1] == "docker0: 0, forwarding: 1"
    assert ":FORWARD DROP [0:0]" in said, "that was not the engine's doing"


def test_an_owners_table_of_nft_beside_the_older_iptables_stays() -> None:
    said = left("0\n", since=f"{OLDER} nft add table ip nat; nft add chain ip nat mine")
    assert "table ip nat" in said
    assert [line for line in said if "DOCKER" in line] == []
