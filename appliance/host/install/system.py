"""What only a machine with systemd gets: swap, an open firewall for two ports, and the units.

Rule: lines and rules that were here stay as they are; ours are recorded word for word and removed word for word.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance import settings as settings_module
from appliance.broker import accounts
from appliance.errors import CroftError
from appliance.host.install import unit_files
from appliance.host.install.host import Host
from appliance.host.install.journal import Journal
from appliance.host.machine import Machine
from appliance.settings import Paths

SWAPFILE = "/var/lib/croft-install/swapfile"
_FSTAB_LINE = f"{SWAPFILE} none swap sw 0 0 # croft\n"
_KEEP_FREE_MB = 6144
UNITS = "/etc/systemd/system"
TMPFILES = "/etc/tmpfiles.d/croft.conf"


@dataclass
class EnsureSwap:
    """2 GB of swap where memory is small and there is none."""

    host: Host
    journal: Journal
    machine: Machine
    id: str = "swap"
    title: str = "Swap"

    def check(self) -> bool:
        if self.host.path(SWAPFILE).exists():
            return SWAPFILE in self.host.read("/proc/swaps") and _FSTAB_LINE in self.host.read("/etc/fstab")
        return not self._wanted()

    def plan(self) -> list[str]:
        return [f"create {SWAPFILE} (2 GB), use it, and add one line to /etc/fstab"]

    def apply(self) -> None:
        self.journal.put(self.id, begun=True)
        swap = self.host.path(SWAPFILE)
        if SWAPFILE not in self.host.read("/proc/swaps"):
            swap.unlink(missing_ok=True)
            # fallocate leaves holes on some file systems, which swapon refuses.
            self.host.run("dd", "if=/dev/zero", f"of={swap}", "bs=1M", "count=2048", "conv=fsync")
            swap.chmod(0o600)
            self.host.run("mkswap", str(swap))
            self.host.run("swapon", str(swap))
        table = self.host.read("/etc/fstab")
        if _FSTAB_LINE not in table:
            self._write_fstab(table + ("" if table.endswith("\n") or not table else "\n") + _FSTAB_LINE)

    def undo(self) -> None:
        if SWAPFILE in self.host.read("/proc/swaps"):
            self.host.run("swapoff", SWAPFILE)
        self.host.path(SWAPFILE).unlink(missing_ok=True)
        table = self.host.read("/etc/fstab")
        if _FSTAB_LINE in table:
            self._write_fstab(table.replace(_FSTAB_LINE, ""))

    def _write_fstab(self, text: str) -> None:
        self.host.write("/etc/fstab", text, self.host.path("/etc/fstab").stat().st_mode & 0o777)

    def _wanted(self) -> bool:
        machine = self.machine
        return (
            machine.memory_mb < 3900
            and machine.swap_mb < 512
            and not machine.container
            and machine.disk_free_mb - 2048 >= _KEEP_FREE_MB
        )


@dataclass
class EnsureFirewall:
    """Ports 80 and 443 through an active ufw; every other rule stays, other firewalls are left alone."""

    host: Host
    journal: Journal
    ports: tuple[int, int]
    id: str = "firewall"
    title: str = "Firewall"

    def check(self) -> bool:
        return not self._closed()

    def plan(self) -> list[str]:
        return [f"ufw allow {port}/tcp" for port in self._closed()]

    def apply(self) -> None:
        for port in self._closed():
            opened = self.journal.get(self.id, "opened", [])
            self.journal.put(self.id, opened=sorted({*opened, port}))
            self.host.run("ufw", "allow", f"{port}/tcp", "comment", "croft")

    def undo(self) -> None:
        for port in self.journal.get(self.id, "opened", []):
            self.host.run("ufw", "delete", "allow", f"{port}/tcp", check=False)

    def _closed(self) -> list[int]:
        if not shutil.which("ufw", path="/usr/sbin:/usr/bin:/sbin:/bin"):
            return []
        status = self.host.run("ufw", "status", check=False).stdout
        if "Status: active" not in status:
            return []
        return [port for port in self.ports if not re.search(rf"^{port}(/tcp)?\s+ALLOW", status, re.MULTILINE)]


_KINDS = (".service", ".slice", ".mount")


@dataclass
class EnsureUnits:
    """Unit files and tmpfiles from the source, enabled and running."""

    host: Host
    journal: Journal
    source: Path
    runtime: str
    start: bool
    restart_for: Sequence[str] = ()
    id: str = "units"
    title: str = "Services of systemd"

    _STARTED = ("croft-broker.service", "croft.service")

    def check(self) -> bool:
        try:
            files = self._files()
        except CroftError:  # no accounts or programs yet
            return False
        return (
            all(self.host.read(path) == text for path, text in files.items())
            and all(self._is("is-enabled", unit) for unit in self._STARTED)
            and (not self.start or all(self._is("is-active", unit) for unit in self._STARTED))
            and self.journal.get(self.id, "running") == self._running()
        )

    def plan(self) -> list[str]:
        names = "croft.service, croft-broker.service, croft.slice, run-croft-ide.mount" + (
            ", croft-ide.service, croft-proxy.service, croft-ai.service" if self.runtime == "process" else ""
        )
        return [
            f"write {names} to {UNITS}",
            f"write {TMPFILES}",
            f"enable{' and start' if self.start else ''} {' '.join(self._STARTED)}",
        ]

    def apply(self) -> None:
        files = self._files()
        self.journal.put(self.id, files=sorted({*files, *self.journal.get(self.id, "files", [])}))
        for path, text in files.items():
            self.host.write(path, text)
        self.host.run("systemd-tmpfiles", "--create", TMPFILES)
        self.host.run("systemctl", "daemon-reload")
        self.host.run("systemctl", "enable", "--quiet", *self._STARTED)
        if self.start:
            self.host.run("systemctl", "restart", *self._STARTED, timeout=180)
        self.journal.put(self.id, running=self._running())

    def undo(self) -> None:
        names = [Path(path).name for path in self.journal.get(self.id, "files", []) if path.endswith(_KINDS)]
        here = [name for name in names if self.host.path(f"{UNITS}/{name}").exists()]
        for name in sorted(here, key=lambda name: name not in self._STARTED):
            self.host.run("systemctl", "disable", "--quiet", "--now", name, check=False, timeout=180)
            self.host.run("systemctl", "revert", name, check=False)  # limits that the broker set at run time
        for path in self.journal.get(self.id, "files", []):
            self.host.path(path).unlink(missing_ok=True)
            parent = self.host.path(path).parent
            if parent.name.endswith(".service.d") and parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        self.host.run("systemctl", "daemon-reload")
        self.host.run("systemctl", "reset-failed", *here, check=False)

    def _files(self) -> dict[str, str]:
        folder = self.source / "systemd"
        files = {
            f"{UNITS}/{path.name}": path.read_text("utf-8")
            for path in sorted(folder.iterdir())
            if path.suffix in _KINDS
        }
        if self.runtime == "process":
            settings = settings_module.load(Paths.system())
            files |= {
                f"{UNITS}/{name}": text
                for name, text in unit_files.render(settings, accounts.resolve(settings)).items()
            }
        drop_in = folder / f"croft-broker.{self.runtime}.conf"
        if drop_in.exists():
            files[f"{UNITS}/croft-broker.service.d/runtime.conf"] = drop_in.read_text("utf-8")
        files[TMPFILES] = (folder / "tmpfiles.d/croft.conf").read_text("utf-8")
        return files

    def _running(self) -> str:
        """What the running daemon was started from: a new version or new settings mean a restart."""
        return " ".join(
            str(self.host.path(path).resolve() if Path(path).name == "venv" else self.host.read(path))
            for path in self.restart_for
        )

    def _is(self, question: str, unit: str) -> bool:
        return self.host.run("systemctl", question, "--quiet", unit, check=False).returncode == 0
