"""The process runtime under systemd: each service is a root-owned unit that the broker only starts and stops.

Rule: every word of every systemctl call is fixed here or a checked number; unit names come from the catalogue's three
names.
"""

from __future__ import annotations

import os
import re
import selectors
import sys
import time
from collections.abc import Mapping

from appliance.broker import caddyfile, catalogue
from appliance.broker.accounts import Accounts
from appliance.broker.backend import SERVICES, Notify, Row
from appliance.broker.caddy_check import check
from appliance.broker.cgroups import Group
from appliance.broker.command import run
from appliance.broker.containers import group
from appliance.broker.logs import Logs, rotate
from appliance.broker.protocol import Verb
from appliance.broker.sharing import Sharing, for_start
from appliance.errors import CroftError, Unavailable
from appliance.settings import Settings

SYSTEMCTL = "/usr/bin/systemctl"
_PROPERTIES = (
    "Id,LoadState,ActiveState,Result,MainPID,ExecMainStatus,ExecMainCode,InvocationID,MemoryCurrent,MemoryMax,"
    "CPUUsageNSec,StateChangeTimestampMonotonic"
)
_ALWAYS_SHOWN = {
    "LoadState",
    "ActiveState",
    "MainPID",
    "ExecMainStatus",
    "ExecMainCode",
    "StateChangeTimestampMonotonic",
}
_STATES = {
    "active": "running",
    "reloading": "running",
    "activating": "starting",
    "deactivating": "stopping",
    "failed": "failed",
}
_KILLED = 2  # CLD_KILLED, what ExecMainCode says of a death by signal
_SYSTEMCTL_SECONDS = 15.0
_WATCH_SECONDS, _SOON_SECONDS = 2.0, 0.5


