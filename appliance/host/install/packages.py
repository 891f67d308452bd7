"""Packages of the distribution: install what is missing, remember what came, remove exactly that.

Rule: a package that was here before, or that something else came to need, is never removed; no existing package is
upgraded.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from appliance.host.install import docker_network
from appliance.host.install.host import Host, InstallError
from appliance.host.install.journal import Journal

_APT = (
    "apt-get",
    "-y",
    "-q",
    "--no-install-recommends",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "DPkg::Lock::Timeout=300",
    "-o",
    "APT::Get::Upgrade=false",
)
_QUIET = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "APT_LISTCHANGES_FRONTEND": "none"}
_GOING = re.compile(r"^(?:Remv|Purg) (\S+)", re.MULTILINE)
_COMING = re.compile(r"^Inst (\S+) (?!\[)", re.MULTILINE)  # a version in brackets there would mean an upgrade
# What the engine's packages leave behind.
_ENGINES = ("/var/lib/docker", "/var/lib/containerd", "/etc/cni", "/run/docker", "/run/containerd", "/run/docker.sock")
_SHOWN = re.compile(r"^(Get:|Unpacking|Setting up|Removing|Purging)")


@dataclass
class Packages:
    """apt and dpkg of one machine."""

    host: Host

    def installed(self) -> set[str]:
        """Names of all installed packages."""
        out = self.host.run("dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package}\n").stdout
        return {line.split()[1] for line in out.splitlines() if line.startswith("ii ")}

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that are not installed, in order."""
        here = self.installed()
        return [name for name in names if name not in here]

    def offered(self, name: str) -> bool:
        """Whether the configured sources have a package ``name``."""
        out = self.host.run("apt-cache", "policy", name, check=False).stdout
        return "Candidate:" in out and "Candidate: (none)" not in out

    def refresh(self) -> None:
        """Fetch the package lists."""
        self.host.stream(("apt-get", "-q", "update"), env=_QUIET, describe=_short)

    def install(self, names: Iterable[str]) -> None:
        """Install ``names``. Raises InstallError with apt's last words."""
        self.host.stream((*_APT, "install", *names), env=_QUIET, describe=_short)

    def install_recorded(self, journal: Journal, step: str, names: Iterable[str], more: Iterable[str] = ()) -> None:
        """Install what is missing of ``names``; exactly what apt will bring is in the journal before it does.

        ``more`` are packages that came just before for the same end.
        """
        missing = self.missing(names)
        if missing:
            self.refresh()
        coming = _COMING.findall(self.host.run(*_APT, "-s", "install", *missing, env=_QUIET).stdout) if missing else []
        journal.put(step, added=sorted({*journal.get(step, "added", []), *coming, *more}))
        if missing:
            self.install(missing)

    def remove(self, names: Iterable[str]) -> list[str]:
        """Purge those of ``names`` that nothing else needs; returns what was kept."""
        here = self.installed()
        ours = [name for name in names if name in here]
        going = self._removable(ours)
        if going:
            self.host.stream((*_APT, "purge", *going), env=_QUIET, describe=_short)
        return sorted(set(ours) - set(going))

    def _removable(self, ours: list[str]) -> list[str]:
        """The largest part of ``ours`` whose removal takes nothing else along."""
        left = list(ours)
        while left:
            out = self.host.run(*_APT, "-s", "purge", *left, env=_QUIET).stdout
            foreign = set(_GOING.findall(out)) - set(ours)
            if not foreign:
                return left
            needed = [name for name in left if self._takes_along(name, foreign)]
            if not needed:
                return []
            left = [name for name in left if name not in needed]
        return []

    def _takes_along(self, name: str, foreign: set[str]) -> bool:
        out = self.host.run(*_APT, "-s", "purge", name, env=_QUIET).stdout
        return bool(set(_GOING.findall(out)) & foreign)


