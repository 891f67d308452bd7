"""Where questions go: the engine behind service `ai`, or another OpenAI-compatible endpoint that an admin chose.

Rule: whoever asks the engine something holds it (:meth:`Engine.hold`) from the question to the last byte of the answer; an engine
that is held is never stopped. Its key never leaves the daemon (AI-10).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from appliance.errors import Unavailable


class EngineState(StrEnum):
    """``none``: there is no engine, or no model (``reason`` says which). ``asleep``: it starts with the next question."""

    NONE = "none"
    ASLEEP = "asleep"
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


class EngineStatus(Struct, frozen=True):
    """What people are told. ``remote``: text leaves this machine, to ``host`` (PRV-3). ``reason`` is one of :data:`REASONS`, for
    words in the catalogue (``engine.reason.CODE``); ``progress`` while starting: ``{"phase": "image" | "engine" | "model" | "warm",
    "current": n, "total": n}`` in bytes, as far as known. ``context``: tokens it can hold, 0 if unknown. ``holds``: how many
    questions it works on for us."""

    state: EngineState
    remote: bool = False
    host: str = ""
    model: str = ""
    context: int = 0
    reason: str = ""
    progress: Mapping[str, Any] = msgspec.field(default_factory=dict)
    holds: int = 0


# ``no_engine``: nothing that could serve a model is installed. ``no_model``: none is chosen, or its file is gone. ``damaged``: what is
# chosen is no model. ``unclear``: what is chosen cannot be read. ``too_small``: it does not fit this machine. ``stopped``: a person
# stopped it. ``failed``: it kept failing and was given up. ``no_endpoint``: remote, but no address or model is set. ``off``: turned
# off in the settings. ``no_room``: said to who asked alone, the next question tries again: the editor holds the memory that it needs.
REASONS = (
    "no_engine",
    "no_model",
    "damaged",
    "unclear",
    "too_small",
    "stopped",
    "failed",
    "no_endpoint",
    "off",
    "no_room",
)


class NoEngine(Unavailable):
    """There is nobody to answer. ``reason`` is one of REASONS."""

    def __init__(self, reason: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, code=f"ai_{reason}")
        self.reason = reason


@dataclass(frozen=True)
class Upstream:
    """Where one request goes.

    ``base`` ends in ``/v1``. With ``socket`` the connection is made there, with ``address`` (and the port of ``base``) to that address
    and to no other: the host in ``base`` is then only the name in the request and its TLS. Redirects are never followed (AI-10).
    ``key`` is sent as Bearer where it is not empty. ``model`` is the engine's name for the model in use.

    Ask with ``stream``: llama.cpp's server (2026-10) notices that nobody waits any more only where it sends an answer piece by piece,
    and works on an unstreamed one to its end; then it has to begin anew, which takes a second and more.
    """

    base: str
    key: str = field(repr=False)
    model: str
    context: int
    remote: bool = False
    socket: Path | None = None
    address: str = ""
    tools: bool = False  # whether the model is known to call tools; others get constrained output


class Engine(Protocol):
    """Implemented in this room; tests may put one over a scripted server."""

    def status(self) -> EngineStatus:
        """As of now; costs nothing. Changes are published on topic ``assistant``."""

    def hold(self, purpose: str, *, wait: float = 900.0) -> AbstractAsyncContextManager[Upstream]:
        """Wake the engine if it sleeps, wait up to ``wait`` seconds until it is ready, and keep it awake meanwhile.

        Raises NoEngine when there is none or it cannot be started, Unavailable when it does not get ready in time.
        """

    async def idle(self) -> bool:
        """Whether the engine itself says that it works on nothing (AI-13)."""
