"""What the engine says of our containers, read into small values.

Rule: a container is ours only if its Compose labels say so; one that merely has our name is not looked at.
"""

from __future__ import annotations

import calendar
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from appliance.broker.backend import SERVICES
from appliance.broker.cgroups import Group
from appliance.broker.project import NAME, PROJECT_LABEL, SERVICE_LABEL

EVENT_FILTER = quote(json.dumps({"type": ["container"], "label": [f"{PROJECT_LABEL}={NAME}"]}))


class Event(NamedTuple):
    service: str
    action: str


@dataclass(frozen=True)
class Seen:
    """One container. ``since`` is Unix time of its last start or end; ``exit_code`` as the shell would say it."""

    service: str
    id: str
    status: str
    pid: int
    started: str
    since: float
    exit_code: int
    oom_killed: bool
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        return self.status in ("running", "paused", "restarting")

    def row(self) -> dict[str, Any]:
        """The fields of a broker row that come from the container."""
        code, number = _outcome(self.exit_code)
        row: dict[str, Any] = {"state": self._state(), "since": self.since, "pid": self.pid or None,
                               "run_id": self._run_id()}
        if self.running:
            figures = group(self.pid).figures()
            return row | {"memory_bytes": figures["memory_bytes"], "cpu_usec": figures["cpu_usec"]}
        return row | ({"exit_code": code, "signal": number} if self.started else {})

    def _state(self) -> str:
        if self.running:
            return "running"
        return "failed" if self.exit_code or self.oom_killed else "stopped"

    def _run_id(self) -> str | None:
        """Names one start of one container; None before the first."""
        return f"{self.id[:12]}-{self.started}" if self.started else None


def name(service: str) -> str:
    """The container's fixed name (compose.yaml)."""
    return f"croft-{service}"


def read(service: str, document: dict[str, Any]) -> Seen | None:
    """The answer to an inspect; None when the container is not the project's."""
    labels, state = document["Config"]["Labels"] or {}, document["State"]
    if labels.get(PROJECT_LABEL) != NAME or labels.get(SERVICE_LABEL) != service:
        return None
    started = "" if state["StartedAt"].startswith("0001") else str(state["StartedAt"])
    running = state["Status"] in ("running", "paused", "restarting")
    return Seen(service, document["Id"], state["Status"], state["Pid"], started,
                seconds(started if running else state["FinishedAt"]), state["ExitCode"], state["OOMKilled"], labels)


def event(line: bytes) -> Event | None:
    """One line of the engine's events; None for what is not about a service of ours."""
    try:
        document = json.loads(line or b"null")
        service = document["Actor"]["Attributes"][SERVICE_LABEL]
        return Event(service, str(document["Action"])) if service in SERVICES else None
    except (ValueError, KeyError, TypeError):
        return None


def seconds(stamp: str) -> float:
    """Unix time of an RFC 3339 stamp in UTC, as the engine writes them; 0.0 for one that was never set."""
    if not stamp or stamp.startswith("0001"):
        return 0.0
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")


def group(pid: int) -> Group:
    """The control group of a container's first process, to read figures from (v1 and v2). Empty once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    found: dict[str, Path] = {}
    for row in lines:
        _, controllers, path = row.split(":", 2)
        for controller in controllers.split(","):
            if controller in ("memory", "cpuacct"):
                found[controller] = Path("/sys/fs/cgroup") / controller / path.lstrip("/")
            elif not controllers:
                found.setdefault("unified", Path("/sys/fs/cgroup") / path.lstrip("/"))
    if "memory" in found:
        found.pop("unified", None)
    return Group(found)


def _outcome(code: int) -> tuple[int | None, int | None]:
    """Exit code and signal: 128 and above mean a signal, as far as the engine tells."""
    return (None, code - 128) if 128 < code < 193 else (code, None)
