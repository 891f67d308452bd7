"""The Docker engine: kept alive through its own restarts, fed from a bundle where one is given.

Rule: an engine that was here before is used as it is; its daemon.json is merged only when the engine came with us,
and every value that stood there stays.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.host.install.host import Host, InstallError
from appliance.host.install.journal import Journal

COMPOSE = "/opt/croft/compose"
DAEMON_JSON = "/etc/docker/daemon.json"
WANTED: dict[str, Any] = {
    "live-restore": True,
    "log-driver": "json-file",
    "log-opts": {"max-size": "10m", "max-file": "3"},
}


@dataclass
class EnsureEngine:
    """daemon.json of an engine that this installer brought, and the engine running."""

    host: Host
    journal: Journal
    was_here: bool
    id: str = "engine"
    title: str = "Docker engine"

    def check(self) -> bool:
        return self.was_here or (self._merged() == self._present() and self._running())

    def plan(self) -> list[str]:
        return [f"add to {DAEMON_JSON} where not set: {', '.join(WANTED)}", "start docker.service"]

    def apply(self) -> None:
        if not self.journal.touched(self.id):
            self.journal.put(self.id, original=self.host.read(DAEMON_JSON))
        self.host.write(DAEMON_JSON, json.dumps(self._merged(), indent=2) + "\n")
        self.host.run("systemctl", "enable", "--quiet", "docker.service")
        self.host.run("systemctl", "restart", "docker.service")

    def undo(self) -> None:
        original = self.journal.get(self.id, "original", "")
        path = self.host.path(DAEMON_JSON)
        if self._present() != self._merge(json.loads(original or "{}")):
            return  # an owner has changed it since: it is theirs
        if original:
            self.host.write(DAEMON_JSON, original)
        else:
            path.unlink(missing_ok=True)

    def _present(self) -> dict[str, Any]:
        text = self.host.read(DAEMON_JSON)
        try:
            present: dict[str, Any] = json.loads(text or "{}")
        except json.JSONDecodeError as error:
            raise InstallError(f"cannot read {DAEMON_JSON}: {error}", hint="Mend the file.") from error
        return present

    def _merged(self) -> dict[str, Any]:
        return self._merge(self._present())

    @staticmethod
    def _merge(present: dict[str, Any]) -> dict[str, Any]:
        """What stands there wins; log options are only for the log driver they were made for."""
        wanted = dict(WANTED)
        if present.get("log-driver", "json-file") != "json-file" or "log-opts" in present:
            wanted = {"live-restore": True}
        return {**wanted, **present}

    def _running(self) -> bool:
        return self.host.run("systemctl", "is-active", "--quiet", "docker.service", check=False).returncode == 0


@dataclass
class EnsureImages:
    """Images of a local bundle (`--images FILE`); without one the broker pulls them with progress in the dashboard."""

    host: Host
    journal: Journal
    bundle: Path
    id: str = "images"
    title: str = "Images from the bundle"

    def check(self) -> bool:
        return bool(self.journal.get(self.id, "loaded") == self._mark())

    def plan(self) -> list[str]:
        return [f"load the images in {self.bundle} into Docker"]

    def apply(self) -> None:
        self.journal.put(self.id, begun=True)
        self.host.stream(("docker", "load", "--quiet", "--input", str(self.bundle)))
        self.journal.put(self.id, loaded=self._mark())

    def undo(self) -> None:
        listed = self.host.run("docker", "image", "ls", "--quiet", "--filter", "reference=croft/*", check=False)
        images = sorted(set(listed.stdout.split()))
        if images:
            self.host.run("docker", "image", "rm", "--force", *images, check=False)

    def _mark(self) -> str:
        seen = self.bundle.stat()
        return f"{self.bundle.name} {seen.st_size} {seen.st_mtime_ns}"


@dataclass
class EnsureProject:
    """The Compose files, where only root can write; on the way back, the project's containers and networks go first."""

    host: Host
    journal: Journal
    source: Path
    purge: bool = False
    id: str = "project"
    title: str = "Compose project"

    _NAMES = ("compose.yaml", "pins.toml")

    def check(self) -> bool:
        return all(self.host.read(f"{COMPOSE}/{name}") == self._wanted(name) for name in self._NAMES)

    def plan(self) -> list[str]:
        return [f"write {' and '.join(self._NAMES)} to {COMPOSE}"]

    def apply(self) -> None:
        self.journal.put(self.id, begun=True)
        for name in self._NAMES:
            self.host.write(f"{COMPOSE}/{name}", self._wanted(name))

    def _wanted(self, name: str) -> str:
        return (self.source / "compose" / name).read_text("utf-8")

    def undo(self) -> None:
        label = "label=com.docker.compose.project=croft"
        for kind, words in (
            ("container", ("ls", "--all", "--quiet")),
            ("network", ("ls", "--quiet")),
            *((("volume", ("ls", "--quiet")),) if self.purge else ()),
        ):
            listed = self.host.run("docker", kind, *words, "--filter", label, check=False)
            for name in listed.stdout.split():
                self.host.run("docker", kind, "rm", *(("--force",) if kind == "container" else ()), name, check=False)
        shutil.rmtree(self.host.path(COMPOSE), ignore_errors=True)
