"""Throwaway accounts, so that a test run as root has the same separation of users as an installed appliance."""

from __future__ import annotations

import grp
import itertools
import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBERS = itertools.count()


@contextmanager
def throwaway_accounts(tag: str) -> Iterator[dict[str, str]]:
    """Names of a daemon, workspace, proxy and engine account; for an ordinary person, all of them are that person."""
    if os.geteuid() != 0:
        person = pwd.getpwuid(os.geteuid()).pw_name
        yield {"daemon": person, "workspace": person, "proxy": person, "ai": person}
        return
    # Numbered: fixtures of several folders are alive at once when the whole suite runs in one process.
    tag = f"{tag}{os.getpid()}-{next(_NUMBERS)}"
    made = {role: f"{role[:5]}-{tag}" for role in ("daemon", "workspace", "proxy", "ai")}
    web = f"{made['daemon']}-web"
    _run("groupadd", "--system", web)
    for role, name in made.items():
        groups = ["--groups", web] if role in ("daemon", "proxy") else []
        _run("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", *groups, name)
    try:
        yield made
    finally:
        for name in made.values():
            _run("userdel", name)
        for group in [entry.gr_name for entry in grp.getgrall() if entry.gr_name in {*made.values(), web}]:
            _run("groupdel", group)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
