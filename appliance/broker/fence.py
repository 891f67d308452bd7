"""The packet filter that keeps the workspace's account away from the machine it works on (NET-2, NET-5), where there
is no container around it: in the docker runtime that is what fetches toolchains.

By its uid alone: it reaches the internet and its own servers on this machine, but neither the metadata services of
clouds nor sshd nor what else of this machine listens below port 1024, where none of its own can be.

Rule: one table of our own for one uid, made anew at each start and taken away at a deliberate end; nobody else's is
touched. Where it cannot be made Croft runs all the same, and says so.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from string import Template

from appliance.broker import nft
from appliance.broker.accounts import Accounts
from appliance.errors import SettingsError
from appliance.settings import Settings

SSH = Path("/etc/ssh")
AGAIN_SECONDS = 60.0
_DOING = "keep the workspace away from this machine's own services"
_PORT = re.compile(r"(?im)^[ \t]*(?:port[ \t=]+|listenaddress[ \t=]+\S+:)([0-9]{1,5})[ \t]*$")
_NAMES, _WEB = 53, (80, 443)

# Refused with an answer, not in silence: a program that tries gets an error at once. Whatever has an address of this
# machine as its goal leaves by "lo".
_RULES = Template("""\
table inet $table
delete table inet $table
table inet $table {
    chain from_workspace {
        type filter hook output priority -10; policy accept;
        meta skuid != $uid accept
        ct state established,related accept
        $resolvers
        ip daddr { $metadata } counter reject with icmpx type admin-prohibited
        ip6 daddr { $metadata6 } counter reject with icmpx type admin-prohibited
        oifname "lo" tcp dport { $ssh } counter reject with tcp reset
        oifname "lo" tcp dport != { $open } tcp dport < 1024 counter reject with tcp reset
        oifname "lo" udp dport != $names udp dport < 1024 counter reject with icmpx type admin-prohibited
    }
}
""")


class Fence:
    """``problem`` says why there is none where there should be one."""

    def __init__(self, settings: Settings, accounts: Accounts) -> None:
        self._settings = settings
        self._accounts = accounts
        self._stands = False
        self._due: float | None = None
        self.problem = ""

    def put_up(self) -> None:
        """Put it up, or put it up afresh."""
        if not self._accounts.switching:
            self.problem = "the workspace's programs run as the person who started Croft"
            return
        try:
            nft.load(ruleset(self._accounts.workspace.uid, self._settings, sshd_ports()), _DOING)
            self._stands, self.problem = True, ""
        except SettingsError as error:
            self.problem = error.message
            if isinstance(error, nft.TooSlow):
                self._due = time.monotonic() + AGAIN_SECONDS
            sys.stderr.write(f"croft broker: {error.message}\n")

    def pump(self) -> float | None:
        """Put it up once more where that took too long, when it is time. Seconds until then."""
        if self._due is not None and time.monotonic() >= self._due:
            self._due = None
            self.put_up()
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def take_down(self) -> None:
        """Take it away, if it was put up; try no more."""
        self._due = None
        if self._stands:
            remove(self._accounts.workspace.uid)


def table(uid: int) -> str:
    """Its name: two appliances on one machine have two."""
    return f"croft_workspace_{uid}"


def remove(uid: int) -> None:
    """Take the table of ``uid`` away; it is no error when there is none."""
    try:
        nft.remove(table(uid), "remove the packet filter of the workspace")
    except SettingsError as error:
        sys.stderr.write(f"croft broker: {error.message}\n")


def ruleset(uid: int, settings: Settings, ssh: list[int]) -> str:
    """The table as text for nft."""
    web = {*_WEB, settings.proxy_http_port, settings.proxy_https_port}
    return _RULES.substitute(
        table=table(uid),
        uid=uid,
        resolvers=nft.link_local_resolvers(),
        metadata=", ".join(nft.METADATA),
        metadata6=", ".join(nft.METADATA6),
        ssh=", ".join(map(str, ssh)),
        open=", ".join(map(str, sorted(web | {_NAMES}))),
        names=_NAMES,
    )


def sshd_ports(folder: Path = SSH) -> list[int]:
    """Where sshd listens by its configuration; 22 in any case."""
    found = {22}
    for file in (folder / "sshd_config", *sorted(folder.glob("sshd_config.d/*.conf"))):
        try:
            text = file.read_text("utf-8", "replace")
        except OSError:
            continue
        found |= {int(port) for port in _PORT.findall(text) if 0 < int(port) < 65_536}
    return sorted(found)
