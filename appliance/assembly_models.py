"""Putting jobs and models together, each built when it is first asked for; what an earlier daemon left unfinished asks at the start."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from appliance.assistant.engine import Engine
from appliance.assistant.room import Late
from appliance.broker import shares
from appliance.commands.asker import CONSOLE, Asker
from appliance.commands.assessing import REHEARSAL, Proposal
from appliance.commands.front import Commands
from appliance.commands.history import OPEN, State
from appliance.commands.model import Actor, Role
from appliance.commands.output import STDOUT, saved
from appliance.errors import CroftError, Forbidden, Unavailable
from appliance.events import EventBus
from appliance.identity.users import Users
from appliance.settings import Settings
from appliance.store import Store

if TYPE_CHECKING:
    from appliance.assistant.models import Models
    from appliance.assistant.workshop import Workshop
    from appliance.jobs import Jobs, Kind, Running

PROGRAM_SECONDS = 120.0  # until the program of a model has ended one way or the other
_PARTS = ("shelf", "download", "localai_jobs")
PRINTED_MOST = 64 << 10


class ModelParts:
    """``jobs`` and ``models``, which need each other."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        bus: EventBus,
        engine: Engine,
        commands: Commands,
        users: Users,
        *,
        runtime: str,
        workshop: Callable[[], Workshop],
        chosen: Callable[[], None],
    ) -> None:
        """``runtime`` is the broker's word; ``workshop`` is asked for in the docker runtime alone; ``chosen`` is told when another model
        may be in use."""
        self._settings, self._store, self._bus, self._engine = settings, store, bus, engine
        self._docker, self._workshop, self._chosen = runtime == "docker", workshop, chosen
        self._rehearsing = _Rehearsing(commands, users)
        self.jobs: Late[Jobs] = Late("appliance.jobs", self._build_jobs)
        self.models: Late[Models] = Late("appliance.assistant.models", self._build_models)

    async def open(self) -> None:
        """Take up what an earlier daemon left, if it left anything."""
        unfinished = "SELECT 1 FROM jobs WHERE state IN ('queued', 'running', 'paused') LIMIT 1"
        if await self._store.database.row(unfinished) is not None:
            await self.jobs.get()

    async def close(self) -> None:
        """What is under way goes on with the next daemon."""
        if self.jobs.made is not None:
            await self.jobs.made.close()

    async def _build_jobs(self, module: ModuleType) -> Jobs:
        made: Jobs = module.Jobs(
            self._store.database, self._store.audit, self._bus, self._store.clock, self._kinds(module.Kind)
        )
        await made.open()
        return made

    def _kinds(self, kind: type[Kind]) -> Mapping[str, Kind]:
        def run(name: str) -> Callable[[Running], Awaitable[Mapping[str, Any]]]:
            async def work(job: Running) -> Mapping[str, Any]:
                found: Mapping[str, Any] = await getattr(await self.models.get(), name)(job)
                return found

            return work

        async def discard(params: Mapping[str, Any]) -> None:
            await (await self.models.get()).discard_pull(params)

        return {
            "model.pull": kind(run("run_pull"), "model.add", "download", pausable=True, resumes=True, discard=discard),
            "model.adopt": kind(run("run_adopt"), "model.add", "download", resumes=True),
            "model.measure": kind(run("run_measure"), "model.measure", "engine"),
            "model.check": kind(run("run_check"), "model.check", "engine"),
        }

    async def _build_models(self, module: ModuleType) -> Models:
        shelf, download, local_ai = await asyncio.to_thread(
            lambda: [importlib.import_module(f"appliance.assistant.{name}") for name in _PARTS]
        )
        folder = self._settings.paths.state / "models"
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        return cast(
            "Models",
            module.Models(
                shelf.Shelf(self._store.database, self._store.clock, folder),
                download.Downloader(folder, mirror=self._settings.ai_mirror),
                self._store.audit,
                module.Outside(
                    self._room(),
                    self._engine,
                    self.jobs.get,
                    self._rehearsing.of,
                    self._changed,
                    local_ai.LocalAi(self._workshop(), folder) if self._docker else None,
                ),
            ),
        )

    def _changed(self) -> None:
        self._bus.publish("assistant", {}, keep=False)
        self._chosen()

    def _room(self) -> Callable[[], Any]:
        from appliance.assistant.fits import MIB, Room

        machine = shares.measure()
        wish = self._settings.ide_memory_mb
        beside = shares.most_for_the_engine(machine, docker=self._docker, ide_memory_mb=wish) * MIB
        return lambda: Room(beside, machine.memory_mb * MIB)


class _Rehearsing:
    """Runs the programs of a model in rehearsals, in the name of who asked for them."""

    def __init__(self, commands: Commands, users: Users) -> None:
        self._commands, self._users = commands, users

    def of(self, person: str, session: str) -> Callable[[str], Awaitable[str]]:
        async def rehearse(program: str) -> str:
            return await self._rehearse(await self._asker(person, session), program)

        return rehearse

    async def _asker(self, person: str, session: str) -> Asker:
        """As they are now. Raises Forbidden for who is gone meanwhile."""
        if person == CONSOLE:
            return Asker(Actor.HUMAN, "admin", name=CONSOLE)
        for user in await self._users.all():
            if user.id == person and not user.suspended:
                role = cast(Role, user.role.name)
                return Asker(Actor.HUMAN, role, person, user.name or user.email, session)
        raise Forbidden("who asked for this may not any more", hint="Somebody else can ask again.")

    async def _rehearse(self, asker: Asker, program: str) -> str:
        # In one line: a command has no line breaks that could hide what follows them.
        proposal = Proposal(stages=(("python3", "-I", "-c", f"exec({program!a})"),), view=REHEARSAL)
        run = await self._commands.propose(asker, proposal)
        if run.state is State.REFUSED:
            raise Unavailable("the policy refuses python3", hint="An admin can change the policy.", code="no_rehearsal")
        run = await self._commands.wait(run.id, PROGRAM_SECONDS) if run.state in OPEN else run
        printed = b""
        async for frames in saved(self._commands.history.output(run.id), 0):
            printed += b"".join(frame.data for frame in frames if frame.stream == STDOUT)
            if len(printed) > PRINTED_MOST:
                break
        with suppress(CroftError):  # one that changed nothing is over by itself
            await self._commands.discard(asker, run.id)
        if run.outcome is not None and run.outcome.cause == "not_started":
            raise Unavailable(f"cannot rehearse: {run.outcome.message or 'it was not started'}", code="no_rehearsal")
        return printed.decode("utf-8", "replace")
