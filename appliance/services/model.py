"""What is known, wanted and done about the services, as plain frozen values.

Rule: no I/O and no clock in here. Times called ``since`` and ``at`` are Unix seconds, for people; times the
planner compares are seconds of uptime, so that a jump of the wall clock changes nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, get_args

from msgspec import Struct, field

from appliance.messages import Message, Params

ServiceName = Literal["proxy", "ide", "ai"]
SERVICES: tuple[ServiceName, ...] = get_args(ServiceName)

Action = Literal["start", "stop", "restart"]
Severity = Literal["info", "warning", "error"]


class State(StrEnum):
    """What a runtime says of a service. ``absent``: there is nothing that could be started, or no container
    yet."""

    ABSENT = "absent"
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"


class Health(StrEnum):
    """What our own probes say, beyond "it is up"."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Want(StrEnum):
    """What a person (or the default) asked for. ``stop`` is a deliberate stop: nothing but a person ends
    it."""

    RUN = "run"
    STOP = "stop"
    ON_DEMAND = "on_demand"


class Missing(StrEnum):
    """Why an absent service is absent. ``container`` and ``image`` can be mended by the runtime,
    ``program`` cannot."""

    NOTHING = ""
    CONTAINER = "container"
    IMAGE = "image"
    PROGRAM = "program"


class Supply(StrEnum):
    """Where another version of a service would come from: from nowhere, it is ``current``; ``fetch`` from a registry of
    images; ``held``, here already and used from the next start on; with the ``installer``."""

    CURRENT = "current"
    FETCH = "fetch"
    HELD = "held"
    INSTALLER = "installer"


class Progress(Struct, frozen=True):
    """How far a start or a download is. ``current`` of ``total`` bytes; 0 means not known.

    Phases in order: pulling, extracting, creating, starting, loading, ready.
    """

    phase: str
    current: int = 0
    total: int = 0


class Observed(Struct, frozen=True):
    """One service as its runtime sees it now.

    ``run_id`` names one start: it changes with every start and survives a restart of the daemon, which is
    how a running service is adopted. ``cpu_usec`` counts since that start. ``signal`` is 0 unless a signal
    ended the process.
    """

    service: ServiceName
    state: State
    since: float = 0.0
    run_id: str | None = None
    pid: int | None = None
    exit_code: int | None = None
    signal: int = 0
    oom_killed: bool = False
    missing: Missing = Missing.NOTHING
    memory_bytes: int = 0
    memory_limit: int = 0
    cpu_usec: int = 0
    outdated: bool = False  # runs with a configuration that is not the present one
    detail: str = ""  # the runtime's own words on a failure, for the log


class Desired(Struct, frozen=True):
    """What one service should be doing.

    ``awake`` counts for ``on_demand`` only. ``generation`` grows when a person starts the service or its
    configuration changes: past failures are forgotten then, and a parked service is tried again.
    ``replaced_run`` is a run that a person wants ended and followed by another: a restart. ``fetch_at`` (seconds of
    uptime) is when to fetch its image although it has one, while whatever runs goes on.
    """

    service: ServiceName
    want: Want
    awake: bool = False
    generation: int = 0
    replaced_run: str | None = None
    fetch_at: float | None = None

    @property
    def running(self) -> bool:
        """Whether the service should run now."""
        return self.want is Want.RUN or (self.want is Want.ON_DEMAND and self.awake)


class Start(Struct, frozen=True):
    """Start it. ``safe`` starts the IDE without extensions."""

    service: ServiceName
    safe: bool = False


class Stop(Struct, frozen=True):
    """Stop it: TERM, then KILL after ``grace`` seconds. ``why`` is asked, unhealthy, too_slow or outdated."""

    service: ServiceName
    why: str

    @property
    def grace(self) -> float:
        """No grace for the engine: it has nothing to save, and LocalAI would first finish what nobody waits for (AI-13)."""
        return 0.0 if self.service == "ai" else 10.0


class PullImage(Struct, frozen=True):
    """Fetch the image (docker runtime only)."""

    service: ServiceName


class Probe(Struct, frozen=True):
    """Ask it whether it works."""

    service: ServiceName


class Park(Struct, frozen=True):
    """Give up until a person starts it or its configuration changes; ``reason`` is a problem code."""

    service: ServiceName
    reason: str


class Wait(Struct, frozen=True):
    """Nothing to do before ``until`` (seconds of uptime) unless something happens; ``why`` is shown."""

    service: ServiceName
    until: float
    why: str


Step = Start | Stop | PullImage | Probe | Park | Wait


class LogLine(Struct, frozen=True):
    """One line a service wrote, without its newline. ``at`` is Unix seconds where the runtime knows it."""

    text: str
    at: float | None = None


class Problem(Struct, frozen=True):
    """Something known to be wrong, what it touches, and the owner's next step
    (``problem.CODE.title|why|next``)."""

    code: str
    severity: Severity
    service: ServiceName | None = None
    params: Params = field(default_factory=dict)

    @property
    def title(self) -> Message:
        return Message(f"problem.{self.code}.title", self.params)

    @property
    def why(self) -> Message:
        return Message(f"problem.{self.code}.why", self.params)

    @property
    def next(self) -> Message:
        return Message(f"problem.{self.code}.next", self.params)


class ServiceView(Struct, frozen=True):
    """One service as pages, ``croft services`` and the event stream show it.

    ``state`` is what people mean: ``starting`` until the first probe has passed. ``parked`` is a problem
    code. ``retry_at`` is Unix seconds. ``actions`` are the ones that make sense now; who may take them is
    decided elsewhere. ``updating``: another version is being fetched.
    """

    name: ServiceName
    state: State
    since: float
    health: Health
    want: Want
    reason: Message | None = None
    memory_bytes: int = 0
    memory_limit: int = 0
    cpu_percent: float = 0.0
    parked: str | None = None
    retry_at: float | None = None
    safe: bool = False
    updating: bool = False
    log_tail: tuple[str, ...] = ()
    progress: Progress | None = None
    actions: tuple[Action, ...] = ()