class UnitsBackend:
    """See :class:`~appliance.broker.backend.ServiceBackend`."""

    runtime = "process"

    def __init__(
        self, settings: Settings, accounts: Accounts, logs: Logs, notify: Notify, *, systemctl: str = SYSTEMCTL
    ) -> None:
        self._program = systemctl
        self._settings = settings
        self._accounts = accounts
        self._logs = logs
        self._notify = notify
        self._sharing = Sharing(settings, docker=False)
        self._started_by: dict[str, str] = {}
        self._pidfds: dict[str, int] = {}
        self._ended_at: dict[str, float] = {}
        self._unseen: set[str] = set()
        self._selector: selectors.BaseSelector

    def register(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self.services()

    def verbs(self) -> Mapping[str, Verb]:
        return {}

    def services(self) -> list[Row]:
        """One `systemctl show` for all three (about 10 ms)."""
        text = self._systemctl("show", f"--property={_PROPERTIES}", *(unit(service) for service in SERVICES))
        blocks = [dict(re.findall(r"(?m)^(\w+)=(.*)$", block)) for block in text.strip().split("\n\n")]
        if len(blocks) != len(SERVICES) or not all(set(block) >= _ALWAYS_SHOWN for block in blocks):
            raise Unavailable(f"cannot show the services: systemctl said {text[:200]!r}")
        rows = [self._row(service, block) for service, block in zip(SERVICES, blocks, strict=True)]
        for row in rows:
            self._watch(row)
        return rows

    def start(self, service: str, model_mb: int | None, started_by: str, safe: bool = False) -> Row:
        """``safe`` makes no difference here: a unit's words are fixed when it is installed."""
        program = catalogue.program(self._settings, self._accounts, service)
        if service == "proxy":
            check(
                program,
                caddyfile.render(self._settings, self.runtime),
                catalogue.caddyfile_path(self._settings),
                program.account,
            )
        self.share(for_start(service, model_mb))
        groups = self._groups()
        if service not in groups:  # what runs has had its limits by now, as far as that went
            share = self._sharing.given(service, groups)
            limits = (f"MemoryMax={share.memory_mb}M", f"CPUQuota={round(share.cpus * 100)}%")
            self._systemctl("set-property", "--runtime", unit(service), *limits)
        self._systemctl("reset-failed", unit(service))
        self._systemctl("start", "--no-block", unit(service))
        self._started_by[service] = started_by
        self._unseen.add(service)
        return self._one(service)

    def share(self, model_mb: int | None) -> None:
        self._sharing.follow(model_mb)
        groups = self._groups()
        for service, megabytes in self._sharing.steps(groups):
            with groups[service].pressed(megabytes) as fits:
                if fits:  # on v1 systemd tries, and leaves the limit where it was if the kernel refuses
                    self._systemctl("set-property", "--runtime", unit(service), f"MemoryMax={megabytes}M")

    def stop(self, service: str, grace: float) -> Row:
        """The unit's own TimeoutStopSec bounds the grace; a grace of 0 kills first."""
        if grace == 0:
            self._systemctl("kill", "--signal=KILL", unit(service))
        self._systemctl("stop", "--no-block", unit(service))
        return self._one(service)

    def logs(self, service: str) -> int:
        return self._logs.read(service)

    def pump(self) -> float | None:
        """Rotate logs; look again at a unit that was started but had no process yet."""
        for service in SERVICES:
            rotate(self._logs, service)
        if self._unseen:
            self._look()
        return _SOON_SECONDS if self._unseen else _WATCH_SECONDS if self._pidfds else None

    def shutdown(self) -> None:
        """Nothing: the units belong to systemd, which ends them with croft.service."""

    def busy(self) -> bool:
        return False

    def _groups(self) -> dict[str, Group]:
        return {row["service"]: group(row["pid"]) for row in self.services() if row["pid"] is not None}

    def _systemctl(self, *words: str) -> str:
        status, said = run((self._program, "--no-pager", "--no-ask-password", *words), seconds=_SYSTEMCTL_SECONDS)
        if status != 0 and words[0] not in ("reset-failed", "kill"):
            reason = said.strip()[:300] or f"systemctl ended with {status}"
            raise Unavailable(f"cannot {words[0]} the service: {reason}")
        return said

    def _one(self, service: str) -> Row:
        return next(row for row in self.services() if row["service"] == service)

    def _row(self, service: str, block: dict[str, str]) -> Row:
        state = _STATES.get(block["ActiveState"], "stopped")
        if block["LoadState"] != "loaded" or not catalogue.present(self._settings, service):
            state = "absent"
        ended = state in ("stopped", "failed") and block["ExecMainCode"] != "0"
        status, killed = _number(block["ExecMainStatus"]), int(block["ExecMainCode"]) >= _KILLED
        cpu = _number(block.get("CPUUsageNSec", ""))
        # systemd forgets a unit that has stopped well, and with it when that was.
        since = _wall(_number(block["StateChangeTimestampMonotonic"])) or self._ended_at.get(service)
        return {
            "service": service,
            "state": state,
            "since": since,
            "pid": _number(block["MainPID"]) or None,
            "exit_code": status if ended and not killed else None,
            "signal": status if ended and killed else None,
            "started_by": self._started_by.get(service),
            "run_id": block.get("InvocationID") or None,
            "memory_bytes": _number(block.get("MemoryCurrent", "")),
            "memory_limit": _number(block.get("MemoryMax", "")),
            "cpu_usec": None if cpu is None else cpu // 1000,
            "outdated": state == "running" and service == "proxy" and caddyfile.outdated(self._settings, self.runtime),
        }

    def _watch(self, row: Row) -> None:
        """Hear of the end of what runs, through a pidfd."""
        service, pid = row["service"], row["pid"]
        if pid is not None or row["state"] != "starting":
            self._unseen.discard(service)
        if pid is None or service in self._pidfds:
            return
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        self._pidfds[service] = pidfd
        self._selector.register(pidfd, selectors.EVENT_READ, lambda mask: self._ended(service, row["run_id"]))

    def _ended(self, service: str, run_id: str | None) -> None:
        pidfd = self._pidfds.pop(service)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        self._ended_at[service] = time.time()
        row = next((row for row in self._look() if row["service"] == service), _UNKNOWN)
        reason = "stopped" if row["state"] in ("stopping", "stopped") else "exit"
        self._notify(
            {
                "event": "exit",
                "service": service,
                "run_id": run_id,
                "exit_code": row["exit_code"],
                "signal": row["signal"],
                "reason": reason,
                "usage": {"cpu_usec": row["cpu_usec"]},
            }
        )

    def _look(self) -> list[Row]:
        """The rows; none while systemd does not answer (it is being updated, the machine is short of processes)."""
        try:
            return self.services()
        except (CroftError, OSError) as error:
            sys.stderr.write(f"croft broker: cannot look at the services: {error}\n")
            return []


_UNKNOWN: Row = {"state": "unknown", "exit_code": None, "signal": None, "cpu_usec": None}


def unit(service: str) -> str:
    """The unit of a service."""
    return f"croft-{service}.service"


def _number(text: str) -> int | None:
    value = int(text) if text.isdigit() else None
    return None if value == (1 << 64) - 1 else value  # systemd's "not known"


def _wall(microseconds: int | None) -> float | None:
    """Unix time of a CLOCK_MONOTONIC stamp."""
    if not microseconds:
        return None
    return time.time() - (time.clock_gettime(time.CLOCK_MONOTONIC) - microseconds / 1e6)
