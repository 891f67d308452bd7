"""Putting `Services` together for this machine: the runtime the broker serves, the probes. Used by the daemon alone."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

from appliance.assembly_assistant import join_own_data
from appliance.assembly_engine import engine_probe
from appliance.assistant import choice
from appliance.broker.client import BrokerClient, call_alone
from appliance.broker.client import call as broker_call
from appliance.commands import people as history_of_people
from appliance.commands import runbooks
from appliance.commands.assessing import Machine
from appliance.commands.front import Commands
from appliance.commands.history import History
from appliance.commands.host import HostVerbs
from appliance.commands.judge import Policy
from appliance.commands.merging import Merger
from appliance.commands.model import Role
from appliance.commands.named import NamedChecks
from appliance.commands.records import Records
from appliance.commands.rehearsal import Rehearsals
from appliance.commands.runs import Runs
from appliance.commands.workspace import WorkspaceFiles
from appliance.errors import Unavailable
from appliance.events import EventBus
from appliance.host.packages import Packages
from appliance.host.toolbox import Toolbox
from appliance.identity.mail import Mailer
from appliance.identity.own_data import OwnData
from appliance.identity.sessions import Limits as SessionLimits
from appliance.identity.users import Users
from appliance.services import health
from appliance.services.connection import count_terminals
from appliance.services.manager import Services, Surroundings
from appliance.services.model import SERVICES, Problem
from appliance.services.problems import problem
from appliance.services.process_runtime import ProcessRuntime
from appliance.services.runtime import Runtime
from appliance.services.wishes import Wishes
from appliance.settings import Settings
from appliance.store import Store
from appliance.telemetry.monitor import Monitor, Use
from appliance.telemetry.store import TelemetryStore

TOOL_SECONDS = 1800  # for fetching packages over a slow line


def session_limits(settings: Settings) -> SessionLimits:
    """How long sessions last, as the settings say it."""
    minute, hour, day = 60.0, 3600.0, 86400.0
    return SessionLimits(
        idle=settings.session_idle_minutes * minute,
        absolute=settings.session_hours * hour,
        remembered=settings.session_remember_days * day,
    )


def ide_uid(settings: Settings) -> int:
    """Uid that must answer on the IDE's socket: the owner of its folder, which only the broker makes."""
    return settings.paths.socket("ide").parent.stat().st_uid


def build_services(
    settings: Settings,
    store: Store,
    bus: EventBus,
    broker: Mapping[str, Any],
    proxy_version: str,
    jitter: Callable[[], float],
    more_problems: Callable[[], list[Problem]] = list,
    active_runs: Callable[[], int] = lambda: 0,
) -> Services:
    """``broker`` is what the broker said of itself, ``proxy_version`` what Caddy did; ``more_problems``
    are those that other rooms know of, ``active_runs`` says how many commands are under way."""
    docker = broker["runtime"] == "docker"
    client = BrokerClient(settings.paths.socket("broker"))
    probe = engine_probe(settings, docker=docker, in_use=lambda: services.in_use("ai"))
    services = Services(
        _docker_runtime(client, settings) if docker else ProcessRuntime(client),
        health.probes(settings, ide_uid=ide_uid(settings), root=settings.paths.proxy_root, ai=probe),
        _model_need(settings),
        store.clock,
        bus,
        Wishes(store.database, store.clock),
        Surroundings(
            state=settings.paths.state,
            acme=settings.proxy_tls == "acme",
            idle_minutes={"ide": settings.ide_idle_minutes, "ai": settings.ai_idle_minutes},
            terminals=lambda: count_terminals(client),
            active_runs=active_runs,
            port_owner=port_owner,
            proxy_version="" if docker else proxy_version,
            more_problems=more_problems,
        ),
        jitter=jitter,
    )
    return services


def build_monitor(settings: Settings, store: Store, bus: EventBus, services: Callable[[], Services]) -> Monitor:
    """``services`` gives what is only built later: each of the two asks the other."""

    def use() -> list[Use]:
        views = [services().view(name) for name in SERVICES]
        return [(view.name, view.memory_bytes, view.cpu_percent) for view in views]

    return Monitor(
        store.clock,
        bus,
        TelemetryStore(store.database),
        settings.paths.state,
        use,
        alarm=lambda: services().recheck(),
    )


def problems_of(monitor: Monitor, mailer: Mailer, *, old_window: bool) -> list[Problem]:
    """The monitor's alerts, what keeps mail from going out, and a window of before an update (``old_window``), as rows of the table of
    known problems."""
    found = [problem(alert.code, None, alert.params) for alert in monitor.alerts()]
    found += [problem(mailer.fault.code)] if mailer.fault else []
    return found + ([problem("editor_outdated", "ide")] if old_window else [])


