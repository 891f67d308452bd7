"""PHP out of the distribution's packages: what its scripts of installation would do, done beneath one folder.

Rule: everything here is files; nothing of what was unpacked is started.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

PACKAGES = (
    *("php-cli", "php-bcmath", "php-curl", "php-intl", "php-mbstring", "php-sqlite3", "php-xml", "php-zip"),
    "composer",
)
PROGRAMS = ("php", "composer")
_INTERPRETER = re.compile(r"php([0-9]+\.[0-9]+)-cli_(?:[0-9]+%3a)?([^_]+)_")  # a package's file, as apt names it
_PRIORITY = re.compile(r"^; priority=(\d+)$", re.MULTILINE)
_LAUNCHER = """#!/bin/sh
# Its libraries fit the system they came from.
found=$(. /etc/os-release && echo "$ID ${{VERSION_ID-}}")
if [ "$found" != {system} ]; then
    echo "{name}: it was installed for "{system}", and this is $found. Install it again: croft tools add php" >&2
    exit 126
fi
export LD_LIBRARY_PATH={libraries}"${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
export PHPRC="${{PHPRC-{settings}}}" PHP_INI_SCAN_DIR="${{PHP_INI_SCAN_DIR-{settings}/conf.d}}"
exec {command} "$@"
"""


class Unfit(Exception):
    """What was unpacked cannot be used; ``code`` is one of those in appliance.host.tools."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def settle(fresh: Path, place: Path, series: str) -> str:
    """Settings and launchers for what lies in ``fresh`` and will lie in ``place``; the version. Raises Unfit, OSError."""
    if not fresh.exists():
        raise Unfit("missing", "nothing was unpacked")
    found = _INTERPRETER.search((fresh / ".packages").read_text("utf-8"))
    if not found:
        raise Unfit("present", "the interpreter is part of this system")
    short, version = found.groups()
    if not short.startswith(f"{series}."):
        raise Unfit("absent", f"the distribution has PHP {short}")
    program = place / f"usr/bin/php{short}"
    modules = next((fresh / "usr/lib/php").glob("2*"), None)
    if modules is None or not (fresh / "usr/share" / f"php{short}-common").is_dir():
        raise Unfit("present", "a part of it is part of this system")
    _configure(fresh, place, short, modules.name)
    _launcher(fresh, place, "php", shlex.quote(str(program)))
    _launcher(fresh, place, "composer", shlex.join((str(program), str(place / "usr/bin/composer"))))
    return version


def _configure(fresh: Path, place: Path, short: str, modules: str) -> None:
    """The distribution's own settings, and each module switched on in the order that its package asks for."""
    folder = fresh / "croft/conf.d"
    folder.mkdir(parents=True)
    shutil.copyfile(fresh / f"usr/lib/php/{short}/php.ini-production.cli", fresh / "croft/php.ini")
    for ini in (fresh / "usr/share").glob(f"php{short}-*/*/*.ini"):
        asked = _PRIORITY.search(ini.read_text("utf-8"))
        shutil.copyfile(ini, folder / f"{asked[1] if asked else '20'}-{ini.name}")
    own = {
        "extension_dir": place / "usr/lib/php" / modules,
        "include_path": f".:{place}/usr/share/php",
        "session.save_path": "/tmp",  # noqa: S108 - the distribution's own place for them needs root
    }
    (folder / "00-places.ini").write_text("".join(f'{key} = "{value}"\n' for key, value in own.items()), "utf-8")


def _launcher(fresh: Path, place: Path, name: str, command: str) -> None:
    libraries = [
        place / found.relative_to(fresh) for where in ("usr/lib", "lib") for found in fresh.glob(f"{where}/*-linux-*")
    ]
    text = _LAUNCHER.format(
        name=name,
        system=shlex.quote((fresh / ".system").read_text("utf-8")),
        libraries=shlex.quote(":".join(map(str, libraries))),
        settings=place / "croft",
        command=command,
    )
    (fresh / "croft" / name).write_text(text, "utf-8")
