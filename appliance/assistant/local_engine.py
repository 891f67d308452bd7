"""The engine behind service `ai` on this machine: started by the first question, kept while somebody waits for an answer.

Rule: it is never stopped or replaced while it is held. A model that was chosen meanwhile is loaded when nobody holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from appliance.assistant import choice as choices
from appliance.assistant.choice import Choice
from appliance.assistant.engine import EngineState, EngineStatus, NoEngine, Upstream
from appliance.errors import Unavailable

log = logging.getLogger(__name__)

# By then llama.cpp's server has long noticed that a stream was closed (measured: 80 ms).
FREE_SECONDS, FREE_PAUSE = 1.0, 0.1
RENEW_SECONDS = 900.0
_MAGIC = b"GGUF"
_BESIDE = 160 << 20  # bytes: what an engine needs beside the weights at the least: its program, a small cache, buffers


class Found(Struct, frozen=True):
    """The chosen model's file: bytes, 0 where it is gone, and whether it begins as a model does."""

    choice: Choice
    size: int
    whole: bool


class Look(Struct, frozen=True):
    """The service as its supervisor sees it now. ``since`` is Unix seconds; ``limit`` in bytes, 0 where it is not known."""

    state: EngineState
    reason: str = ""
    since: float = 0.0
    phase: str = ""
    current: int = 0
    total: int = 0
    memory: int = 0
    limit: int = 0


class Service(Protocol):
    """What this asks of whoever supervises the services (appliance.assembly_assistant)."""

    def look(self) -> Look: ...
    async def ready(self, seconds: float) -> None:
        """Wake it and wait until it answers. Raises Unavailable."""

    async def renewed(self, seconds: float) -> None:
        """End its present run and wait until another answers. Raises Unavailable."""

    async def working(self) -> bool:
        """Whether it uses the processor. Raises Unavailable."""

    def opened(self) -> None: ...
    def closed(self) -> None: ...


