"""What an engine leaves in the kernel when it ends: its bridge, its firewall rules, forwarding. Else they stay until a restart.

Rule: only for an engine that came with Croft and that nobody else used, and only what the engine alone can have made. An
owner's firewall is neither opened nor closed: in doubt a thing stays and is named; the next restart ends it.
"""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
from typing import Any

from appliance.broker import egress
from appliance.host.install.host import Host

FORWARDING = "/proc/sys/net/ipv4/ip_forward"
_PROGRAMS = {"iptables": ("ip", "ipv4"), "ip6tables": ("ip6", "ipv6")}  # nft's name of the family, and the kernel's
_NFT = "/usr/sbin/nft"
_BRIDGE = "docker0"
_OWNERS = "DOCKER-USER"  # the engine makes it, for rules of the owner's
_CHAIN = rf"(?:DOCKER(?:-(?:FORWARD|BRIDGE|CT|INTERNAL|INGRESS|ISOLATION-STAGE-[12]))?|{_OWNERS})"
_OURS = rf"(?:{'|'.join((_BRIDGE, *egress.BRIDGES))})"
_ENGINES = re.compile(
    rf"-A (?:FORWARD|PREROUTING|OUTPUT)(?: ! -d \S+)?(?: -m addrtype --dst-type LOCAL)? -j {_CHAIN}"
    rf"|-A FORWARD -o {_OURS} (?:-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT|-j DOCKER)"
    rf"|-A FORWARD -i {_OURS} (?:! -o {_OURS} -j ACCEPT|-o {_OURS} -j (?:ACCEPT|DROP))"
    rf"|-A POSTROUTING -s (?P<source>\S+) ! -o {_BRIDGE} -j MASQUERADE"
)
_DROPS = ":FORWARD DROP"
_SETTINGS = (
    "etc/sysctl.conf",
    "etc/ufw/sysctl.conf",
    *(f"{top}/sysctl.d/*.conf" for top in ("etc", "run", "usr/lib", "usr/local/lib")),
)
_SWITCHES_ON = re.compile(r"^\s*-?net[./]ipv4[./](?:ip_forward|conf[./]\S+[./]forwarding)\s*=\s*1", re.MULTILINE)


def as_found(host: Host) -> dict[str, Any]:
    """How the machine forwards and filters before an engine comes, for the journal."""
    in_nft = host.run("nft", "list", "tables", check=False).stdout.splitlines() if host.path(_NFT).exists() else []
    filters: dict[str, list[str] | None] = {}
    for program, (family, _) in _PROGRAMS.items():
        lines = _tables(host, program).get("filter")
        unread = lines is None and f"table {family} filter" in in_nft
        filters[program] = None if unread else _wishes(lines or [])
    return {"forwarding": host.read(FORWARDING).strip(), "tables": in_nft, "filter": filters}


def take_away(host: Host, before: dict[str, Any]) -> None:
    """Once the engine has ended. ``before`` is what `as_found` returned; without it more stays."""
    networks = _networks(host)
    if host.path(f"/sys/class/net/{_BRIDGE}").exists():
        host.run("ip", "link", "delete", _BRIDGE, check=False)
    filtered = {program: _clear(host, program, networks) for program in _PROGRAMS}
    kept = []
    if before.get("forwarding") != "1" and host.read(FORWARDING).strip() == "1":
        if before.get("forwarding") == "0" and not _others_forward(host):
            host.path(FORWARDING).write_text("0\n")
        else:
            kept.append("forwarding (net.ipv4.ip_forward is 1)")
    for program, tables in filtered.items():
        if "filter" in tables and not _open(host, program, before.get("filter", {}).get(program)):
            kept.append(f"FORWARD DROP in {program}")
        _delete_empty(host, program, tables, before)
    if kept:
        host.console.say(f"         kept, since it may be yours: {', '.join(kept)}")


def _networks(host: Host) -> set[str | None]:
    """The bridge's own networks, as iptables writes them; None stands for a rule without one."""
    words = host.run("ip", "-o", "address", "show", "dev", _BRIDGE, check=False).stdout.split()
    return {
        None,
        *(str(ipaddress.ip_interface(word).network) for word in words if re.fullmatch(r"[\da-f.:]+/\d+", word)),
    }


