"""The words of a decision: who asks for what, and what comes out of it.

Rule: values only. A Request is built once from what was typed; policy, approval hash, audit and execution all use the
Judgement's stages, and nobody splits or joins text again (SECURITY 5.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from msgspec import Struct, field

from appliance.messages import Message

Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")
Scope = Literal["workspace", "host"]
# What a command does at most; only "read" may ever run at once for the assistant (AI-2, AI-3).
Effect = Literal["read", "write", "run", "network"]


class Actor(StrEnum):
    """On whose behalf a command is asked for."""

    HUMAN = "human"
    AI = "ai"
    TOKEN = "token"  # noqa: S105 - an actor, not a secret
    REGISTRY = "registry"


class Verdict(StrEnum):
    """What happens to a command."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


class Limits(Struct, frozen=True):
    """What one run may use: seconds of time, KiB of output, processes, MiB of memory, and how many may run at once."""

    seconds: int = 30
    output_kb: int = 256
    pids: int = 64
    memory_mb: int = 512
    parallel: int = 2


class Rate(Struct, frozen=True):
    """How often a rule may be used by one asker."""

    per_minute: int = 20
    per_day: int = 1000


class Request(Struct, frozen=True):
    """A command as somebody asked for it. ``cwd`` is relative to the workspace; "" is its root.

    In host scope there is one stage, and its argv is a typed verb such as ``("service", "restart", "ide")``.
    """

    stages: tuple[tuple[str, ...], ...]
    actor: Actor
    role: Role
    scope: Scope = "workspace"
    cwd: str = ""


class Stage(Struct, frozen=True):
    """One program of a run: ``argv`` is what is executed, ``typed`` what was asked for, ``rule`` the id that decided."""

    argv: tuple[str, ...]
    typed: tuple[str, ...]
    rule: str
    verdict: Verdict


class TypedPath(Struct, frozen=True):
    """A path beneath the workspace, resolved there again when the run starts (POL-9).

    ``value`` is relative to the run's folder and lies in ``stages[stage].argv[index]`` (after a ``=`` where it belongs to a
    flag). ``new``: it need not exist yet, its folder must. ``maybe``: it may be no path at all (a revision); where something of that
    name exists, it must lie in the workspace.
    """

    stage: int
    index: int
    value: str
    new: bool = False
    maybe: bool = False


class Failure(Struct, frozen=True):
    """Which token of which stage did not fit the rule that came closest (POL-14). ``index`` counts in what was typed."""

    stage: int
    index: int
    token: str
    rule: str
    code: str


class Judgement(Struct, frozen=True):
    """What the policy says about a request, and everything that is needed to carry it out."""

    verdict: Verdict
    rule: str
    reason: Message
    stages: tuple[Stage, ...]
    env: Mapping[str, str]
    limits: Limits
    rate: Rate
    checks: tuple[str, ...] = ()
    paths: tuple[TypedPath, ...] = ()
    effect: Effect = "run"
    leasable: bool = False
    digest: str = ""
    failure: Failure | None = None
    hints: tuple[Message, ...] = field(default=())
