"""`Services`: what the rest of the daemon may ask and tell about the services.

Rule: this is a front, not a brain. Doing is the runner's (reconcile.py), deciding is pure (plan, history,
idle, problems, views); what is here joins them, remembers what people wanted, and tells the event bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct, field, to_builtins
from msgspec.structs import replace

from appliance.broker.shares import NoRoom
from appliance.clock import Clock
from appliance.errors import Conflict, Invalid, NotFound, Unavailable
from appliance.events import EventBus
from appliance.services import problems as known
from appliance.services import views
from appliance.services.certificate import Certificate
from appliance.services.health import Answer, Probe
from appliance.services.history import ENDED, Tuning
from appliance.services.keeper import Keeper
from appliance.services.model import (
    SERVICES,
    Desired,
    LogLine,
    Missing,
    Problem,
    ServiceName,
    ServiceView,
    Supply,
    Want,
)
from appliance.services.reconcile import LOOK_WATCHED, Reconciler, Record
from appliance.services.runtime import Runtime, RuntimeGone

log = logging.getLogger(__name__)

TOPIC = "services"
# Whoever reads these wants fresh figures: how much of its model the engine has loaded is one of them.
FOLLOWED = (TOPIC, "assistant")
DEFAULTS: Mapping[ServiceName, Want] = {"proxy": Want.RUN, "ide": Want.ON_DEMAND, "ai": Want.ON_DEMAND}
MOST_LINES = 5000
FACTS_EVERY = 60.0
ACME_LINES = 200


class DesiredStore(Protocol):
    """Where a person's wish survives a restart."""

    async def load(self) -> Mapping[str, str]:
        """Service to wish (a value of Want), for those that somebody has changed."""

    async def save(self, service: str, want: str, actor: str) -> None:
        """Returns once it is on disk."""


async def _no_terminals() -> int:
    return 0


class Surroundings(Struct, frozen=True):
    """What Services needs to know of the rest of the machine."""

    state: Path  # the disk that must not fill up
    acme: bool = False
    idle_minutes: Mapping[ServiceName, int] = field(default_factory=dict)
    terminals: Callable[[], Awaitable[int]] = _no_terminals
    active_runs: Callable[[], int] = lambda: 0
    port_owner: Callable[[int], str] = lambda port: ""  # may take its time: called in a thread
    proxy_version: str = ""
    more_problems: Callable[[], list[Problem]] = list


