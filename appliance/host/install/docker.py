"""The Docker engine: kept alive through its own restarts, fed from a bundle where one is given.

Rule: an engine that was here before is used as it is; its daemon.json is merged only when the engine came with us,
and every value that stood there stays. Of its containers, networks and images only Croft's are ever touched.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from appliance.broker import egress
from appliance.broker.bundle import Engine
from appliance.broker.containers import NAME, PROJECT_LABEL
from appliance.broker.images import Ledger, local_tag
from appliance.errors import CroftError, Unavailable
from appliance.host.install import docker_network
from appliance.host.install.host import Host, InstallError
from appliance.host.install.journal import Journal
from appliance.host.machine import DOCKER_SOCKET, docker_answers

COMPOSE = "/opt/croft/compose"
RECORDS = "/opt/croft/docker"
DAEMON_JSON = "/etc/docker/daemon.json"
WANTED: dict[str, Any] = {
    "live-restore": True,
    "log-driver": "json-file",
    "log-opts": {"max-size": "10m", "max-file": "3"},
}
OLDEST_COMPOSE = (2, 26)
_PLUGINS = ("/usr/libexec", "/usr/lib", "/usr/local/libexec", "/usr/local/lib")
_PYTHON = "/opt/croft/venv/bin/python"


def compose_plugin(host: Host) -> Path | None:
    """Where Compose 2 is on this machine, if it is."""
    found = (host.path(f"{folder}/docker/cli-plugins/docker-compose") for folder in _PLUGINS)
    return next((path for path in found if path.exists()), None)


def require_compose(host: Host, *, offered: bool) -> None:
    """Raises InstallError when Compose 2 is neither here nor ``offered``, or the one that is here is too old."""
    plugin = compose_plugin(host)
    if plugin is None and not offered:
        raise InstallError(
            "cannot find Docker Compose 2, neither here nor in this machine's package sources",
            hint="Install docker-compose-plugin from Docker's own packages, or use --runtime process.",
        )
    if plugin is not None:
        version = host.run(str(plugin), "version", "--short").stdout.strip()
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_COMPOSE:
            raise InstallError(
                f"cannot use Docker Compose {version}: 2.26 or later is needed",
                hint=f"Upgrade the package that {plugin} belongs to, or use --runtime process.",
            )


@dataclass
class EnsureEngine:
    """The engine running, with our daemon.json where this installer brought it."""

    host: Host
    journal: Journal
    was_here: bool
    id: str = "engine"
    title: str = "Docker engine"

    def check(self) -> bool:
        return self._running() and (self.was_here or self._merged() == self._present())

    def plan(self) -> list[str]:
        if self.was_here:
            return ["start docker.service"]
        return [f"add to {DAEMON_JSON} where not set: {', '.join(WANTED)}", "start docker.service"]

    def apply(self) -> None:
        if self.was_here:
            self.host.run("systemctl", "start", "docker.service")
            return
        if not self.journal.touched(self.id):
            self.journal.put(self.id, original=self.host.read(DAEMON_JSON))
        self.host.write(DAEMON_JSON, json.dumps(self._merged(), indent=2) + "\n")
        self.host.run("systemctl", "enable", "--quiet", "docker.service")
        self.host.run("systemctl", "restart", "docker.service")

    def undo(self) -> None:
        if not self.was_here and self._unused():
            self.journal.put("packages", discard=True)
            self.host.run("systemctl", "stop", "docker.socket", "docker.service", timeout=180)
            docker_network.take_away(self.host, self.journal.get("packages", "network", {}))
        self._restore_settings()

    def _unused(self) -> bool:
        """Whether nobody has put anything into the engine that came with Croft. (Croft's own things went before.)"""
        if not docker_answers(self.host.root):
            return False
        with contextlib.closing(Engine()) as engine:
            volumes = _ask(engine, "GET", "/volumes")["Volumes"]
            return not (_ask(engine, "GET", "/containers/json?all=1") or _ask(engine, "GET", "/images/json") or volumes)

    def _restore_settings(self) -> None:
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
        return docker_answers(self.host.root)


@dataclass
class EnsureProject:
    """The Compose files and the broker's records, where only root can write.

    On the way back everything that Croft made in the engine goes: containers, networks, images, the packet filter.
    """

    host: Host
    journal: Journal
    source: Path
    id: str = "project"
    title: str = "Compose project"

    _NAMES = ("compose.yaml", "pins.toml")

    def check(self) -> bool:
        same = all(self.host.read(f"{COMPOSE}/{name}") == self._wanted(name) for name in self._NAMES)
        return same and self.host.path(RECORDS).is_dir()

    def plan(self) -> list[str]:
        return [f"write {' and '.join(self._NAMES)} to {COMPOSE}", f"make {RECORDS} for the record of images"]

    def apply(self) -> None:
        if not self.journal.touched(self.id):
            self.journal.put(self.id, images_here=self._images_here())
        for name in self._NAMES:
            self.host.write(f"{COMPOSE}/{name}", self._wanted(name))
        self.host.path(RECORDS).mkdir(mode=0o755, exist_ok=True)

    def undo(self) -> None:
        if self.host.path(DOCKER_SOCKET).exists():
            with contextlib.closing(Engine()) as engine:
                for kind, path in (("containers", "/containers/json?all=1&"), ("networks", "/networks?")):
                    for found in _ask(engine, "GET", path + _OURS):
                        _ask(engine, "DELETE", f"/{kind}/{found['Id']}" + "?force=1" * (kind == "containers"))
                self._remove_images(engine)
        if self.host.path("/usr/sbin/nft").exists():
            egress.remove()
        for folder in (COMPOSE, RECORDS):
            shutil.rmtree(self.host.path(folder), ignore_errors=True)

    def _remove_images(self, engine: Engine) -> None:
        """Our names of the images; and the images themselves unless they were here before or somebody else uses them."""
        known = set(self.journal.get(self.id, "images_here", []))
        for service, row in Ledger(self.host.path(RECORDS) / "images.json").held().items():
            _delete_image(engine, local_tag(service))
            for number in {row.id, row.previous} - known - {""}:
                for name in (*_names_of(engine, number), number):
                    _delete_image(engine, name)

    def _images_here(self) -> list[str]:
        if not docker_answers(self.host.root):
            return []
        with contextlib.closing(Engine()) as engine:
            return sorted(str(image["Id"]) for image in _ask(engine, "GET", "/images/json"))

    def _wanted(self, name: str) -> str:
        return (self.source / "compose" / name).read_text("utf-8")


@dataclass
class EnsureImages:
    """Images of a local bundle (`--images FILE`); without one the broker pulls them with progress in the dashboard."""

    host: Host
    journal: Journal
    bundle: Path | None
    id: str = "images"
    title: str = "Images from the bundle"

    def check(self) -> bool:
        if self.bundle is None:
            return True
        return bool(self.journal.get(self.id, "loaded") == _mark(self.bundle)) and self._held()

    def plan(self) -> list[str]:
        return [f"check the images in {self.bundle} and load them into Docker"]

    def apply(self) -> None:
        if self.bundle is None:
            return
        self.journal.put(self.id, begun=True)
        # The broker's own program: it loads nothing but the ids that the bundle's manifest gives, and records them.
        self.host.stream((_PYTHON, "-I", "-m", "appliance.broker.bundle", "load", str(self.bundle)))
        self.journal.put(self.id, loaded=_mark(self.bundle))

    def undo(self) -> None:
        """Nothing: with the project its images went, too."""

    def _held(self) -> bool:
        """Whether the engine still has every image on record."""
        try:
            with contextlib.closing(Engine()) as engine:
                rows = Ledger(self.host.path(RECORDS) / "images.json").held()
                return bool(rows) and all(engine.image(local_tag(name))["Id"] == row.id for name, row in rows.items())
        except CroftError:
            return False


_OURS = urlencode({"filters": json.dumps({"label": [f"{PROJECT_LABEL}={NAME}"]})})


def _mark(bundle: Path) -> str:
    seen = bundle.stat()
    return f"{bundle.name} {seen.st_size} {seen.st_mtime_ns}"


def _ask(engine: Engine, method: str, path: str) -> Any:
    return json.loads(engine.ask(method, path).read() or b"null")


def _names_of(engine: Engine, number: str) -> Iterator[str]:
    with contextlib.suppress(Unavailable):  # gone with its last name
        image = engine.image(number)
        yield from (image.get("RepoTags") or [])
        yield from (image.get("RepoDigests") or [])


def _delete_image(engine: Engine, name: str) -> None:
    """Without force: the engine refuses while any container is made from it, and then it stays."""
    with contextlib.suppress(Unavailable):
        _ask(engine, "DELETE", f"/images/{quote(name, safe='/:@')}")