def _clear(host: Host, program: str, networks: set[str | None]) -> set[str]:
    """Take the engine's rules and chains away; returns the tables that had some."""
    found = set()
    for table, lines in _tables(host, program).items():
        chains = {line[1:].split()[0] for line in lines if re.match(rf":{_CHAIN} ", line)}
        if any(line.startswith(f"-A {_OWNERS} ") and line != f"-A {_OWNERS} -j RETURN" for line in lines):
            chains.discard(_OWNERS)
            host.console.say(f"         kept, since it has rules of yours: {_OWNERS} in {program}")
        for line in lines:
            rule = _ENGINES.fullmatch(line)
            if rule and rule["source"] in networks and (_OWNERS in chains or not line.endswith(f" {_OWNERS}")):
                host.run(program, "-w", "-t", table, "-D", *shlex.split(line)[1:], check=False)
        for word in ("-F", "-X"):
            for chain in sorted(chains):
                host.run(program, "-w", "-t", table, word, chain, check=False)
        if chains:
            found.add(table)
    return found


def _open(host: Host, program: str, before: list[str] | None) -> bool:
    """Let FORWARD pass again, as before the engine, if nothing can pass now. False: it drops, perhaps for somebody else."""
    now = _wishes(_tables(host, program).get("filter", []))
    if _DROPS not in now or (before and _DROPS in before):
        return True
    # The same as before but for this policy, and no packet that it could let through: then it can only be the engine's.
    if [line for line in now if line != _DROPS] != before or _forwards(host, program):
        return False
    host.run(program, "-w", "-P", "FORWARD", "ACCEPT", check=False)
    return True


def _delete_empty(host: Host, program: str, tables: set[str], before: dict[str, Any]) -> None:
    """nft's tables that came with the engine and say nothing any more."""
    if not _in_nft(host, program) or "tables" not in before:
        return
    now = _tables(host, program)
    for table in tables:
        name = ("table", _PROGRAMS[program][0], table)
        if table in now and not _wishes(now[table]) and " ".join(name) not in before["tables"]:
            host.run("nft", "delete", *name, check=False)


def _others_forward(host: Host) -> bool:
    """Whether anything but the ended engine may need forwarding: another network, rules for it, a setting."""
    links = [int(path.read_text(), 16) for path in host.path("/sys/class/net").glob("*/flags")]
    if sum(flags & 0b1001 == 1 for flags in links) > 1:  # up, and not the loopback
        return True
    rules = _tables(host, "iptables")
    if rules.get("nat") and any(line.startswith("-A") for line in rules["nat"]):
        return True
    if any(line.startswith("-A FORWARD ") for lines in rules.values() for line in lines) or _in_another_filter(host):
        return True
    files = [file for name in _SETTINGS for file in host.root.glob(name) if file.is_file()]
    return any(_SWITCHES_ON.search(file.read_text("utf-8", "replace")) for file in files)


def _in_another_filter(host: Host) -> bool:
    """Whether what is forwarded is filtered or translated where iptables does not see it."""
    if _in_nft(host, "iptables") and host.read("/proc/net/ip_tables_names"):
        return True
    if not host.path(_NFT).exists():
        return False
    listed = host.run("nft", "-j", "list", "chains", check=False)
    if listed.returncode:
        return True
    seen = {(_PROGRAMS[name][0], table) for name in _PROGRAMS if _in_nft(host, name) for table in _tables(host, name)}
    chains = [row["chain"] for row in json.loads(listed.stdout)["nftables"] if "chain" in row]
    others = [chain for chain in chains if (chain["family"], chain["table"]) not in seen]
    return any(chain.get("hook") == "forward" or chain.get("type") == "nat" for chain in others)


def _forwards(host: Host, program: str) -> bool:
    """Whether the kernel forwards packets of this family between any two networks."""
    switches = host.path(f"/proc/sys/net/{_PROGRAMS[program][1]}/conf").glob("*/forwarding")
    return any(switch.read_text().strip() != "0" for switch in switches)


def _in_nft(host: Host, program: str) -> bool:
    """Whether iptables keeps its tables among those of nft. (Of the older one's, nft's tables of that name are the owner's.)"""
    here = all(host.path(path).exists() for path in (_NFT, f"/usr/sbin/{program}"))
    return here and "nf_tables" in host.run(program, "--version", check=False).stdout


def _tables(host: Host, program: str) -> dict[str, list[str]]:
    """The lines of each table as ``iptables-save`` writes them; none without the program."""
    found: dict[str, list[str]] = {}
    if not host.path(f"/usr/sbin/{program}").exists():
        return found
    lines: list[str] = []
    for line in host.run(f"{program}-save", check=False).stdout.splitlines():
        if line.startswith("*"):
            lines = found.setdefault(line[1:], [])
        elif line.startswith((":", "-A")):
            lines.append(line)
    return found


def _wishes(lines: list[str]) -> list[str]:
    """What a table says beyond letting everything through, without its counters."""
    said = [" ".join(line.split()[:2]) if line.startswith(":") else line for line in lines]
    return [line for line in said if not (line.startswith(":") and line.endswith(" ACCEPT"))]