def build_own_data(store: Store, users: Users) -> OwnData:
    """What is told of a person on request (PRV-6) and forgotten with them (PRV-4); each room that keeps something joins in."""
    own = OwnData(store.database, store.clock)
    own.register("runs", lambda user: history_of_people.told(store.database, user.id))
    users.on_remove(lambda tx, user: history_of_people.forget(tx, user.id))
    own.register("runbooks", lambda user: runbooks.told(store.database, user.id))
    users.on_remove(lambda tx, user: runbooks.forget(tx, user.id))
    join_own_data(own, users, store)
    return own


def _docker_runtime(client: BrokerClient, settings: Settings) -> Runtime:
    from appliance.services.docker_runtime import DockerRuntime

    return DockerRuntime(client, settings.paths.socket("docker"))


def _model_need(settings: Settings) -> Callable[[], int | None]:
    """What the model in use needs, in MiB: 0 where that is not known, None without one."""
    models = settings.paths.state / "models"

    def need() -> int | None:
        if not (models / choice.NAME).exists():
            return None
        chosen = choice.read(models)
        return chosen.need_mb if chosen else 0

    return need


def port_owner(port: int) -> str:
    """Name of the program that listens on a TCP port, as far as this account may see it; '' when nothing does."""
    from appliance.host.machine import listeners

    found = listeners(port)
    return found[0].program if found else ""


RUN_READY_SECONDS = 90.0


def build_commands(
    settings: Settings,
    store: Store,
    bus: EventBus,
    services: Services,
    users: Users,
    policy: Callable[[], Policy],
    *,
    runtime: str,
) -> Commands:
    """``runtime`` is the broker's word."""
    client = BrokerClient(settings.paths.socket("broker"))
    files = WorkspaceFiles(client)
    folder = settings.paths.state / "runs"

    async def role_of(person: str) -> Role | None:
        found = [user for user in await users.all() if user.id == person and not user.suspended]
        return cast(Role, found[0].role.name) if found else None

    async def ready() -> None:
        if runtime == "docker" and not services.is_ready("ide"):
            await services.ready("ide", RUN_READY_SECONDS)

    machine = Machine(
        runtime=runtime,
        uid=workspace_uid(settings),
        instance=store.instance,
        workspace=str(settings.paths.workspace),
        policy=policy,
        role_of=role_of,
        ready=ready,
        check=NamedChecks(files),
        verbs=HostVerbs(services, settings.paths.state),
    )
    records = Records(store.database, store.audit, History(store.database, folder), store.clock, store.boot_id, bus)
    rehearsals = Rehearsals(records, Merger(client), settings.paths.state / "rehearsals")
    return Commands(machine, records, Runs(client, folder), files, rehearsals)


def build_tools(settings: Settings, store: Store, bus: EventBus, services: Services, *, runtime: str) -> Toolbox:
    """``runtime`` is the broker's word."""
    path = settings.paths.socket("broker")

    async def run(command: list[str]) -> IO[bytes]:
        """It ends when nobody reads what it says."""
        if runtime == "docker":
            try:
                await services.ready("ide", RUN_READY_SECONDS)
            except Unavailable as error:
                raise Unavailable(error.message, hint=error.hint, code="ide_stopped") from error
        bounds = {"seconds": TOOL_SECONDS}
        reply = await call_alone(path, "spawn", argv=command, limits=bounds)
        pidfd, said, errors = reply.fds
        os.close(pidfd)
        os.close(errors)
        return os.fdopen(said, "rb", buffering=0)

    async def ask(**words: Any) -> socket.socket:
        reply = await call_alone(path, "tools", **words)
        return socket.socket(fileno=reply.fds[0])

    return Toolbox(ask, run, store.audit, bus, runtime)


def build_packages(settings: Settings, store: Store, toolbox: Toolbox) -> Packages:
    path = settings.paths.socket("broker")

    async def ask(op: str, **words: Any) -> Mapping[str, Any]:
        return (await asyncio.to_thread(lambda: broker_call(path, op, **words))).data

    return Packages(ask, store.audit, toolbox.changed)


def build_runbooks(store: Store, users: Users, commands: Commands) -> runbooks.Runbooks:
    """Runbooks over the commands of this appliance."""

    async def person(owner: str) -> tuple[Role, str] | None:
        if owner == "console":
            return "admin", owner
        found = [user for user in await users.all() if user.id == owner and not user.suspended]
        return (cast(Role, found[0].role.name), found[0].name or found[0].email) if found else None

    return runbooks.Runbooks(store.database, store.audit, store.clock, commands, person)


def workspace_uid(settings: Settings) -> int:
    """Uid of commands and their files: the owner of the workspace, which the broker made."""
    return settings.paths.workspace.stat().st_uid
