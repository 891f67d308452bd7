"""Which steps make up an installation, in order. One readable list.

Rule: the order is the whole dependency graph; a step may rely on everything above it and on nothing below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.host.install import config, docker, ide, packages, python_env, system
from appliance.host.install.accounts import EnsureAccounts
from appliance.host.install.host import Host
from appliance.host.install.journal import Journal
from appliance.host.install.options import Options, Target
from appliance.host.install.step import Step
from appliance.host.machine import Machine


@dataclass(frozen=True)
class Place:
    """Where an installation happens and comes from. ``python`` is an absolute path."""

    host: Host
    journal: Journal
    machine: Machine
    source: Path
    python: str


def steps(place: Place, options: Options, target: Target) -> Sequence[Step]:
    """Every step for this machine and target."""
    host, journal, machine = place.host, place.journal, place.machine
    apt = packages.Packages(host)
    accounts = EnsureAccounts(host, journal)
    in_docker, engine_here = target.runtime == "docker", engine_was_here(place)
    names = packages.names_for(
        target.runtime,
        machine.os_id,
        _package_of(place.python),
        engine=engine_here,
        compose=docker.compose_plugin(host) is not None,
        models=target.engine,
    )
    found: list[Step] = [packages.EnsurePackages(apt, journal, names, options.bootstrap)]
    if in_docker:
        found.append(docker.EnsureEngine(host, journal, engine_here))
    found += [
        accounts,
        python_env.EnsurePython(host, journal, place.source, place.python, target.engine),
        config.EnsureConfig(host, journal, accounts, target.settings, options.purge),
    ]
    if in_docker:
        found.append(docker.EnsureProject(host, journal, place.source))
        if options.images or journal.touched("images"):
            found.append(docker.EnsureImages(host, journal, options.images))
    else:
        found.append(ide.EnsureIde(host, journal, apt, place.source, "/opt/croft/venv/bin/python", options.ide_bundle))
    found += [config.EnsureFolders(host, journal, accounts, options.purge), python_env.EnsureCommand(host, journal)]
    if machine.systemd:
        found += [
            system.EnsureSwap(host, journal, machine),
            system.EnsureFirewall(host, journal, (target.http_port, target.https_port)),
            system.EnsureUnits(
                host, journal, place.source, target.runtime, options.start, (python_env.CURRENT, config.FILE)
            ),
        ]
    return found


def engine_was_here(place: Place) -> bool:
    """Whether Docker was on the machine before the first run; asked once and remembered."""
    here = place.machine.docker or place.host.path("/usr/bin/dockerd").exists()
    return bool(place.journal.options().get("engine_here", here))


def _package_of(python: str) -> str:
    """`python3` or `python3.11`: the package whose `-venv` goes with the interpreter."""
    return Path(python).name