@dataclass(frozen=True)
class Place:
    """Where the engine listens, as the broker says it."""

    base: str
    key: str = field(default="", repr=False)
    socket: Path | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, where there is no socket."""
        host, _, port = self.base.removeprefix("http://").removesuffix("/v1").rpartition(":")
        return host, int(port)


class LocalEngine:
    """See :class:`~appliance.assistant.engine.Engine`. ``models`` is the folder of models. ``ask_idle`` asks the engine itself, None
    where that does not say; ``let_go`` has it give up what it works on, whether it says that it did."""

    def __init__(
        self,
        service: Service,
        models: Path,
        place: Callable[[], Awaitable[Place]],
        ask_idle: Callable[[Place, str], Awaitable[bool | None]],
        let_go: Callable[[Place, str], Awaitable[bool]],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._service, self._models = service, models
        self._place, self._ask_idle, self._let_go, self._changed = place, ask_idle, let_go, changed
        self._read: tuple[tuple[int, ...], Found | None] = ((), None)
        self._serving: Choice | None = None  # what those who hold it now were promised
        self._holds = 0
        self._turn = asyncio.Lock()
        self._freeing: asyncio.Task[None] | None = None

    def status(self) -> EngineStatus:
        look, found = self._service.look(), self._found()
        if look.state is EngineState.ASLEEP and self._holds:
            look = replace(look, state=EngineState.STARTING, phase="engine")
        status = EngineStatus(look.state, reason=look.reason, holds=self._holds)
        reason = _lacking(look, found)
        if reason == "no_model" and choices.is_unclear(self._models):
            reason = "unclear"
        if found is None or reason:
            return replace(status, state=EngineState.NONE, reason=reason)
        chosen = self._serving or found.choice
        status = replace(status, model=chosen.model, context=chosen.context)
        if look.state is EngineState.STARTING:
            return replace(status, progress=_progress(look, found.size))
        return status

    @asynccontextmanager
    async def hold(self, purpose: str, *, wait: float = 900.0) -> AsyncIterator[Upstream]:
        """See the Protocol. ``purpose`` is for the log."""
        left_early = False
        self._holds += 1
        self._service.opened()
        self._changed()
        try:
            chosen = await self._serve(wait)
            place = await self._place()
            upstream = Upstream(
                place.base, place.key, chosen.model, chosen.context, socket=place.socket, tools=chosen.tools
            )
            try:
                yield upstream
            except BaseException:
                left_early = True
                raise
        finally:
            self._holds -= 1
            if not self._holds:
                self._serving = None
                if left_early:
                    self._freeing = asyncio.create_task(self._free(purpose, chosen.model), name="engine idle")
            self._service.closed()
            self._changed()

    async def idle(self) -> bool:
        """Whether the engine itself says that it works on nothing. One that does not run works on nothing."""
        found = self._found()
        if self._service.look().state is not EngineState.READY or found is None:
            return True
        said = await self._ask_idle(await self._place(), (self._serving or found.choice).model)
        return said if said is not None else not await self._service.working()

    async def _free(self, purpose: str, model: str) -> None:
        """Somebody went before the end of an answer: see to it that the engine stops working on it (AI-13)."""
        try:
            if await self._gets_free():
                return
            async with self._turn:  # whoever asks next waits until it has let go, or that run has ended
                if self._serving is not None:
                    return  # somebody was served meanwhile: their answer would be ended with the other
                if await self._let_go(await self._place(), model) and await self.idle():
                    return
                log.warning("the engine works on what nobody waits for; it begins anew", extra={"purpose": purpose})
                await self._service.renewed(RENEW_SECONDS)
        except Unavailable:
            return  # it does not answer, or does not come back: its own probe is for that

    async def _gets_free(self) -> bool:
        """Whether it does so soon, by itself."""
        end = time.monotonic() + FREE_SECONDS
        while time.monotonic() < end:
            await asyncio.sleep(FREE_PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(end - time.monotonic()):
                    if await self._is_free():
                        return True
        return False

    async def _is_free(self) -> bool:
        """Whether it works on nothing, or on what somebody waits for."""
        return self._holds > 0 or await self.idle()

    async def _serve(self, wait: float) -> Choice:
        """Have it serve what is chosen; while others hold it, what they were promised."""
        async with self._turn:
            if self._serving is None:
                chosen = await asyncio.to_thread(self._usable)
                with _told_of_room():
                    await (self._service.renewed if self._stale() else self._service.ready)(wait)
                self._serving = chosen
            else:
                await self._service.ready(wait)
            return self._serving

    def _usable(self) -> Choice:
        """What is chosen. Raises NoEngine where nobody could serve it."""
        status, found = self.status(), self._found()
        if found is None or (status.reason and not (status.reason == "failed" and self._newer())):
            said, hint = WORDS[status.reason]
            raise NoEngine(status.reason, said, hint=hint)
        return found.choice

    def _stale(self) -> bool:
        """Whether it runs or was given up with another model than the one chosen since."""
        look = self._service.look()
        known = look.state in (EngineState.READY, EngineState.STARTING) or look.reason == "failed"
        return known and self._newer()

    def _newer(self) -> bool:
        """Whether the model was chosen after the engine was last started."""
        try:
            return (self._models / choices.NAME).stat().st_mtime > self._service.look().since
        except OSError:
            return False

    def _found(self) -> Found | None:
        """What is chosen, looked at again only when it or its file is another."""
        try:
            told = (self._models / choices.NAME).stat()
            chosen = self._read[1].choice.file if self._read[1] else ""
            stamp = (told.st_mtime_ns, told.st_ino, *_stamp(self._models / chosen))
            if stamp != self._read[0]:
                found = _look_at(self._models)
                self._read = (
                    (told.st_mtime_ns, told.st_ino, *_stamp(self._models / (found.choice.file if found else ""))),
                    found,
                )
        except OSError:
            return None
        return self._read[1]


@contextlib.contextmanager
def _told_of_room() -> Iterator[None]:
    try:
        yield
    except Unavailable as error:
        if error.code != "no_room":
            raise
        said, hint = WORDS["no_room"]
        raise NoEngine("no_room", said, hint=hint) from error


def _look_at(models: Path) -> Found | None:
    chosen = choices.read(models)
    if chosen is None:
        return None
    try:
        # The engine may write into that folder too: what it plants there must not hold the daemon up.
        fd = os.open(models / chosen.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            state = os.fstat(fd)
            if stat.S_ISREG(state.st_mode):
                return Found(chosen, state.st_size, os.read(fd, len(_MAGIC)) == _MAGIC)
        finally:
            os.close(fd)
    except OSError:
        pass
    return Found(chosen, 0, whole=False)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ino, found.st_size


def _lacking(look: Look, found: Found | None) -> str:
    """Why there is nobody to answer; '' where somebody is."""
    if look.reason == "no_engine":
        return look.reason
    if found is None or not found.size:
        return "no_model"
    if not found.whole:
        return "damaged"
    return "too_small" if look.limit and found.size + _BESIDE > look.limit else ""


def _progress(look: Look, size: int) -> dict[str, object]:
    """Weights are mapped, so what the service holds grows towards the size of the file."""
    if look.phase != "model":
        return {"phase": look.phase, "current": look.current, "total": look.total}
    return {"phase": "model", "current": min(look.memory, size), "total": size}


WORDS = {
    "no_engine": (
        "no engine for models is installed",
        "Run the installer again without --no-engine, or set a remote endpoint.",
    ),
    "no_model": ("no model is installed", "Choose one on the page Models, or `croft models pull`."),
    "damaged": ("the model's file is not a model", "Remove it on the page Models and download it again."),
    "unclear": (
        "which model is in use cannot be read",
        "Choose one on the page Models. If that is refused, have root delete choice.json in the models folder.",
    ),
    "too_small": ("this machine is too small for the model", "Choose a smaller one on the page Models."),
    "stopped": ("the engine was stopped", "Start the service ai again on the services page."),
    "no_room": (
        "the editor holds the memory that the model needs",
        "Close what is not needed there, or restart the editor on the services page. Then ask again.",
    ),
    "failed": ("the engine kept failing and was given up", "The services page says why; start it again there."),
}
