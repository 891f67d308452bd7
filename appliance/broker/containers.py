"""What the engine says of our containers, read into small values.

Rule: a container is ours only if its Compose labels say so; one that merely has our name is not looked at.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from appliance.broker.backend import SERVICES
from appliance.broker.cgroups import Group

NAME = "croft"  # of the Compose project
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
_CGROUPS = Path("/sys/fs/cgroup")
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
    image: str
    labels: dict[str, str] = field(default_factory=dict)
    memory: int = 0  # bytes it may use
    networks: dict[str, str] = field(default_factory=dict)  # name to the container's address there

    @property
    def running(self) -> bool:
        return self.status in ("running", "paused", "restarting")

    def row(self) -> dict[str, Any]:
        """The fields of a broker row that come from the container."""
        code, number = self.outcome
        row: dict[str, Any] = {"state": self.state, "since": self.since, "pid": self.pid or None, "run_id": self.run_id}
        row |= {"image": self.image, "memory_limit": self.memory or None}
        if self.running:
            figures = group(self.pid).figures()
            return row | {"memory_bytes": figures["memory_bytes"], "cpu_usec": figures["cpu_usec"]}
        return row | ({"exit_code": code, "signal": number} if self.started else {})

    @property
    def outcome(self) -> tuple[int | None, int | None]:
        """Exit code and signal: 128 and above mean a signal, as far as the engine tells."""
        code = self.exit_code
        return (None, code - 128) if 128 < code < 193 else (code, None)

    @property
    def state(self) -> str:
        """One of the broker's words for it."""
        if self.running:
            return "running"
        return "failed" if self.exit_code or self.oom_killed else "stopped"

    @property
    def run_id(self) -> str | None:
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
    return Seen(
        service,
        document["Id"],
        state["Status"],
        state["Pid"],
        started,
        seconds(started if running else state["FinishedAt"]),
        state["ExitCode"],
        state["OOMKilled"],
        document["Image"],
        labels,
        document["HostConfig"]["Memory"],
        {name: str(one.get("IPAddress", "")) for name, one in (document["NetworkSettings"]["Networks"] or {}).items()},
    )


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
    return datetime.fromisoformat(stamp).timestamp()


def group(pid: int, container: str = "") -> Group:
    """The control group of a container's first process, to read figures from (v1 and v2). Empty once it is gone.

    Where processes of others are hidden (ProtectProc), the folders that the engine gives to ``container`` are tried.
    """
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return Group(_usual_folders(container))
    found: dict[str, Path] = {}
    for row in lines:
        _, controllers, path = row.split(":", 2)
        for controller in controllers.split(","):
            if controller in ("memory", "cpuacct"):
                found[controller] = _CGROUPS / controller / path.lstrip("/")
            elif not controllers:
                found["unified"] = _CGROUPS / path.lstrip("/")
    if "memory" in found:
        found.pop("unified", None)
    return Group(found)


def _usual_folders(container: str) -> dict[str, Path]:
    names = (f"system.slice/docker-{container}.scope", f"docker/{container}") if container else ()
    for name in names:
        if (_CGROUPS / "memory" / name).is_dir():
            return {controller: _CGROUPS / controller / name for controller in ("memory", "cpuacct")}
        if (_CGROUPS / name).is_dir():
            return {"unified": _CGROUPS / name}
    return {}
