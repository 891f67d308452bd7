"""The models of this appliance: what is offered and whether it fits, what is here, which is in use, and changing all that.

Rule: long work is a job (appliance.jobs), so it can be watched, paused and cancelled and outlives the daemon. Whatever is decided here
is announced in the audit log first.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from yarl import URL

from appliance.assistant import catalogue, choice, fits
from appliance.assistant.catalogue import Entry
from appliance.assistant.choice import Choice
from appliance.assistant.download import Downloader, Wanted
from appliance.assistant.engine import Engine
from appliance.assistant.fits import Fit, Room
from appliance.assistant.localai_jobs import LocalAi, forget_file
from appliance.assistant.shelf import Installed, Shelf, checked_file, checked_name, digest
from appliance.audit import AuditLog
from appliance.errors import Conflict, CroftError, Invalid, NotFound
from appliance.jobs import Job, Jobs, Running

log = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

Runs = Callable[[str, str], Callable[[str], Awaitable[str]]]
"""Called with an actor and the id of their session (empty at the console): what rehearses a program in their name."""


@dataclass(frozen=True)
class Offer:
    """One row for people: a model of the catalogue, one that is here, or both. ``job`` is what is under way for it."""

    name: str
    title: str
    entry: Entry | None
    model: Installed | None
    fit: Fit
    in_use: bool
    job: Job | None

    @property
    def size(self) -> int:
        return self.model.size if self.model else self.entry.size if self.entry else 0

    @property
    def languages(self) -> tuple[str, ...]:
        return self.model.languages if self.model else self.entry.languages if self.entry else ()

    @property
    def tools(self) -> bool:
        return self.model.tools if self.model else bool(self.entry and self.entry.tools)


@dataclass(frozen=True)
class Outside:
    """What models need of the rest of the appliance. ``local_ai``: what serves them, where that has to be told of each."""

    room: Callable[[], Room]
    engine: Engine
    jobs: Callable[[], Awaitable[Jobs]]
    rehearse: Runs
    changed: Callable[[], None]  # another model is in use
    local_ai: LocalAi | None = None


class Models:
    """One for the appliance."""

    def __init__(self, shelf: Shelf, downloader: Downloader, audit: AuditLog, outside: Outside) -> None:
        self._shelf, self._downloader, self._audit, self._outside = shelf, downloader, audit, outside

    # What there is

    async def installed(self) -> list[Installed]:
        """Models that could be used."""
        return await self._shelf.installed()

    async def found(self) -> list[tuple[str, int]]:
        """Files in the models folder that nobody has added yet, with their sizes."""
        return await self._shelf.found()

    async def current(self) -> Installed | None:
        """The model in use; None where none is, or its file is gone. Its ``context`` is the one it is used with."""
        chosen = self.choice()
        if chosen is None:
            return None
        found = [model for model in await self.installed() if model.file == chosen.file]
        return replace(found[0], context=chosen.context) if found else None

    def choice(self) -> Choice | None:
        """What the engine is told to serve."""
        return choice.read(self._shelf.folder)

    async def speed(self) -> float | None:
        """Tokens a second of the model in use; None before anybody measured."""
        model = await self.current()
        return model.tokens_per_second if model else None

    async def offers(self) -> list[Offer]:
        """Every model of the catalogue and every other that is here, the smallest first."""
        here = {model.name: model for model in await self.installed()}
        jobs = {job.subject: job for job in (await self._outside.jobs()).live() if job.kind.startswith("model.")}
        chosen, room = self.choice(), self._outside.room()
        rows: list[tuple[str, str, Entry | None, Installed | None]] = [
            (entry.id, entry.title, entry, here.pop(entry.id, None))
            for entry in catalogue.entries()
            if self._servable(entry)
        ]
        rows += [(model.name, model.title, None, model) for model in here.values()]
        made = [
            Offer(
                name,
                title,
                entry,
                model,
                _fit(model, entry, room),
                bool(model and chosen and chosen.file == model.file),
                jobs.get(name),
            )
            for name, title, entry, model in rows
        ]
        return sorted(made, key=lambda offer: offer.size)

    def first_choice(self, language: str) -> Entry | None:
        """What to offer first to who reads ``language``."""
        offered = [entry for entry in catalogue.entries() if self._servable(entry)]
        return fits.first_choice(self._outside.room(), language, offered)

    def _servable(self, entry: Entry | None) -> bool:
        """LocalAI is told of a model by an entry of its gallery; llama.cpp takes any file."""
        return self._outside.local_ai is None or bool(entry and entry.gallery)

    # Changing it

    async def pull(self, name: str, actor: str, *, anyway: bool = False) -> Job:
        """Download a model of the catalogue. Raises NotFound, Conflict: also for one too big, unless ``anyway``."""
        entry = catalogue.entry(name)
        if entry is None or not self._servable(entry):
            raise NotFound(
                "the catalogue has no such model", hint="`croft models list` shows it.", code="model_unknown"
            )
        fit = fits.of_entry(entry, self._outside.room())
        if fit.verdict == "big" and not anyway:
            raise Conflict(
                f"the model is too big: it needs about {_gb(fit.need)} of memory, this machine can give it {_gb(fit.have)}",
                hint="Choose a smaller one.",
                code="model_too_big",
            )
        await self._check_new(name, entry.file)
        return await self._pull(name, Wanted(entry.url, entry.file, entry.sha256, entry.size), actor)

    async def add(self, url: str, sha256: str, name: str, actor: str) -> Job:
        """Download a model from an address. Without ``sha256`` the one seen first is held. Raises Invalid, Conflict."""
        self._check_servable(None)
        self._downloader.check(url)
        file = checked_file(URL(url).name)
        name = checked_name(name or file.removesuffix(".gguf"))
        if sha256 and not _SHA256.match(sha256.lower()):
            raise Invalid(
                "a sha256 has 64 hexadecimal digits", hint="Copy it from the source's page.", code="model_sha256"
            )
        if catalogue.entry(name) is not None:
            raise Conflict("the catalogue has a model of this name", hint="Give it another one.", code="model_exists")
        await self._check_new(name, file)
        return await self._pull(name, Wanted(url, file, sha256.lower()), actor)

    async def adopt(self, file: str, actor: str) -> Job:
        """Take in a file that somebody put into the models folder. Raises NotFound, Invalid, Conflict."""
        checked_file(file)
        if file not in dict(await self.found()):
            raise NotFound("there is no such file in the models folder", hint="Put it there.", code="model_unknown")
        name = checked_name(file.removesuffix(".gguf")[:100])
        return await (await self._outside.jobs()).create("model.adopt", name, {"file": file}, actor)

    async def use(self, name: str, actor: str, context: int = 0) -> Choice:
        """Have the engine serve this one from its next start; ``context`` 0 takes the longest that fits.

        Raises NotFound, Invalid.
        """
        model = await self._shelf.get(name)
        context = context or fits.fit(model.size, model.shape, model.context, self._outside.room()).context
        if not 0 < context <= min(model.context or choice.CONTEXT_MOST, choice.CONTEXT_MOST):
            raise Invalid("the model does not hold that many tokens", hint="Choose fewer.", code="model_context")
        need = -(-fits.need(model.size, model.shape, context) // fits.MIB)
        made = Choice(model.name, model.file, context, model.tools, min(need, choice.NEED_MOST_MB))
        async with self._audit.doing("model.use", actor, model=model.name, context=context):
            await self._choose(made)
        self._outside.changed()
        return made

    async def _choose(self, made: Choice | None) -> None:
        """Raises Conflict where something that is not ours stands in the way."""
        try:
            await asyncio.to_thread(choice.write, self._shelf.folder, made)
        except (PermissionError, IsADirectoryError) as error:
            raise Conflict(
                f"cannot write down which model is in use: {error.strerror}",
                hint=f"Have root delete {choice.NAME} in the models folder.",
                code="model_choice",
            ) from error

    async def remove(self, name: str, actor: str) -> None:
        """Delete a model; the one in use is put out of use first. Raises NotFound, Conflict."""
        model = await self._shelf.get(name)
        if any(job.subject == name for job in (await self._outside.jobs()).live()):
            raise Conflict("something is under way for this model", hint="Cancel it first.", code="job_exists")
        chosen = self.choice()
        async with self._audit.doing("model.remove", actor, model=name):
            if chosen and chosen.file == model.file:
                await self._choose(None)
            entry = catalogue.by_digest(model.sha256)
            if self._outside.local_ai is not None and entry is not None:
                await self._take_out(self._outside.local_ai, entry)
            await self._shelf.remove(name)
        self._outside.changed()

    async def measure(self, actor: str) -> Job:
        """Measure how fast the model in use answers. Raises Conflict where none is."""
        return await self._ask_of_current("model.measure", actor)

    async def check(self, actor: str, session: str = "") -> Job:
        """Give the model in use eight small tasks. Raises Conflict where none is."""
        return await self._ask_of_current("model.check", actor, session=session)

    # The work of the jobs

    async def run_pull(self, job: Running) -> Mapping[str, Any]:
        """Download, take in, and use it if none is in use."""
        wanted, name = Wanted(**job.params["wanted"]), str(job.params["name"])
        if any(model.file == wanted.file and model.name != name for model in await self.installed()):
            # It came while this one waited: what is served under a checked model's name stays what was checked.
            raise Conflict("another model has a file of this name", hint="Remove it first.", code="model_exists")
        wanted = replace(wanted, sha256=wanted.sha256 or await self._shelf.digest_of(wanted.url))
        sha256 = await self._placed(wanted) or await self._downloader.fetch(wanted, job.report)
        await self._set_up(catalogue.by_digest(sha256), job)
        try:
            model = await self._shelf.take_in(name, wanted.file, sha256, wanted.url)
        except CroftError:
            (self._shelf.folder / wanted.file).unlink(missing_ok=True)
            raise
        await self._use_if_none(model, job.actor)
        return {"sha256": sha256, "size": model.size}

    async def discard_pull(self, params: Mapping[str, Any]) -> None:
        """What a cancelled download leaves: nothing. Another of the same file, under another model's name, has the same part."""
        wanted = Wanted(**params["wanted"])
        pulls = [job for job in (await self._outside.jobs()).live() if job.kind == "model.pull"]
        if all(job.params["wanted"]["file"] != wanted.file for job in pulls):
            await self._downloader.discard(wanted)

    async def run_adopt(self, job: Running) -> Mapping[str, Any]:
        """Digest a file that was put there; the catalogue may know it by that."""
        file, loop = str(job.params["file"]), asyncio.get_running_loop()

        given_up = False

        def report(seen: int, total: int) -> None:
            if given_up:
                raise InterruptedError
            loop.call_soon_threadsafe(job.report, "checking", seen, total)

        try:
            sha256 = await asyncio.to_thread(digest, self._shelf.folder / file, report)
        except asyncio.CancelledError:
            given_up = True  # the thread would read on to the end of a file of gigabytes
            raise
        except OSError as error:
            raise NotFound(f"cannot read the file: {error.strerror}", hint="Put it there again.") from error
        known = catalogue.by_digest(sha256)
        self._check_servable(known)
        await self._set_up(known, job)
        name = known.id if known else checked_name(file.removesuffix(".gguf")[:100])
        model = await self._shelf.take_in(name, file, sha256, "")
        await self._use_if_none(model, job.actor)
        return {"sha256": sha256, "size": model.size, "name": name}

    async def run_measure(self, job: Running) -> Mapping[str, Any]:
        """Tokens a second, kept with the model."""
        speed = await asyncio.to_thread(_late, "speed")
        job.report("starting")
        found = await speed.measure(self._outside.engine, lambda at, of: job.report("measuring", at, of))
        await self._shelf.measured(str(job.params["name"]), found)
        return {"tokens_per_second": round(found, 2)}

    async def run_check(self, job: Running) -> Mapping[str, Any]:
        """The score, kept with the model."""
        checkup = await asyncio.to_thread(_late, "checkup")
        job.report("starting")
        result: dict[str, Any] = await checkup.check(
            self._outside.engine,
            self._outside.rehearse(job.actor, str(job.params["session"])),
            lambda at, of: job.report("asking", at, of),
        )
        await self._shelf.checked(str(job.params["name"]), result)
        return result

    # Inside

    def _check_servable(self, entry: Entry | None) -> None:
        if not self._servable(entry):
            raise Conflict(
                "in the docker runtime only models of LocalAI's gallery can be used",
                hint="Choose one of the list, or use the process runtime.",
                code="model_gallery_only",
            )

    async def _set_up(self, entry: Entry | None, job: Running) -> None:
        if self._outside.local_ai is not None and entry is not None:
            context = fits.of_entry(entry, self._outside.room()).context
            await self._outside.local_ai.set_up(entry, context, job.report)

    async def _take_out(self, local_ai: LocalAi, entry: Entry) -> None:
        try:
            await local_ai.take_out(entry.id)
        except CroftError as error:
            # Its disk is wanted back even where LocalAI does not start; what stays is a name without a file.
            log.warning("LocalAI was not told that a model is gone", extra={"cause": error.message})
        await asyncio.to_thread(forget_file, self._shelf.folder, entry)

    async def _placed(self, wanted: Wanted) -> str:
        """The sha256 of a download that an earlier daemon finished, but did not live to write down; '' otherwise."""
        try:
            found = await asyncio.to_thread(digest, self._shelf.folder / wanted.file, lambda seen, total: None)
        except OSError:
            return ""
        return found if found == wanted.sha256 else ""

    async def _pull(self, name: str, wanted: Wanted, actor: str) -> Job:
        params = {"name": name, "wanted": vars(wanted)}
        return await (await self._outside.jobs()).create("model.pull", name, params, actor)

    async def _check_new(self, name: str, file: str) -> None:
        """Raises Conflict if the model or its file is here already."""
        if any(name == model.name or file == model.file for model in await self.installed()):
            raise Conflict("this model is installed already", hint="Remove it first.", code="model_exists")
        if file in dict(await self.found()):
            raise Conflict(
                "a file of this name lies in the models folder", hint="Add that one, or delete it.", code="model_found"
            )

    async def _ask_of_current(self, kind: str, actor: str, **more: str) -> Job:
        model = await self.current()
        if model is None:
            raise Conflict("no model is in use", hint="Choose one first: `croft models use NAME`.", code="model_none")
        return await (await self._outside.jobs()).create(kind, model.name, {"name": model.name, **more}, actor)

    async def _use_if_none(self, model: Installed, actor: str) -> None:
        if await self.current() is None:
            await self.use(model.name, actor)


def _fit(model: Installed | None, entry: Entry | None, room: Room) -> Fit:
    found = model or entry
    if found is None:
        raise ValueError("a row is a model of the catalogue, one that is here, or both")
    return fits.fit(found.size, found.shape, found.context, room)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _late(name: str) -> Any:
    """A part that brings in the client library: in a thread, and only when it is needed."""
    import importlib

    return importlib.import_module(f"appliance.assistant.{name}")
