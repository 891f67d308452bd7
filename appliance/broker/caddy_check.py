"""Writing a Caddyfile that Caddy itself has accepted.

Rule: the file in use is replaced only by one that `caddy validate`, run as the proxy's own user, calls valid.
"""

from __future__ import annotations

import os
from pathlib import Path

from appliance.broker import catalogue
from appliance.broker.accounts import Account
from appliance.broker.command import run
from appliance.errors import Invalid

_SECONDS = 10.0


def check(program: catalogue.Program, text: str, path: Path, account: Account | None) -> None:
    """Validate ``text`` and put it at ``path``. Raises Invalid with Caddy's own words."""
    fresh = path.with_suffix(".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        os.fchown(fd, os.geteuid(), program.account.gid)
        os.fchmod(fd, 0o640)  # whatever the umask is
        file.write(text)
    argv = (program.argv[0], "validate", "--config", str(fresh), "--adapter", "caddyfile")
    status, said = run(argv, seconds=_SECONDS, account=account, env=program.env)
    if status != 0:
        fresh.unlink()
        words = [line for line in said.splitlines() if not line.startswith("{")]
        raise Invalid(f"cannot use the proxy's configuration: {words[-1] if words else 'caddy gave no reason'}"[:1000])
    fresh.replace(path)
