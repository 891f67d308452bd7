"""`croft doctor`: the machine's checks, which the installer runs too, and those that make sense once Croft is installed.

Rule: it looks and never mends; each finding names the owner's next step. Works with everything else down.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import stat
from pathlib import Path
from typing import Any

from appliance.control import Control
from appliance.errors import CroftError
from appliance.host import machine, preflight
from appliance.host.preflight import Finding, Level, Subject
from appliance.settings import Paths, Settings


def examine(settings: Settings) -> dict[str, Any]:
    """Every check as ``{"checks": [{id, title, result, detail, suggestion}], "failed": number}``."""
    found = [(check.id, check.title, finding) for check, finding in preflight.run(_subject(settings))]
    if settings.runtime == "docker":
        found.append(("engine", "Docker engine", _engine()))
    found += [
        ("folders", "Folders", _folders(settings)),
        ("broker", "Broker", _answers(settings, "broker")),
        ("daemon", "Daemon", _daemon(settings)),
        ("services", "Services", _services(settings)),
    ]
    rows = [
        {
            "id": code,
            "title": title,
            "result": str(finding.level),
            "detail": finding.detail,
            "suggestion": finding.suggestion,
        }
        for code, title, finding in found
    ]
    return {"checks": rows, "failed": sum(1 for row in rows if row["result"] == "fail")}


def _subject(settings: Settings) -> Subject:
    facts = machine.read()
    runtime = settings.runtime if settings.runtime != "auto" else "docker" if facts.docker else "process"
    return Subject(
        facts,
        runtime,
        settings.proxy_http_port,
        settings.proxy_https_port,
        installed=True,
        own_uids=_own_uids(settings),
    )


def _own_uids(settings: Settings) -> frozenset[int]:
    """Accounts whose listeners are ours; root is one in the docker runtime, where dockerd's proxy holds the ports."""
    uids = {os.getuid()}
    if settings.paths.workspace.exists():
        uids.add(settings.paths.workspace.stat().st_uid)  # where all accounts are one person's
    for name in (settings.users_proxy, settings.users_daemon):
        try:
            uids.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    if settings.runtime == "docker":
        uids.add(0)
    return frozenset(uids)


def _folders(settings: Settings) -> Finding:
    paths = settings.paths
    for path in (paths.state, paths.run, paths.workspace, paths.ide_home):
        if not path.is_dir():
            return Finding(Level.FAIL, f"{path} is missing", "Start Croft: the broker makes it.")
    for path in _private(paths):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            return Finding(Level.FAIL, f"{path} can be read by others (mode {mode:o})", f"chmod go-rwx {path}")
    return Finding(Level.PASS, f"state in {paths.state}")


def _private(paths: Paths) -> list[Path]:
    """Files that only the daemon may read (SEC-1), as far as this account can see them."""
    try:
        return [path for path in (paths.database, paths.keys, *paths.keys.glob("*")) if path.exists()]
    except PermissionError:
        return []


def _engine() -> Finding:
    """An owner's own engine is never changed, so what it should have is asked for here."""
    from appliance.broker.bundle import Engine

    try:
        with contextlib.closing(Engine()) as engine:
            info = json.loads(engine.ask("GET", "/info").read())
    except CroftError as error:
        return Finding(Level.WARN, error.message, "Run `croft doctor` with sudo, or see: systemctl status docker.")
    if not info.get("LiveRestoreEnabled"):
        return Finding(
            Level.WARN,
            f"Docker {info.get('ServerVersion')} answers, but stops all containers whenever it restarts",
            'Add "live-restore": true to /etc/docker/daemon.json, then: systemctl reload docker.',
        )
    return Finding(Level.PASS, f"Docker {info.get('ServerVersion')} answers")


def _answers(settings: Settings, name: str) -> Finding:
    from appliance.broker.client import call

    try:
        hello = call(settings.paths.socket(name), "hello").data
    except CroftError as error:
        return Finding(Level.FAIL, error.message, "systemctl status croft-broker, or start `croft serve`.")
    except OSError as error:
        return Finding(Level.WARN, f"cannot ask it: {error.strerror}", "Run `croft doctor` with sudo.")
    if not hello.get("limits", True):
        return Finding(
            Level.WARN,
            f"answers, runtime {hello['runtime']}; limits of memory and processes do not hold here",
            "This kind of machine gives out no control groups; a runaway program can slow everything.",
        )
    if hello.get("unfenced"):
        return Finding(
            Level.WARN,
            f"answers, runtime {hello['runtime']}; what runs in the workspace may reach this machine's own services: "
            f"{hello['unfenced']}",
            "Install the package nftables and restart Croft; where the kernel has no nf_tables, nothing else can.",
        )
    return Finding(Level.PASS, f"answers, runtime {hello['runtime']}")


def _daemon(settings: Settings) -> Finding:
    try:
        Control(settings.paths.socket("control")).call("GET", "/healthz")
    except CroftError as error:
        return Finding(Level.FAIL, error.message, error.hint)
    return Finding(Level.PASS, "answers")


def _services(settings: Settings) -> Finding:
    try:
        answer = Control(settings.paths.socket("control")).call("GET", "/api/services")
    except CroftError:
        return Finding(Level.WARN, "unknown while the daemon is down", "Start Croft first.")
    serious = [problem for problem in answer["problems"] if problem["severity"] != "info"]
    if serious:
        worst = serious[0]
        level = Level.FAIL if worst["severity"] == "error" else Level.WARN
        return Finding(level, f"{worst['title']}. {worst['why']}", worst["next"])
    return Finding(Level.PASS, answer["summary"])