class Services:
    """Start it with :meth:`run`; cancel that to end it. The services themselves go on."""

    def __init__(
        self,
        runtime: Runtime,
        probes: Mapping[ServiceName, Probe],
        model_mb: Callable[[], int | None],
        clock: Clock,
        bus: EventBus,
        store: DesiredStore,
        around: Surroundings,
        *,
        jitter: Callable[[], float],
        tuning: Tuning | None = None,
    ) -> None:
        self._runtime = runtime
        self._clock = clock
        self._bus = bus
        self._store = store
        self._around = around
        self._tuning = tuning or Tuning()
        self._reconciler = Reconciler(
            runtime,
            probes,
            model_mb,
            clock,
            {name: Desired(name, DEFAULTS[name]) for name in SERVICES},
            jitter=jitter,
            changed=self._on_change,
            watched=lambda: any(map(bus.watched, FOLLOWED)),
            tuning=self._tuning,
        )
        self._keeper = Keeper(
            clock,
            around.idle_minutes,
            around.active_runs,
            around.terminals,
            awake=lambda name: self._records[name].desired.awake,
            rest=self._reconciler.rest,
        )
        self._pulse = asyncio.Event()
        self._publishing = False
        self._awake: frozenset[ServiceName] = frozenset()
        self._shown: tuple[list[ServiceView], list[Problem]] | None = None
        self._facts = known.Facts(acme=around.acme, proxy_version=around.proxy_version)
        self._facts_at = -FACTS_EVERY
        self._facts_about: tuple[tuple[str, ...], Certificate | None] = ((), None)
        self._asides: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[], None]] = []

    # Life

    async def run(self) -> None:
        """Supervise until cancelled; then let steps under way end (10 s at most) and let go of the runtime.

        Raises whatever breaks the runner: a daemon that no longer supervises must not look alive.
        """
        for name, want in (await self._store.load()).items():
            if name in SERVICES and want in set(Want):
                record = self._records[_known(name)]
                record.desired = replace(record.desired, want=Want(want))
        await self._runtime.open(self._reconciler.nudge)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._reconciler.run(), name="reconcile")
                group.create_task(self._keeper.run(), name="idle")
        finally:
            for task in self._asides:
                task.cancel()
            await self._reconciler.drain()
            await self._runtime.close()

    # What people ask for

    async def start(self, name: str, actor: str) -> None:
        """Start it and forget past failures; the outcome shows in the views. Raises NotFound, Conflict."""
        service = self._startable(name)
        want = Want.RUN if DEFAULTS[service] is Want.RUN else Want.ON_DEMAND
        await self._store.save(service, want, actor)
        log.info("start asked for", extra={"service": service, "actor": actor})
        self._keeper.touch(service)
        self._reconciler.want(service, want, awake=True)

    async def stop(self, name: str, actor: str) -> None:
        """Stop it until a person starts it again. Raises NotFound, Invalid for the proxy."""
        service = _known(name)
        if service == "proxy":
            raise Invalid(
                "the proxy cannot be stopped from here", hint="Without it nobody reaches this page; restart it instead."
            )
        await self._store.save(service, Want.STOP, actor)
        log.info("stop asked for", extra={"service": service, "actor": actor})
        self._reconciler.want(service, Want.STOP)

    async def restart(self, name: str, actor: str) -> None:
        """End its present run, if any, and begin another. Raises NotFound, Conflict."""
        service = self._startable(name)
        want = Want.RUN if DEFAULTS[service] is Want.RUN else Want.ON_DEMAND
        await self._store.save(service, want, actor)
        log.info("restart asked for", extra={"service": service, "actor": actor})
        self._keeper.touch(service)
        self._reconciler.restart(service, want)

    async def update(self, name: str, actor: str) -> Supply:
        """Bring it onto the version that is pinned or installed; what runs goes on until that is there. Returns where
        it comes from; fetching goes on afterwards and shows in the views. Raises NotFound, Conflict, Unavailable."""
        service = self._startable(name)
        supply = await self._runtime.supply(service)
        log.info("update asked for", extra={"service": service, "actor": actor, "supply": supply})
        if supply is Supply.FETCH:
            self._reconciler.fetch(service)
        elif supply is not Supply.CURRENT:
            self.configuration_changed(service)
        return supply

    def configuration_changed(self, name: str) -> None:
        """Its configuration is another now: restart it if it runs, try it again if it was parked. Raises
        NotFound."""
        service = _known(name)
        desired = self._records[service].desired
        if desired.running:
            self._reconciler.restart(service, desired.want)
        else:
            self._reconciler.want(service, desired.want, awake=desired.awake)

    # What people see

    def view(self, name: str) -> ServiceView:
        """One service as people see it. Raises NotFound."""
        service = _known(name)
        record = self._records[service]
        return views.view(
            record, self._problems_of(record), self._keeper.because(service), self._clock.now(), self._clock.uptime()
        )

    def views(self) -> list[ServiceView]:
        """Every service, in the order of SERVICES. Figures older than 5 s are asked for anew in passing."""
        looked = min(record.looked_at for record in self._records.values())
        if self._clock.uptime() - looked > LOOK_WATCHED:
            self._reconciler.nudge()
        return [self.view(name) for name in SERVICES]

    def problems(self) -> list[Problem]:
        """All that is known to be wrong, the worst first."""
        found = known.of_machine(self._now_facts(), self._clock.now())
        for record in self._records.values():
            found += self._problems_of(record)
        found += self._around.more_problems()
        return sorted(found, key=lambda one: ("error", "warning", "info").index(one.severity))

    async def logs(self, name: str, lines: int = 200) -> list[LogLine]:
        """The last lines it wrote, oldest first. Raises NotFound, Unavailable."""
        return await self._runtime.logs(_known(name), max(1, min(lines, MOST_LINES)))

    def follow(self, name: str, lines: int = 200) -> AsyncIterator[LogLine]:
        """The last lines and then each new one, until closed. Raises NotFound at once."""
        return self._runtime.follow(_known(name), max(0, min(lines, MOST_LINES)))

    # Use

    def wake(self, name: str) -> ServiceView:
        """Somebody who may has come to use it: start it if it sleeps. A service that was stopped stays so."""
        service = _known(name)
        self.touch(service)
        self._reconciler.wake(service)
        return self.view(service)

    def lacks_program(self, name: str) -> bool:
        """Whether there is nothing on this machine that could be started for it."""
        seen = self._records[_known(name)].seen
        return seen is not None and seen.missing is Missing.PROGRAM

    def is_ready(self, name: str) -> bool:
        """Whether it runs and its last probe passed; cheap enough for every request."""
        return self._records[_known(name)].ready

    def serves(self, name: str) -> bool:
        """Whether requests may go to it: it has answered in this run. One missed probe on a busy machine turns nobody
        away in the middle of loading a page; where it really is gone, the proxy notices and asks for the wake page."""
        record = self._records[_known(name)]
        return (
            record.seen is not None
            and record.seen.state not in ENDED
            and not record.history.over
            and record.history.healthy_since is not None
        )

    async def ready(self, name: str, timeout: float) -> None:  # noqa: ASYNC109 - part of the contract, in seconds
        """Wake it and wait until it works. Raises Unavailable if it does not within ``timeout`` or cannot."""
        service = _known(name)
        self.wake(service)
        try:
            async with asyncio.timeout(timeout):
                while not self._records[service].ready:
                    self._refuse_hopeless(service)
                    await self._pulse.wait()
        except TimeoutError:
            raise Unavailable(
                f"the {service} service did not become ready in {timeout:g} s",
                hint="The services page says what is wrong with it.",
            ) from None

    async def renewed(self, name: str, timeout: float) -> None:  # noqa: ASYNC109 - as above
        """Have it run with its present configuration, past failures forgiven: as :meth:`ready`, but never with the run that is on
        now. Raises Unavailable."""
        service = _known(name)
        old = self._run_of(service)
        self.configuration_changed(service)
        try:
            async with asyncio.timeout(timeout):
                while old is not None and self._run_of(service) == old:
                    await self._pulse.wait()
        except TimeoutError:
            raise Unavailable(f"the {service} service did not end within {timeout:g} s") from None
        await self.ready(service, timeout)

    def touch(self, name: str) -> None:
        """It was used just now."""
        self._keeper.touch(_known(name))

    def socket_opened(self, name: str = "ide") -> None:
        """A connection that counts as use began."""
        self._keeper.opened(_known(name))

    def socket_closed(self, name: str = "ide") -> None:
        """A connection that counted as use ended."""
        self._keeper.closed(_known(name))

    def in_use(self, name: str = "ide") -> bool:
        """Whether a connection that counts as use is open."""
        return self._keeper.in_use(_known(name))

    def rest_after(self, name: str, minutes: int) -> None:
        """Let an on-demand service rest after so many minutes without use; 0 means never."""
        self._keeper.use_minutes(_known(name), minutes)

    def on_shown(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called whenever what people see of the services is another."""
        self._listeners.append(listener)

    def recheck(self) -> None:
        """Something around the services changed that may be a problem: tell the bus if it is."""
        self._on_change()

    def look(self) -> None:
        """Look at everything again now."""
        self._reconciler.nudge()
        self._keeper.nudge()

    # Inside

    @property
    def _records(self) -> dict[ServiceName, Record]:
        return self._reconciler.records

    def _run_of(self, service: ServiceName) -> str | None:
        seen = self._records[service].seen
        return seen.run_id if seen and seen.state not in ENDED else None

    def _startable(self, name: str) -> ServiceName:
        service = _known(name)
        seen = self._records[service].seen
        if seen is not None and seen.missing is Missing.PROGRAM:
            raise Conflict(
                f"the {service} service is not installed on this machine",
                hint="`croft doctor` says what can be installed here.",
            )
        return service

    def _refuse_hopeless(self, service: ServiceName) -> None:
        record = self._records[service]
        if record.desired.want is Want.STOP:
            raise Unavailable(f"the {service} service was stopped", hint="Somebody stopped it; start it again first.")
        if (
            record.history.parked and record.history.generation == record.desired.generation
        ):  # and nobody forgave it since
            raise Unavailable(
                f"the {service} service keeps failing and was given up",
                hint="The services page says why; start it again there.",
            )
        if record.history.refused:
            raise NoRoom(
                f"the {service} service was not started: the editor holds the memory that it needs",
                hint="Close what is not needed there, or restart the editor on the services page. Then ask again.",
            )
        self._startable(service)

    def _problems_of(self, record: Record) -> list[Problem]:
        found = known.of_service(record.seen, record.desired, record.history, record.tail, self._facts, self._tuning)
        return found + known.of_update(record.desired.service, record.fetch_failure)

    def _now_facts(self) -> known.Facts:
        return replace(self._facts, gone=self._reconciler.gone, certificate=self._certificate_answer().certificate)

    @property
    def certificate(self) -> Certificate | None:
        """The certificate that the proxy serves, as last looked at."""
        return self._certificate_answer().certificate

    def _certificate_answer(self) -> Answer:
        return self._records["proxy"].answer or Answer(False)

    def _on_change(self) -> None:
        self._pulse.set()
        self._pulse = asyncio.Event()
        awake = frozenset(name for name in SERVICES if self._records[name].desired.awake)
        if awake != self._awake:
            self._awake = awake
            self._keeper.nudge()
        if not self._publishing:
            self._publishing = True
            asyncio.get_running_loop().call_soon(self._publish)

    def _publish(self) -> None:
        """Tell the bus, if what people see is not what it was."""
        self._publishing = False
        now, tail = self._clock.uptime(), self._records["proxy"].tail
        about = tail, self._certificate_answer().certificate  # a stand-in has come: why is in the log
        if now - self._facts_at >= FACTS_EVERY or about != self._facts_about:
            self._facts_at, self._facts_about = now, about
            self._aside(self._refresh_facts(tail))
        shown = ([self.view(name) for name in SERVICES], self.problems())
        if shown != self._shown:
            self._shown = shown
            self._bus.publish(TOPIC, {"services": to_builtins(shown[0]), "problems": to_builtins(shown[1])})
            for listener in self._listeners:
                listener()

    async def _refresh_facts(self, tail: tuple[str, ...]) -> None:
        """What takes a look at the machine; ``tail`` is what the proxy said last when it failed."""
        disk = await asyncio.to_thread(os.statvfs, self._around.state)
        owners = {port: await asyncio.to_thread(self._around.port_owner, port) for port in known.taken_ports(tail)}
        self._facts = replace(
            self._facts,
            disk_free_mb=disk.f_bavail * disk.f_frsize >> 20,
            disk_percent=_percent(disk),
            port_owners=owners,
            acme_cause=await self._acme_cause(),
        )
        self._on_change()

    async def _acme_cause(self) -> str:
        served = self._certificate_answer().certificate
        if not self._around.acme or served is None or not served.own:
            return ""
        with contextlib.suppress(RuntimeGone):  # shown as a problem of its own
            return known.acme_cause([line.text for line in await self._runtime.logs("proxy", ACME_LINES)])
        return ""

    def _aside(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)


def _percent(disk: os.statvfs_result) -> float:
    """Used, as df counts: what only root may use is neither free nor used."""
    used = disk.f_blocks - disk.f_bfree
    return 100 * used / max(1, used + disk.f_bavail)


def _known(name: str) -> ServiceName:
    for service in SERVICES:
        if service == name:
            return service
    raise NotFound("there is no such service", hint=f"The services are {', '.join(SERVICES)}.")
