"""The packet filter that keeps containers away from the machine they run on (NET-2, NET-5, NET-7).

A container on a bridge reaches, by default, every service of the host through the bridge's gateway, the metadata
service of the cloud, and published ports of other containers. One nftables table of our own takes that away. It does
not depend on Docker's chains or on ufw: a packet dropped in any table is dropped, so a restart of either changes
nothing.

Rule: the text given to nft is made from constants and from checked addresses alone, and replaces the table in one
transaction.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
from pathlib import Path
from string import Template

from appliance.broker import kernel
from appliance.errors import SettingsError

TABLE = "croft_containers"
BRIDGES = ("croft-edge", "croft-egress", "croft-ai")
RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_NFT = ("/usr/sbin/nft", "-f", "-")
_SECONDS = 10.0

# Replies are let through, so that the daemon can reach a preview or the engine in a container. Neighbour discovery has
# to reach the bridge or IPv6 does not work at all. Priorities come before Docker's and ufw's chains at 0.
_RULES = Template("""\
table inet $table
delete table inet $table
table inet $table {
    chain to_host {
        type filter hook input priority -10; policy accept;
        iifname != { $bridges } accept
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept
        counter drop
    }
    chain through_host {
        type filter hook forward priority -10; policy accept;
        ct state established,related accept
        iifname { $bridges } oifname "croft-*" drop
        iifname { $bridges } oifname { "docker*", "br-*", "podman*", "virbr*", "lxc*", "ve-*" } counter drop
        oifname { "croft-egress", "croft-ai" } ct state new counter drop
$resolvers        iifname { $bridges } ip daddr { 169.254.0.0/16, 100.100.100.200 } counter drop
        iifname { $bridges } ip6 daddr { fe80::/10, fd00:ec2::254 } counter drop
    }
}
""")


def ruleset(resolvers: list[str]) -> str:
    """The table as text for nft. ``resolvers`` are the machine's name servers: some clouds keep theirs on a link-local
    address, and only its port 53 stays reachable."""
    lines = []
    for address in map(ipaddress.ip_address, resolvers):
        if address.is_link_local and "%" not in str(address):
            family = "ip6" if address.version == 6 else "ip"
            lines.append(f"        {family} daddr {address} meta l4proto {{ tcp, udp }} th dport 53 accept\n")
    bridges = ", ".join(f'"{name}"' for name in BRIDGES)
    return _RULES.substitute(table=TABLE, bridges=bridges, resolvers="".join(lines))


def name_servers(files: tuple[Path, ...] = RESOLVERS) -> list[str]:
    """Addresses on the ``nameserver`` lines of the machine's resolver files; what is no address is passed over."""
    found = []
    for file in files:
        try:
            lines = file.read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        words = [line.split() for line in lines]
        found += [row[1] for row in words if len(row) >= 2 and row[0] == "nameserver" and _is_address(row[1])]
    return list(dict.fromkeys(found))


def install() -> None:
    """Put the table in place, or put it there afresh. Raises SettingsError when the kernel or nft refuses."""
    _nft(ruleset(name_servers()))


def remove() -> None:
    """Take the table away; it is no error when there is none."""
    _nft(f"table inet {TABLE}\ndelete table inet {TABLE}\n")


def _nft(text: str) -> None:
    try:
        done = subprocess.run(
            _NFT,
            input=text.encode("ascii"),
            capture_output=True,
            env={},
            timeout=_SECONDS,
            check=False,
            preexec_fn=_join_the_machines_network,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SettingsError(
            f"cannot keep containers away from this machine: {error}", hint="Install the package nftables."
        ) from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise SettingsError(
            f"cannot keep containers away from this machine: {said[0] if said else 'nft failed'}",
            hint="The kernel must support nf_tables.",
        )


def _join_the_machines_network() -> None:
    """In the child, before nft: as a unit the broker has a private network, and a table there would hold off nobody.

    Without systemd there is no such unit, and PID 1 may be somebody whom even this root may not look at. Raises
    OSError, which the parent sees as SubprocessError.
    """
    if not os.path.isdir("/run/systemd/system"):  # noqa: PTH112 - between fork and exec, the less the better
        return
    machine = os.open("/proc/1/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if not os.path.samestat(os.fstat(machine), os.stat("/proc/self/ns/net")):  # noqa: PTH116
        kernel.setns(machine, kernel.CLONE_NEWNET)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
