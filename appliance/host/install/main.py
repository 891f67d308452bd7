"""The three phases that install.sh runs: look and ask, change the machine, and finish in the person's terminal.

Rule: `check` changes nothing; `apply` needs no terminal and may be cut off from one; `finish` may be repeated at
will.
Exit codes: 0 done, 1 failed, 2 misused, 3 refused or declined, 4 (check only) nothing to do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from appliance.errors import CroftError
from appliance.host import machine as machine_module
from appliance.host import preflight
from appliance.host.install import config, docker, finish, options, packages
from appliance.host.install.accounts import EnsureAccounts
from appliance.host.install.host import Console, Host, InstallError
from appliance.host.install.journal import Journal, lock
from appliance.host.install.plan import Place, engine_was_here, steps
from appliance.host.install.step import apply_all, describe, undo_all
from appliance.host.preflight import Level, Subject

FAILED, REFUSED = 1, 3


def main(argv: Sequence[str], source: Path, host: Host | None = None) -> int:
    """Run one phase: ``argv[0]`` is its name, the rest the installer's options."""
    host = host or Host(console=Console())
    phase, asked = argv[0], options.parse(argv[1:])
    try:
        if os.geteuid() != 0 and not asked.dry_run:
            raise InstallError("the installer needs root", hint="Run it with sudo.")
        return _PHASES[phase](host, asked, source)
    except CroftError as error:
        host.console.say(f"\nCroft: {error.message}")
        if error.hint:
            host.console.say(f"       {error.hint}")
        return FAILED


def check(host: Host, asked: options.Options, source: Path) -> int:
    """Preflight and plan."""
    place = _place(host, source)
    if asked.uninstall:
        return _describe_uninstall(place, asked)
    target = _target(place, asked)
    if not _preflight(place, asked, target):
        return REFUSED
    if target.runtime == "docker":
        docker.require_compose(host, offered=_compose_offered(place))
    host.console.say(f"\nRuntime: {target.runtime} ({target.why}). Address: https://{target.host}\n")
    described = steps(place, asked, target)
    if asked.dry_run:
        host.console.say("This would be done, in this order:")
        describe(described, host.console)
    else:
        packages.check_offered(packages.Packages(host), _names_of(described))
    return 0


def apply(host: Host, asked: options.Options, source: Path) -> int:
    """Bring every step about, or take every step back."""
    held = lock(host)
    place = _place(host, source)
    try:
        if asked.uninstall:
            return _uninstall(place, asked)
        target = _target(place, asked)
        place.journal.set_options(
            {**options.recorded(asked, target, place.journal.options()), "engine_here": engine_was_here(place)}
        )
        planned = steps(place, asked, target)
        changed = apply_all(planned, host.console)
        host.console.say(
            f"\n{changed} of {len(planned)} steps changed something."
            if changed
            else f"\nNothing to do: all {len(planned)} steps were already so; nothing was changed."
        )
        return 0
    finally:
        os.close(held)


def finish_up(host: Host, asked: options.Options, source: Path) -> int:
    """Start where nothing else does, test, show the link."""
    if asked.uninstall:
        return 0
    place = _place(host, source)
    target = _target(place, asked)
    return (finish.with_systemd if place.machine.systemd else finish.in_foreground)(host, asked, target)


_PHASES = {"check": check, "apply": apply, "finish": finish_up}


def _place(host: Host, source: Path) -> Place:
    return Place(host, Journal(host), machine_module.read(host.root), source, sys.executable)


def _target(place: Place, asked: options.Options) -> options.Target:
    known = place.journal.options()
    options.refuse_mixed(asked, known)
    return options.target(asked, place.machine, known, compose_offered=_compose_offered(place))


def _compose_offered(place: Place) -> bool:
    """Compose 2 as a plugin that is here, or as a package (Debian 12's `docker-compose` is the old 1.x)."""
    if docker.compose_plugin(place.host):
        return True
    if place.machine.os_id == "ubuntu":
        return packages.Packages(place.host).offered("docker-compose-v2")
    return place.machine.os_id == "debian" and place.machine.os_version not in ("11", "12")


def _preflight(place: Place, asked: options.Options, target: options.Target) -> bool:
    accounts = EnsureAccounts(place.host, place.journal)
    accounts.refuse_strangers()
    own = frozenset(number for name, number in accounts.ids().items() if name.endswith(":uid"))
    if target.runtime == "docker" and not place.journal.empty:
        own |= {0}  # Docker holds published ports as root
    fronted = target.settings["proxy.tls"] == "off"
    subject = Subject(
        place.machine,
        target.runtime,
        target.http_port,
        target.https_port,
        fronted,
        not place.journal.empty,
        bool(asked.images or asked.ide_bundle),
        target.engine,
        own,
    )
    results = preflight.run(subject)
    for row, finding in results:
        place.host.console.say(f"  {finding.level.value:4}  {row.title}: {finding.detail}")
        if finding.suggestion and finding.level is not Level.PASS:
            place.host.console.say(f"        {finding.suggestion}")
    return not preflight.refused(results)


def _names_of(described: Sequence[object]) -> tuple[str, ...]:
    return next(step.names for step in described if isinstance(step, packages.EnsurePackages))


def _uninstall(place: Place, asked: options.Options) -> int:
    if place.journal.empty and not (asked.purge and place.journal.touched("kept")):
        place.host.console.say("Nothing to do: Croft is not installed here.")
        return 0
    if asked.purge and place.journal.touched("kept"):
        for step in ("folders", "settings"):
            place.journal.put(step, begun=True)
        place.journal.forget("kept")
    undo_all(steps(place, asked, _target(place, asked)), place.journal, place.host.console)
    if place.journal.touched("kept"):
        place.journal.set_options({})
        place.host.console.say(
            "\nCroft is gone. Your data stays in /var/lib/croft, your settings in /etc/croft; "
            "`--uninstall --purge` removes them."
        )
    else:
        place.journal.erase()
        place.host.console.say("\nCroft and its data are gone.")
    return 0


def _describe_uninstall(place: Place, asked: options.Options) -> int:
    if asked.purge:
        config.refuse_mounted(place.host, config.STATE)
    if asked.dry_run and not place.journal.empty:
        for step in reversed(steps(place, asked, _target(place, asked))):
            if place.journal.touched(step.id):
                place.host.console.say(f"  - take back: {step.title}")
    return 0
