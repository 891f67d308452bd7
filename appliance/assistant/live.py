"""One answer while it comes: what every reader of it sees.

Rule: a reader that comes, or comes back, is given the whole state as it is; from then on only what changes. Nobody's reading slows the
answer, and no answer paints more often than people see.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from msgspec import structs

from appliance.assistant.engine import EngineStatus
from appliance.assistant.messages import Message, State

PAUSE = 0.04  # seconds between two paintings
SHARE = 5  # of the time, one part at most is spent painting
Publish = Callable[[str, Mapping[str, Any]], object]
Keep = Callable[[str, Sequence[Mapping[str, Any]]], None]


class Patch(Protocol):
    """A piece of a page, or a change of one."""

    def data(self) -> dict[str, Any]: ...


class Painter(Protocol):
    """Turns a text that grows into pieces of a page (`webui.markup.Streaming`)."""

    @property
    def blocks(self) -> Sequence[Patch]:
        """All there is now."""

    def feed(self, text: str) -> Sequence[Patch]:
        """What changed since the last call."""

    def finish(self, text: str) -> Sequence[Patch]:
        """The last changes."""


class Words(Mapping[str, str]):
    """``message`` and ``text``, as it is when it is looked at: a reader that is behind keeps no copy of each state it has not read."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def __getitem__(self, key: str) -> str:
        return {"message": self._live.message.id, "text": self._live.text}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("message", "text"))

    def __len__(self) -> int:
        return 2


class Live:
    """``publish`` takes the name of an event and its data, ``keep`` all of the text and the steps so far."""

    def __init__(self, message: Message, painter: Painter, publish: Publish, keep: Keep) -> None:
        self.message, self._keep = message, keep
        self.text = ""
        self.steps: list[dict[str, Any]] = []
        self.usage: dict[str, Any] = {}
        self.state = State.RUNNING
        self.model = ""
        self.stopping = False
        self.let_go = False  # who asked may not have it any more
        self.task: asyncio.Task[None] | None = None
        self._status: dict[str, Any] = {"phase": "queued", "place": 1}
        self._painter, self._publish = painter, publish
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0

    # --- what happens to it

    def waiting(self, place: int) -> None:
        """In the queue, ``place`` from its head; 0: its turn has come."""
        self._tell({"phase": "queued", "place": place} if place else {"phase": "begun"})

    def engine(self, status: EngineStatus) -> None:
        """How far the engine is that the answer waits for."""
        found = structs.asdict(status)
        self._tell({"phase": "engine", **found, "state": str(status.state), "progress": dict(status.progress)})

    def working(self, phase: str) -> None:
        """``reading`` (the prompt), ``thinking``, ``writing``, ``choosing``, ``tool`` or ``deciding`` (a person does)."""
        if self._status.get("phase") != phase:
            self._tell({"phase": phase})

    def put(self, more: str) -> None:
        """Take some text; the first is shown at once."""
        self.text += more
        self._keep(self.text, self.steps)
        if self._timer is None:
            now = asyncio.get_running_loop().time()
            if now >= self._next:
                self._paint()
            else:
                self._timer = asyncio.get_running_loop().call_at(self._next, self._paint)

    def paragraph(self) -> None:
        """What comes next stands by itself."""
        if self.text and not self.text.endswith("\n\n"):
            self.put("\n\n")

    def step(self, number: int, **fields: Any) -> None:
        """A step is new, or changes. Fields: ``tool`` ``about`` ``state`` ``run`` ``proposal`` ``exit`` ``bytes`` ``note``."""
        while len(self.steps) < number:
            self.steps.append({"n": len(self.steps) + 1})
        self.steps[number - 1].update(fields)
        self._keep(self.text, self.steps)
        self._publish("step", {"message": self.message.id, **self.steps[number - 1]})

    def ended(self, message: Message) -> None:
        """It is over, and on disk."""
        if self._timer is not None:
            self._timer.cancel()
        self._patch(self._painter.finish(self.text))
        self.message, self.state = message, message.state
        self._publish("message", self._message())

    def closed(self, state: State) -> Message:
        """The message as it would have been saved."""
        return replace(self.message, text=self.text, state=state, usage=self.usage, model=self.model, steps=self.steps)

    # --- what readers get

    def events(self, *, text: bool = False) -> list[tuple[str, Mapping[str, Any]]]:
        """All of it as it is now, with its words as ``text`` or as blocks of a page."""
        found: list[tuple[str, Mapping[str, Any]]] = [("message", self._message())]
        if self.state is State.RUNNING:
            found.append(("status", {"message": self.message.id, **self._status}))
        found += [("step", {"message": self.message.id, **step}) for step in self.steps]
        if text:
            return [*found, ("text", Words(self))]
        return found + [("block", {"message": self.message.id, **block.data()}) for block in self._painter.blocks]

    def _message(self) -> dict[str, Any]:
        return {
            "message": self.message.id,
            "parent": self.message.parent,
            "state": str(self.state),
            "model": self.model,
            "usage": self.usage,
        }

    def _tell(self, status: dict[str, Any]) -> None:
        if status != self._status:
            self._status = status
            self._publish("status", {"message": self.message.id, **status})

    def _patch(self, patches: Sequence[Patch]) -> None:
        for patch in patches:
            self._publish("block", {"message": self.message.id, **patch.data()})
        self._publish("text", Words(self))

    def _paint(self) -> None:
        self._timer = None
        begin = time.perf_counter()
        self._patch(self._painter.feed(self.text))
        cost = time.perf_counter() - begin
        self._next = asyncio.get_running_loop().time() + max(PAUSE, SHARE * cost)
