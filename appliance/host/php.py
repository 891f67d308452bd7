"""PHP out of the distribution's packages: what its scripts of installation would do, done beneath one folder.

Rule: everything here is files; nothing of what was unpacked is started, no link in it is followed.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from appliance.host.beneath import Folder

PACKAGES = (
    *("php-cli", "php-bcmath", "php-curl", "php-intl", "php-mbstring", "php-sqlite3", "php-xml", "php-zip"),
    "composer",
)
PROGRAMS = ("php", "composer")
_INTERPRETER = re.compile(
    r"php([0-9]+\.[0-9]+)-cli_(?:[0-9]+%3a)?([0-9A-Za-z.+~%-]+)_"
)  # a package's file, as apt names it
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


def settle(fresh: Folder, place: Path, series: str) -> str:
    """Settings and launchers for what lies in ``fresh`` and will lie in ``place``; the version. Raises Unfit, OSError."""
    found = _INTERPRETER.search(fresh.read(".packages"))
    if not found:
        raise Unfit("present", "the interpreter is part of this system")
    short, version = found.groups()
    if not short.startswith(f"{series}."):
        raise Unfit("absent", f"the distribution has PHP {short}")
    program = place / f"usr/bin/php{short}"
    modules = fresh.matching("usr/lib/php/2*")
    if not modules or not fresh.is_folder(f"usr/share/php{short}-common"):
        raise Unfit("present", "a part of it is part of this system")
    _configure(fresh, place, short, modules[0])
    _launcher(fresh, place, "php", shlex.quote(str(program)))
    _launcher(fresh, place, "composer", shlex.join((str(program), str(place / "usr/bin/composer"))))
    return version


def _configure(fresh: Folder, place: Path, short: str, modules: str) -> None:
    """The distribution's own settings, and each module switched on in the order that its package asks for."""
    fresh.remove("croft")
    fresh.make("croft/conf.d")
    fresh.write("croft/php.ini", fresh.read(f"usr/lib/php/{short}/php.ini-production.cli"))
    for path in fresh.matching(f"usr/share/php{short}-*/*/*.ini"):
        text, name = fresh.read(path), path.rpartition("/")[2]
        asked = _PRIORITY.search(text)
        fresh.write(f"croft/conf.d/{asked[1] if asked else '20'}-{name}", text)
    own = {
        "extension_dir": place / modules,
        "include_path": f".:{place}/usr/share/php",
        "session.save_path": "/tmp",  # noqa: S108 - the distribution's own place for them needs root
    }
    fresh.write("croft/conf.d/00-places.ini", "".join(f'{key} = "{value}"\n' for key, value in own.items()))


def _launcher(fresh: Folder, place: Path, name: str, command: str) -> None:
    libraries = [str(place / found) for where in ("usr/lib", "lib") for found in fresh.matching(f"{where}/*-linux-*")]
    text = _LAUNCHER.format(
        name=name,
        system=shlex.quote(fresh.read(".system")),
        libraries=shlex.quote(":".join(libraries)),
        settings=place / "croft",
        command=command,
    )
    fresh.write(f"croft/{name}", text)
    fresh.chmod(f"croft/{name}", 0o755)
