"""The process runtime without systemd: the broker forks each service itself.

Rule: at most one process per service, also across a broker that died: what the record names and still lives is adopted.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Mapping
from typing import Any

from appliance.broker import caddyfile, catalogue, layout
from appliance.broker.accounts import Accounts
from appliance.broker.backend import SERVICES, Notify, Row
from appliance.broker.caddy_check import check
from appliance.broker.cgroups import Group, Limits
from appliance.broker.launch import Launch, launch
from appliance.broker.logs import Logs, rotate
from appliance.broker.processes import Process, Processes
from appliance.broker.protocol import Verb
from appliance.broker.runs import outcome
from appliance.broker.sharing import Sharing, for_start
from appliance.broker.spawn import fresh_group, held
from appliance.broker.stragglers import MARK
from appliance.errors import Conflict
from appliance.settings import Settings

_ROTATE_SECONDS = 2.0
_SHUTDOWN_GRACE = 10.0


class ForkedBackend:
    """See :class:`~appliance.broker.backend.ServiceBackend`."""

    runtime = "process"

    def __init__(
        self, settings: Settings, accounts: Accounts, processes: Processes, logs: Logs, notify: Notify
    ) -> None:
        self._settings = settings
        self._accounts = accounts
        self._processes = processes
        self._logs = logs
        self._notify = notify
        processes.on_gone("service", self._gone)
        self._last: dict[str, dict[str, Any]] = {}
        self._sharing = Sharing(settings, docker=False)

    def register(self, selector: selectors.BaseSelector) -> None:
        """Nothing of its own: the processes are watched where they are kept."""

    def verbs(self) -> Mapping[str, Verb]:
        return {}

    def services(self) -> list[Row]:
        return [self._row(service) for service in SERVICES]

    def start(self, service: str, model_mb: int | None, started_by: str, safe: bool = False) -> Row:
        running = self._processes.get(_name(service))
        if running is not None:
            if running.reason or running.ended:
                raise Conflict(f"the {service} service is still stopping", code="stopping")
            return self._row(service)
        program = catalogue.program(self._settings, self._accounts, service, safe=safe)
        if service == "proxy":
            self._render(program)
        self.share(for_start(service, model_mb))
        share = self._sharing.given(service, self._groups())
        self._last.pop(service, None)
        process = self._launch(service, program, Limits(share.memory_mb, share.cpus, program.pids))
        process.started_by = started_by
        self._processes.add(process)
        return self._row(service)

    def share(self, model_mb: int | None) -> None:
        self._sharing.follow(model_mb)
        groups = self._groups()
        for service, megabytes in self._sharing.steps(groups):
            groups[service].limit_memory(megabytes)

    def stop(self, service: str, grace: float) -> Row:
        process = self._processes.get(_name(service))
        if process is not None:
            self._processes.stop(process, grace, "stopped")
        elif service in self._last:
            self._last[service] |= {"state": "stopped"}
        return self._row(service)

    def logs(self, service: str) -> int:
        return self._logs.read(service)

    def pump(self) -> float | None:
        live = self._processes.of_kind("service")
        for process in live:
            rotate(self._logs, process.note["service"])
        return _ROTATE_SECONDS if live else None

    def shutdown(self) -> None:
        for process in self._processes.of_kind("service"):
            self._processes.stop(process, _SHUTDOWN_GRACE, "stopped")

    def busy(self) -> bool:
        return bool(self._processes.of_kind("service"))

    def _groups(self) -> dict[str, Group]:
        return {one.note["service"]: one.group for one in self._processes.of_kind("service") if one.group}

    def _gone(self, process: Process) -> None:
        """Tell everyone; the service's row keeps how it ended."""
        service, end = process.note["service"], outcome(process)
        state = "stopped" if process.reason == "stopped" or end["exit_code"] == 0 else "failed"
        self._last[service] = {
            "state": state,
            "since": time.time(),
            "exit_code": end["exit_code"],
            "signal": end["signal"],
            "started_by": process.started_by,
            "run_id": process.note["run_id"],
        }
        self._notify({"event": "exit", "service": service, "run_id": process.note["run_id"], **end})

    def _row(self, service: str) -> Row:
        row: Row = {
            "service": service,
            "state": "stopped",
            "since": None,
            "pid": None,
            "exit_code": None,
            "signal": None,
            "started_by": None,
            "run_id": None,
            "memory_bytes": None,
            "memory_limit": None,
            "cpu_usec": None,
            "outdated": False,
        }
        process = self._processes.get(_name(service))
        if process is None:
            absent = {} if catalogue.present(self._settings, service) else {"state": "absent"}
            return row | self._last.get(service, {}) | absent
        figures = process.group.figures() if process.group else {}
        return row | {
            "state": "stopping" if process.reason or process.ended else "running",
            "since": process.since,
            "pid": process.pid,
            "started_by": process.started_by,
            "run_id": process.note["run_id"],
            "memory_bytes": figures.get("memory_bytes"),
            "memory_limit": process.group.memory_limit() if process.group else None,
            "cpu_usec": figures.get("cpu_usec"),
            "outdated": service == "proxy" and caddyfile.outdated(self._settings, self.runtime),
        }

    def _render(self, program: catalogue.Program) -> None:
        text = caddyfile.render(self._settings, self.runtime)
        check(
            program,
            text,
            catalogue.caddyfile_path(self._settings),
            program.account if self._accounts.switching else None,
        )

    def _launch(self, service: str, program: catalogue.Program, limits: Limits) -> Process:
        name, run_id, switching = _name(service), os.urandom(8).hex(), self._accounts.switching
        with contextlib.ExitStack() as stack:
            root = held(stack, layout.open_folder(program.folder, program.account.uid))
            log = held(stack, self._logs.append(service))
            null = held(stack, os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
            group = stack.enter_context(fresh_group(self._processes, name, limits))
            pid = launch(
                Launch(
                    program.argv,
                    root,
                    null,
                    log,
                    log,
                    env=program.env | {MARK: run_id},
                    group=group,
                    account=program.account if switching else None,
                    rlimits=catalogue.rlimits(program),
                    capabilities=program.capabilities,
                    umask=program.umask,
                    network=program.network or not switching,
                    loopback=not program.network,
                    entry=program.entry,
                    oom_score_adj=program.oom_score_adj if switching else None,
                )
            )
        return Process(name, "service", pid, 0, time.time(), group, note={"service": service, "run_id": run_id})


def _name(service: str) -> str:
    return f"service-{service}"
