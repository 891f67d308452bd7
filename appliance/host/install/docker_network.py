"""What an engine leaves in the kernel when it ends: its bridge, its firewall rules, forwarding. Else they stay until a restart.

Rule: only for an engine that came with Croft and that nobody else used; rules that do not name its chains or its bridge stay.
What cannot be taken away goes with the next restart, so nothing here stops an uninstall.
"""

from __future__ import annotations

import shlex

from appliance.host.install.host import Host

FORWARDING = "/proc/sys/net/ipv4/ip_forward"
_BRIDGE = "docker0"
_CHAINS = "DOCKER"  # all of the engine's begin so


def take_away(host: Host, forwarded: str) -> None:
    """Once the engine has ended. ``forwarded`` is what FORWARDING said before it came."""
    if host.path(f"/sys/class/net/{_BRIDGE}").exists():
        host.run("ip", "link", "delete", _BRIDGE, check=False)
    # Where it switched forwarding on, it also made the machine drop what is forwarded.
    unforwarded = forwarded.strip() == "0" and host.read(FORWARDING).strip() == "1"
    for program, family in (("iptables", "ip"), ("ip6tables", "ip6")):
        if host.path(f"/usr/sbin/{program}").exists():
            _clear(host, program, family, accept=unforwarded)
    if unforwarded:
        host.path(FORWARDING).write_text("0\n")


def _clear(host: Host, program: str, family: str, *, accept: bool) -> None:
    for table, lines in _tables(host, program).items():
        chains = [line[1:].split()[0] for line in lines if line.startswith(f":{_CHAINS}")]
        for line in filter(_is_the_engines, lines):
            host.run(program, "-w", "-t", table, "-D", *shlex.split(line)[1:], check=False)
        for word in ("-F", "-X"):
            for chain in chains:
                host.run(program, "-w", "-t", table, word, chain, check=False)
        if accept and table == "filter" and chains:
            host.run(program, "-w", "-P", "FORWARD", "ACCEPT", check=False)
        if chains and _in_nft(host, program) and _says_nothing(_tables(host, program)[table]):
            host.run("nft", "delete", "table", family, table, check=False)


def _in_nft(host: Host, program: str) -> bool:
    """Whether iptables keeps its tables among those of nft. (Of the older one's, nft's tables of that name are the owner's.)"""
    return host.path("/usr/sbin/nft").exists() and "nf_tables" in host.run(program, "--version", check=False).stdout


def _tables(host: Host, program: str) -> dict[str, list[str]]:
    """The lines of each table as ``iptables-save`` writes them."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in host.run(f"{program}-save", check=False).stdout.splitlines():
        if line.startswith("*"):
            lines = found.setdefault(line[1:], [])
        elif line.startswith((":", "-A")):
            lines.append(line)
    return found


def _is_the_engines(line: str) -> bool:
    return line.startswith("-A") and any(word == _BRIDGE or word.startswith(_CHAINS) for word in line.split())


def _says_nothing(lines: list[str]) -> bool:
    """No rule, no chain of anybody's, and everything let through."""
    return all(line.startswith(":") and line.split()[1] == "ACCEPT" for line in lines)