@dataclass
class EnsurePackages:
    """The packages that Croft uses for as long as it is installed."""

    packages: Packages
    journal: Journal
    names: tuple[str, ...]
    before: tuple[str, ...] = ()  # installed by install.sh itself, to have a Python at all
    id: str = "packages"
    title: str = "Packages of the distribution"

    def check(self) -> bool:
        return not self.packages.missing(self.names)

    def plan(self) -> list[str]:
        return [f"install with apt: {' '.join(self.packages.missing(self.names))}"]

    def apply(self) -> None:
        accounts = self._accounts()
        if not self.journal.touched(self.id):
            absent = [folder for folder in _ENGINES if not self.packages.host.path(folder).exists()]
            self.journal.put(self.id, absent=absent, network=docker_network.as_found(self.packages.host))
        with services_held_back(self.packages.host, self.names):
            self.packages.install_recorded(self.journal, self.id, self.names, self.before)
        known = self.journal.get(self.id, "accounts", {})
        made = {
            file: sorted({*known.get(file, []), *(set(names) - set(accounts[file]))})
            for file, names in self._accounts().items()
        }
        self.journal.put(self.id, accounts=made)

    def undo(self) -> None:
        kept = self.packages.remove(self.journal.get(self.id, "added", []))
        if kept:
            self.packages.host.console.say(f"         kept, since other packages need them: {' '.join(kept)}")
        else:
            self._remove_accounts()
            self._discard()

    def _discard(self) -> None:
        """The data of an engine that came with Croft and that nobody else has used (the engine's step has looked)."""
        if self.journal.get(self.id, "discard", False):
            for path in map(self.packages.host.path, self.journal.get(self.id, "absent", [])):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _remove_accounts(self) -> None:
        """Packages make accounts and leave them behind even when purged."""
        now, made = self._accounts(), self.journal.get(self.id, "accounts", {})
        for file, program in (("passwd", "userdel"), ("group", "groupdel")):
            for name in sorted(set(made.get(file, [])) & set(now[file])):
                self.packages.host.run(program, name, check=False)

    def _accounts(self) -> dict[str, list[str]]:
        return {
            file: [line.split(":")[0] for line in self.packages.host.read(f"/etc/{file}").splitlines()]
            for file in ("passwd", "group")
        }


class services_held_back:
    """While held, the caddy package does not start its own server on ports 80 and 443.

    A mask under /run, gone at the latest with the next boot; a caddy that was here before is left alone.
    """

    _MASK = "/run/systemd/system/caddy.service"

    def __init__(self, host: Host, names: Iterable[str]) -> None:
        self._host = host
        present = host.path("/usr/bin/caddy").exists()
        self._held = "caddy" in names and not present and host.path("/run/systemd/system").is_dir()

    def __enter__(self) -> None:
        if self._held:
            mask = self._host.path(self._MASK)
            mask.unlink(missing_ok=True)
            mask.symlink_to(os.devnull)
            self._host.run("systemctl", "daemon-reload")

    def __exit__(self, *_: object) -> None:
        if self._held:
            self._host.path(self._MASK).unlink(missing_ok=True)
            self._host.run("systemctl", "daemon-reload")
            self._host.run("systemctl", "disable", "caddy.service", check=False)


def _short(line: str) -> str | None:
    return line[:100] if _SHOWN.match(line) else None


def names_for(
    runtime: str, os_id: str, python: str, *, engine: bool, compose: bool, models: bool = False
) -> tuple[str, ...]:
    """The packages of ``runtime``; ``python`` is the interpreter's package.

    ``engine``: Docker was here before; ``compose``: so is Compose 2; ``models``: an engine for local models comes along.
    """
    common = ("ca-certificates", "git", "libstdc++6", f"{python}-venv")
    if runtime == "process":
        return (*common, "caddy", "nftables", *(("libgomp1",) if models else ()))
    engines = ("docker.io", "iptables") if os_id == "ubuntu" else ("docker.io", "docker-cli", "iptables")
    plugin = "docker-compose-v2" if os_id == "ubuntu" else "docker-compose"
    return (*common, "nftables", *(() if engine else engines), *(() if compose else (plugin,)))


def check_offered(packages: Packages, names: Iterable[str]) -> None:
    """Raises InstallError when the distribution lacks one of ``names``."""
    for name in packages.missing(names):
        if not packages.offered(name):
            raise InstallError(
                f"cannot find the package {name} in this machine's package sources",
                hint="On Ubuntu, enable the universe component; then run this again.",
            )
