"""What the services are: program, words, account and bounds of each, from the settings alone.

Rule: nothing a client sends reaches a command line here. Every flag was checked against the program's own --help
(code-server 4.139, Caddy 2.6.2).
"""

from __future__ import annotations

import importlib.machinery
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.broker import ide_settings, kernel
from appliance.broker.accounts import Account, Accounts
from appliance.broker.launch import SEARCH_PATH
from appliance.errors import Unavailable
from appliance.settings import Settings


@dataclass(frozen=True)
class Program:
    """How one service is run. ``folder`` is where it starts; ``entry`` runs there first, as its account."""

    argv: tuple[str, ...]
    env: dict[str, str]
    account: Account
    folder: Path
    capabilities: frozenset[int] = frozenset()
    oom_score_adj: int = 0
    nofile: int = 65_536
    pids: int = 512
    umask: int = 0o022
    network: bool = True
    entry: Callable[[int], None] | None = None


def present(settings: Settings, service: str) -> bool:
    """Whether the service's program is on this machine."""
    if service == "ide":
        return _ide_root(settings).joinpath("node/bin/node").exists()
    if service == "proxy":
        return find(settings.paths_caddy, "caddy") is not None
    return bool(_local_ai(settings)) or importlib.machinery.PathFinder.find_spec("xllamacpp") is not None


def program(settings: Settings, accounts: Accounts, service: str, *, safe: bool = False) -> Program:
    """How to run ``service``. Raises Unavailable when its program is missing. ``safe``: see :func:`ide`."""
    if not present(settings, service):
        raise Unavailable(f"the {service} service is not installed on this machine")
    if service == "ide":
        return ide(settings, accounts, safe=safe)
    if service == "proxy":
        return _proxy(settings, accounts)
    return ai(settings, accounts)


def caddyfile_path(settings: Settings) -> Path:
    """Where the rendered Caddyfile lies: in a folder that only root can write."""
    return settings.paths.run / "proxy" / "Caddyfile"


def find(configured: str, name: str) -> str | None:
    """The configured program, or ``name`` on the fixed search path."""
    for candidate in [configured] if configured else [f"{folder}/{name}" for folder in SEARCH_PATH]:
        if os.access(candidate, os.X_OK):
            return candidate
    return None


def ide(settings: Settings, accounts: Accounts, *, safe: bool = False) -> Program:
    """The IDE. The container is given the same words after the program (appliance.broker.compose).

    ``safe`` points it at a folder of extensions that holds none: the server has no switch for that.
    """
    root, home, account = _ide_root(settings), settings.paths.ide_home, accounts.workspace
    data = home / ".local/share/code-server"
    argv = (
        str(root / "node/bin/node"),
        str(root / "code/node_modules/code-server"),
        "--socket",
        str(settings.paths.socket("ide")),
        "--socket-mode",
        "0660",
        "--auth",
        "none",
        "--disable-telemetry",
        "--disable-update-check",
        "--disable-getting-started-override",
        "--disable-proxy",
        "--reconnection-grace-time",
        "120",
        "--user-data-dir",
        str(data),
        "--extensions-dir",
        str(data / ("no-extensions" if safe else "extensions")),
        "--config",
        str(data / "config.yaml"),
        str(settings.paths.workspace),
    )
    env = {
        "HOME": str(home),
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "CROFT_EDITOR_SOCKET": str(settings.paths.socket("editor")),
        "PATH": ":".join((str(home / ".local/share/croft/tools/bin"), *SEARCH_PATH)),  # appliance/host/tools.py
    }
    return Program(argv, env, account, home, oom_score_adj=500, entry=ide_settings.prepare)


def _proxy(settings: Settings, accounts: Accounts) -> Program:
    data = str(settings.paths.caddy_data)
    caddy = find(settings.paths_caddy, "caddy") or ""
    low = min(settings.proxy_http_port, settings.proxy_https_port) < 1024
    argv = (caddy, "run", "--config", str(caddyfile_path(settings)), "--adapter", "caddyfile")
    env = {"HOME": data, "XDG_DATA_HOME": data, "XDG_CONFIG_HOME": data, "PATH": ":".join(SEARCH_PATH)}
    needed = {kernel.CAP_NET_BIND_SERVICE} if low and accounts.switching else set()
    return Program(argv, env, accounts.proxy, settings.paths.caddy_data, frozenset(needed), umask=0o027)


def ai(settings: Settings, accounts: Accounts) -> Program:
    """The engine: it serves the model that the daemon chose on a socket that only the daemon reaches, and has no network."""
    argv = (sys.executable, "-I", "-m", "appliance.assistant.engine_child")
    models = settings.paths.state / "models"
    env = {"HOME": "/nonexistent", "LANG": "C.UTF-8", "PATH": ":".join(SEARCH_PATH)}
    return Program(
        (*argv, str(models), str(settings.paths.socket("ai")), *_local_ai(settings)),
        env,
        accounts.ai,
        settings.paths.run / "ai",
        oom_score_adj=700,
        umask=0o117,
        network=False,
    )


def _local_ai(settings: Settings) -> tuple[str, ...]:
    """LocalAI's program, where somebody has installed it."""
    found = find(settings.paths_local_ai, "local-ai")
    return (found,) if found else ()


def _ide_root(settings: Settings) -> Path:
    return Path(settings.paths_ide) if settings.paths_ide else settings.paths.programs / "ide"


def rlimits(program: Program) -> tuple[tuple[int, int], ...]:
    """The program's resource limits, as :class:`~appliance.broker.launch.Launch` takes them."""
    return ((resource.RLIMIT_NOFILE, program.nofile),)
