"""A policy's text without its history: the packaged one, and reading one from a file.

Rule: as light as can be, for ``croft policy`` answers without a daemon and is run once for each question.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from msgspec import Struct

from appliance.commands.judge import Policy
from appliance.commands.language import MOST_BYTES, load
from appliance.commands.policy_source import PolicyFault
from appliance.errors import Invalid, Unavailable
from appliance.messages import Message


class Fault(Struct, frozen=True):
    """Why the file on disk is not in force: its line (0: no line) and what is wrong there."""

    line: int
    message: Message


class BadPolicy(Invalid):
    """A text that is no policy; ``fault`` says where and why."""

    code = "policy_fault"

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"cannot use the policy: line {fault.line} is wrong", hint="`croft policy check` says more.")
        self.fault = fault


def packaged() -> str:
    """The default policy as it came with this version."""
    return Path(__file__).with_name("policy.toml").read_text("utf-8")


def check(text: str) -> Policy:
    """The policy that ``text`` says. Raises BadPolicy."""
    try:
        # The packaged rules were tried when this version was made.
        return load(text, tried=text == packaged())
    except PolicyFault as fault:
        raise BadPolicy(Fault(fault.line, fault.message)) from fault


def read_policy(path: Path) -> Policy:
    """The policy in a file, for commands that need no daemon. Raises BadPolicy, Unavailable."""
    try:
        return check(text_of(path))
    except PolicyFault as fault:
        raise BadPolicy(Fault(fault.line, fault.message)) from fault
    except OSError as error:
        raise Unavailable(f"cannot read the policy: {error.strerror}", hint="Name a readable file.") from error


def text_of(path: Path, *, in_force: bool = False) -> str:
    """The file as text. ``in_force``: it decides, so nobody else may own or change it. Raises OSError, PolicyFault."""
    # Without waiting: a pipe in its place would keep whoever opens it forever.
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - a descriptor
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no ordinary file")
        if in_force and (found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH):
            raise OSError(errno.EPERM, "another account can change it")
        data = file.read(MOST_BYTES + 1)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyFault(data[: error.start].count(b"\n") + 1, "encoding") from error
