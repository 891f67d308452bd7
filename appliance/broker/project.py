"""The Compose project: where its files are, what they are filled with, and the one command that makes a container.

Rule: a request reaches Compose only as one of three service names; its limits are computed here. Everything else comes from
root-owned files and checked settings, and Compose sees no other environment.
"""

from __future__ import annotations

import os
import shlex
import stat
from _blake2 import blake2b  # hashlib would bring OpenSSL along: 1.6 MB for one short digest
from pathlib import Path

from appliance.broker import catalogue
from appliance.broker.accounts import Accounts
from appliance.broker.backend import SERVICES
from appliance.broker.containers import NAME
from appliance.broker.shares import LEAST_MB, Share
from appliance.errors import SettingsError
from appliance.settings import Settings

FINGERPRINT_LABEL = "croft.fingerprint"
SECONDS = "120"  # longest Compose may take
_KEY_DIGITS = 64

# Where Debian, Docker's own packages and a hand-made install put it.
_COMPOSE = tuple(
    Path(folder, "docker/cli-plugins/docker-compose")
    for folder in ("/usr/libexec", "/usr/lib", "/usr/local/libexec", "/usr/local/lib")
)


class Project:
    """The files of one appliance's project. Raises SettingsError when one is missing or not safe to use."""

    def __init__(self, settings: Settings, accounts: Accounts, files: Path, state: Path, engine: Path) -> None:
        self._settings = settings
        self._accounts = accounts
        self.state = state
        self.file = files / "compose.yaml"
        self.pins = files / "pins.toml"
        self._engine = engine
        self._compose = _compose()
        for path in (self.file, self.pins, self._compose):
            require_safe(path)
        self._ensure_state()

    def environment(self, service: str, limits: Share, image: str, *, safe: bool = False) -> dict[str, str]:
        """Every value of compose.yaml (compose/environment.example says what each is).

        ``image`` is the id the container gets; ``safe`` starts the IDE without the extensions people installed.
        """
        settings, accounts, paths = self._settings, self._accounts, self._settings.paths
        values = {
            "CROFT_RUN": str(paths.run),
            "CROFT_WORKSPACE": str(paths.workspace),
            "CROFT_HOME": str(paths.ide_home),
            "CROFT_CADDY_DATA": str(paths.caddy_data),
            "CROFT_MODELS": str(paths.state / "models"),
            "CROFT_NAMES": str(self.state),
            "CROFT_WORKSPACE_USER": f"{accounts.workspace.uid}:{accounts.workspace.gid}",
            "CROFT_PROXY_USER": f"{accounts.proxy.uid}:{accounts.proxy.gid}",
            "CROFT_AI_USER": f"{accounts.ai.uid}:{accounts.ai.gid}",
            "CROFT_WEB_GID": str(accounts.web_gid),
            "CROFT_HTTP_PORT": str(settings.proxy_http_port),
            "CROFT_HTTPS_PORT": str(settings.proxy_https_port),
            "CROFT_BIND": _bind(settings.proxy_bind),
            "CROFT_LOG_MB": str(settings.log_service_mb),
            "CROFT_IDE_COMMAND": shlex.join(_ide_words(catalogue.ide(settings, accounts).argv[2:], safe)),
            "CROFT_AI_KEY": self.ai_key(),
        }
        for name in SERVICES:
            mine = limits if name == service else Share(LEAST_MB, 1.0)  # the others are not touched, only parsed
            values |= {
                f"CROFT_{name.upper()}_MEMORY_MB": str(mine.memory_mb),
                f"CROFT_{name.upper()}_CPUS": f"{mine.cpus:g}",
            }
        return values | {"CROFT_FINGERPRINT": self._fingerprint(values, image)}

    def create(self, service: str, values: dict[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
        """The command that creates (or replaces) the stopped container of ``service``, and its whole environment."""
        argv = (
            "/usr/bin/timeout",
            "-k",
            "5",
            SECONDS,
            str(self._compose),
            "--ansi",
            "never",
            "-p",
            NAME,
            "-f",
            str(self.file),
            "--project-directory",
            str(self.state),
            "--env-file",
            "/dev/null",
            "create",
            "--pull",
            "never",
            "--no-build",
            service,
        )
        folder = str(self.state)
        return argv, values | {"DOCKER_HOST": f"unix://{self._engine}", "DOCKER_CONFIG": folder, "HOME": folder}

    def _fingerprint(self, values: dict[str, str], image: str) -> str:
        """Changes when, and only when, a container made earlier is no longer what would be made now."""
        text = "\0".join(f"{name}={value}" for name, value in sorted(values.items()))
        return blake2b(self.file.read_bytes() + image.encode() + text.encode(), digest_size=16).hexdigest()

    def _ensure_state(self) -> None:
        """The folder of what only root writes: names for the uids, the ledger of images, the engine's key."""
        self.state.mkdir(mode=0o755, parents=True, exist_ok=True)
        require_safe(self.state)
        workspace = self._accounts.workspace
        shell = f"{workspace.name}:x:{workspace.uid}:{workspace.gid}::{self._settings.paths.ide_home}:/bin/bash\n"
        _keep(self.state / "passwd", "root:x:0:0:root:/root:/bin/sh\n" + shell, 0o644)
        _keep(self.state / "group", f"root:x:0:\n{workspace.name}:x:{workspace.gid}:\n", 0o644)

    def ai_key(self) -> str:
        """The engine's key, made once; every request to it carries it."""
        path = self.state / "ai.key"
        if not path.exists() or path.stat().st_size != _KEY_DIGITS:  # a full disk leaves a part of one
            _keep(path, os.urandom(_KEY_DIGITS // 2).hex(), 0o600)
        return path.read_text("ascii")


def _ide_words(words: tuple[str, ...], safe: bool) -> tuple[str, ...]:
    if not safe:
        return words
    at = words.index("--extensions-dir") + 1
    return (*words[:at], "/tmp/no-extensions", *words[at + 1 :])  # noqa: S108 - the container's own tmpfs


def require_safe(path: Path) -> None:
    """Raises SettingsError unless only root can change ``path``: neither it nor a folder above it is anybody else's.

    A broker that runs as a person accepts that person's files.
    """
    allowed = {0, os.geteuid()}
    for one in (path, *path.parents):
        try:
            found = one.stat(follow_symlinks=False)
        except OSError as error:
            raise SettingsError(f"cannot use {path.name}: {error.strerror}") from error
        loose = found.st_mode & 0o022 and not (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX)
        if found.st_uid not in allowed or loose or (stat.S_ISLNK(found.st_mode) and one == path):
            raise SettingsError(f"cannot use {path.name}: others than root may change {one}")


def _keep(path: Path, text: str, mode: int) -> None:
    """Write a file in place: containers hold it by inode."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        os.fchmod(fd, mode)
        if path.read_text("utf-8") != text:
            file.truncate(0)
            file.write(text)


def _compose() -> Path:
    found = next((path for path in _COMPOSE if path.exists()), None)
    if found is None:
        raise SettingsError(
            "Docker Compose 2 is not installed", hint="Install docker-compose 2.26 or later, or use --runtime process."
        )
    return found.resolve()


def _bind(addresses: str) -> str:
    """Compose publishes a port on one address or on all."""
    listed = [item.strip() for item in addresses.split(",") if item.strip()]
    if len(listed) > 1:
        raise SettingsError(
            "proxy.bind can name only one address in the docker runtime", hint="Leave it empty for all addresses."
        )
    return listed[0] if listed else ""
