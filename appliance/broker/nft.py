"""Giving nftables its rules.

Rule: a table of ours is replaced in one transaction, and no other table is named. What is put into a text comes from
constants and checked values alone.
"""

from __future__ import annotations

import ipaddress
import signal
from pathlib import Path

from appliance.broker import kernel
from appliance.broker.command import run
from appliance.errors import CroftError, SettingsError

PROGRAM = Path("/usr/sbin/nft")
RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))

# Where clouds tell a machine its secrets: link-local by custom, and the few that chose otherwise (Alibaba, Oracle; AWS
# and Google over IPv6).
METADATA = ("169.254.0.0/16", "100.100.100.200", "192.0.0.192")
METADATA6 = ("fe80::/10", "fd00:ec2::254", "fd20:ce::254")
_SECONDS = 10.0


class TooSlow(SettingsError):
    """nft was ended before it was done: the first rules of a boot wait for modules of the kernel."""


def load(text: str, doing: str) -> None:
    """Apply ``text``. Raises SettingsError "cannot ``doing``: ..." when the kernel or nft refuses, TooSlow when it takes too long."""
    try:
        status, said = run(
            (str(PROGRAM), "-f", "-"), seconds=_SECONDS, given=text, entry=lambda root: kernel.join_machine()
        )
    except CroftError as error:
        raise SettingsError(f"cannot {doing}: {error.message}", hint="Install the package nftables.") from error
    if status == -signal.SIGKILL:
        raise TooSlow(f"cannot {doing}: nft took longer than {_SECONDS:g} s", hint="It is tried again in a minute.")
    if status:
        reason = said.strip().splitlines()
        raise SettingsError(
            f"cannot {doing}: {reason[0] if reason else 'nft failed'}", hint="The kernel must support nf_tables."
        )


def remove(table: str, doing: str) -> None:
    """Take a table of ours away; it is no error when there is none. Raises SettingsError."""
    load(f"table inet {table}\ndelete table inet {table}\n", doing)


def link_local_resolvers(files: tuple[Path, ...] = RESOLVERS) -> str:
    """Rules that keep port 53 of the machine's name servers open: some clouds keep theirs on a link-local address."""
    lines = []
    for address in map(ipaddress.ip_address, name_servers(files)):
        if address.is_link_local and "%" not in str(address):
            family = "ip6" if address.version == 6 else "ip"
            lines.append(f"{family} daddr {address} meta l4proto {{ tcp, udp }} th dport 53 accept")
    return "\n        ".join(lines)


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


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
