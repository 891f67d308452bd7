"""The packet filter that keeps containers away from the machine they run on (NET-2, NET-5, NET-7).

A container on a bridge reaches, by default, every service of the host through the bridge's gateway, the metadata
service of the cloud, and published ports of other containers. One nftables table of our own takes that away. It does
not depend on Docker's chains or on ufw: a packet dropped in any table is dropped, so a restart of either changes
nothing.

Rule: what a container may reach is listed here and nowhere else; :mod:`appliance.broker.nft` applies it.
"""

from __future__ import annotations

from string import Template

from appliance.broker import nft

TABLE = "croft_containers"
BRIDGES = ("croft-edge", "croft-egress", "croft-ai", "croft-fetch")
_DOING = "keep containers away from this machine"

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
        oifname { "croft-egress", "croft-ai", "croft-fetch" } ct state new counter drop
        $resolvers
        iifname { $bridges } ip daddr { $metadata } counter drop
        iifname { $bridges } ip6 daddr { $metadata6 } counter drop
    }
}
""")


def ruleset() -> str:
    """The table as text for nft."""
    return _RULES.substitute(
        table=TABLE,
        bridges=", ".join(f'"{name}"' for name in BRIDGES),
        resolvers=nft.link_local_resolvers(),
        metadata=", ".join(nft.METADATA),
        metadata6=", ".join(nft.METADATA6),
    )


def install() -> None:
    """Put the table in place, or put it there afresh. Raises SettingsError when the kernel or nft refuses."""
    nft.load(ruleset(), _DOING)


def remove() -> None:
    """Take the table away; it is no error when there is none."""
    nft.remove(TABLE, _DOING)
