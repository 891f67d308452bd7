"""The environment of a run: made from nothing, plus the few names a request may set.

Rule: a list of what is allowed, never of what is refused. Names that make a program load or run something (LD_*,
GIT_*, NODE_OPTIONS, PYTHON*, BASH_ENV, pagers, editors) are not on it; where a policy turns a pager or the settings of the
home folder off, that one value is.
"""

from __future__ import annotations

import re

from appliance.broker.accounts import Account
from appliance.broker.launch import SEARCH_PATH
from appliance.broker.stragglers import MARK
from appliance.errors import Invalid

_FREE = re.compile(r"LANG|LANGUAGE|LC_[A-Z]{1,20}|TZ|TERM|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|CLICOLOR|CI")
_VALUE = re.compile(r"[A-Za-z0-9_.@:+/-]{0,64}")
_FIXED = {
    "PAGER": "cat", "GIT_PAGER": "cat", "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": "/dev/null", "PYTHONNOUSERSITE": "1"
}  # fmt: skip


def build(given: dict[str, str], account: Account, home: str, run: str) -> dict[str, str]:
    """The whole environment. Raises Invalid naming the variable that is not allowed."""
    for name, value in given.items():
        if not _allowed(name, value):
            raise Invalid(f"the variable {name} may not be set to this", code="env_refused")
    return (
        {"LANG": "C.UTF-8", "PATH": ":".join(SEARCH_PATH)}
        | given
        | {"HOME": home, "USER": account.name, "LOGNAME": account.name, "SHELL": "/bin/sh", MARK: run}
    )


def _allowed(name: str, value: str) -> bool:
    if name == "PATH":
        return set(value.split(":")) <= set(SEARCH_PATH)
    if name in _FIXED:
        return value == _FIXED[name]
    return bool(_FREE.fullmatch(name) and _VALUE.fullmatch(value))
