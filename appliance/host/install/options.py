"""What the installer is asked for: the command line, and what follows from it and the machine.

Rule: the answer is the same for the same command line, machine and journal, so that each phase of a run agrees with
the last.
"""

from __future__ import annotations

import argparse
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.host.install.host import InstallError
from appliance.host.machine import Machine

_ABOUT = (
    "Installs Croft on this machine. Run it again to repair or upgrade; every change is listed in "
    "docs/changes-to-your-machine.md."
)
ENGINE_FROM_MB = 1700  # what a machine sold as 2 GB shows at the least
FRONTS = ("nginx", "apache", "caddy")


@dataclass(frozen=True)
class Options:
    """The command line, checked."""

    domain: str
    email: str
    runtime: str
    images: Path | None
    ide_bundle: Path | None
    unattended: bool
    dry_run: bool
    start: bool
    behind_proxy: str
    http_port: int
    https_port: int
    uninstall: bool
    purge: bool
    bootstrap: tuple[str, ...]
    engine: bool | None = None


def parse(argv: Sequence[str]) -> Options:
    """Read the command line; argparse prints the message and exits with 2 when it cannot be read."""
    parser = argparse.ArgumentParser(prog="install.sh", description=_ABOUT)
    add = parser.add_argument
    add("--domain", default="", help="name of the web interface; the IDE lives at ide.NAME")
    add("--email", default="", help="the owner's address, also given to the certificate authority")
    add("--runtime", choices=("auto", "docker", "process"), default="auto", help="how services run")
    add("--images", type=Path, metavar="FILE", help="load container images from FILE instead of pulling them")
    add("--ide-bundle", type=Path, metavar="FILE", help="a tar file with code-server and its Node")
    add("--behind-proxy", choices=FRONTS, default="", help="a web server that already owns ports 80 and 443")
    add("--http-port", type=_port, default=0, metavar="PORT", help="port for plain HTTP (80)")
    add("--https-port", type=_port, default=0, metavar="PORT", help="port for HTTPS (443)")
    add(
        "--engine",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="an engine for local models (process runtime; from 1.7 GB of memory up unless --no-engine is given)",
    )
    add("--unattended", action="store_true", help="ask nothing")
    add("--dry-run", action="store_true", help="print the plan and change nothing")
    add("--no-start", action="store_true", help="install, but do not start anything")
    add("--uninstall", action="store_true", help="take everything back, keeping your data")
    add("--purge", action="store_true", help="with --uninstall: remove your data too")
    add("--source", metavar="URL", help="where the piped script fetches its release (https)")
    add("--bootstrap", default="", help=argparse.SUPPRESS)  # packages install.sh had to install to run this program
    args = parser.parse_args(argv)
    if args.purge and not args.uninstall:
        parser.error("--purge goes with --uninstall")
    for name in ("images", "ide_bundle"):
        path = getattr(args, name)
        if path is not None and not path.is_file():
            parser.error(f"there is no file {path}")
    return Options(
        domain=args.domain.lower().rstrip("."),
        email=args.email,
        runtime=args.runtime,
        images=_whole(args.images),
        ide_bundle=_whole(args.ide_bundle),
        unattended=args.unattended,
        dry_run=args.dry_run,
        start=not args.no_start,
        behind_proxy=args.behind_proxy,
        http_port=args.http_port,
        https_port=args.https_port,
        uninstall=args.uninstall,
        purge=args.purge,
        bootstrap=tuple(args.bootstrap.split()),
        engine=args.engine,
    )


@dataclass(frozen=True)
class Target:
    """The appliance to be."""

    host: str
    runtime: str
    why: str
    http_port: int
    https_port: int
    settings: dict[str, str | int]
    engine: bool = False  # Docker brings its own


def target(options: Options, machine: Machine, recorded: dict[str, Any], *, compose_offered: bool) -> Target:
    """What to install. ``recorded`` are the options of the last run: they hold unless asked for otherwise."""
    runtime, why = _runtime(options, machine, recorded, compose_offered)
    front = options.behind_proxy or str(recorded.get("behind_proxy", ""))
    host = options.domain or str(recorded.get("host", "")) or default_host()
    http = options.http_port or int(recorded.get("http_port", 8088 if front else 80))
    https = options.https_port or int(recorded.get("https_port", 443))
    tls = "off" if front else "acme" if _is_public(host) else "internal"
    settings: dict[str, str | int] = {
        "host": host,
        "runtime": runtime,
        "proxy.http_port": http,
        "proxy.https_port": https,
        "proxy.tls": tls,
        "users.proxy": "croft-proxy",
    }
    if options.email:
        settings["proxy.email"] = options.email
    if front:
        settings["proxy.bind"] = "127.0.0.1"
    return Target(
        host, runtime, why, http, https, settings, runtime == "process" and _engine(options, machine, recorded)
    )


def _engine(options: Options, machine: Machine, recorded: dict[str, Any]) -> bool:
    """Whether the engine is installed; the last word holds, and without one the memory decides."""
    if options.engine is not None:
        return options.engine
    return bool(recorded.get("engine", machine.memory_mb >= ENGINE_FROM_MB))


def _runtime(options: Options, machine: Machine, recorded: dict[str, Any], compose_offered: bool) -> tuple[str, str]:
    """docker if an engine answers or could be installed here, else process; the last choice holds."""
    if options.runtime != "auto":
        return options.runtime, "as asked"
    if recorded.get("runtime"):
        return str(recorded["runtime"]), "as installed before"
    if not compose_offered:
        return "process", "Docker Compose 2 is neither here nor in this machine's package sources"
    if machine.docker:
        return "docker", "a Docker engine answers"
    if machine.systemd and machine.memory_mb >= 1800 and not machine.container:
        return "docker", "systemd and enough memory"
    return "process", "no Docker engine, and none can run here"


def default_host() -> str:
    """The dashed public address under a wildcard-IP name if an interface holds one, else croft.localhost."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("198.51.100.1", 9))  # TEST-NET-2; connecting a datagram socket sends nothing
            address = ipaddress.ip_address(probe.getsockname()[0])
    except OSError:
        return "croft.localhost"
    return f"{str(address).replace('.', '-')}.sslip.io" if address.is_global else "croft.localhost"


def _is_public(host: str) -> bool:
    return "." in host and not host.endswith((".localhost", ".local", ".internal", ".test", ".home.arpa", ".lan"))


def _whole(path: Path | None) -> Path | None:
    return path.resolve() if path else None


def _port(text: str) -> int:
    number = int(text)
    if not 0 < number < 65536:
        raise argparse.ArgumentTypeError("a port is a number from 1 to 65535")
    return number


def recorded(options: Options, chosen: Target, known: dict[str, Any]) -> dict[str, Any]:
    """What the journal remembers for the next run and for the way back."""
    return {
        "runtime": chosen.runtime,
        "host": chosen.host,
        "http_port": chosen.http_port,
        "https_port": chosen.https_port,
        "engine": chosen.engine if chosen.runtime == "process" else bool(known.get("engine", True)),
        "behind_proxy": options.behind_proxy or str(known.get("behind_proxy", "")),
    }


def refuse_mixed(options: Options, known: dict[str, Any]) -> None:
    """Raises InstallError when another runtime is asked for than the one that stands."""
    if known.get("runtime") and options.runtime not in ("auto", known["runtime"]):
        raise InstallError(
            f"cannot change the runtime of an installation from {known['runtime']} to {options.runtime}",
            hint="Uninstall first (your data stays), then install with the other runtime.",
        )
