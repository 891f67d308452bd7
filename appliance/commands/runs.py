"""The live runs: started by the broker, read here, over when the broker says that nothing of them is left.

Rule: a run is started once, under the id its row already has, and never again by itself: what a crash of either side
leaves is found by that id and seen to its end, or said to be interrupted (R1).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from appliance.broker.client import BrokerClient, BrokerError, keep_connected
from appliance.commands.history import Outcome
from appliance.commands.model import Limits
from appliance.commands.output import STDERR, STDOUT
from appliance.commands.recording import Output
from appliance.errors import CroftError, Unavailable

log = logging.getLogger(__name__)

ANSWER_WITHIN = 10.0
UNCLAIMED = 64  # exits kept for runs that are just being started
DRAIN_SECONDS = 5.0  # for reading what is left in the pipes after everything of a run is gone


class Order(Struct, frozen=True):
    """What to start. ``expected`` is what :meth:`Runs.fingerprint` said when it was approved; None: nobody was asked."""

    id: str
    stages: tuple[tuple[str, ...], ...]
    cwd: str
    env: Mapping[str, str]
    limits: Limits
    view: str = "plain"
    expected: Mapping[str, Any] | None = None


class Live:
    """A run under way. ``over`` is done, with the outcome, once everything it wrote is kept."""

    def __init__(self, run: str, output: Output) -> None:
        self.id = run
        self.output = output
        self.over: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.gone: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.work: asyncio.Task[int] | None = None  # of a verb that the daemon carries out itself

    def exited(self, event: Mapping[str, Any]) -> None:
        """The broker's word that nothing of it is left."""
        if not self.gone.done():
            self.gone.set_result(event)


Work = Callable[[], AsyncIterator[bytes]]
# Called with the ids of live runs and with how others ended.
Recover = Callable[[set[str], Mapping[str, Mapping[str, Any]]], Awaitable[None]]


class Runs:
    """Start with :meth:`run`; cancel that to let go of the broker. The runs themselves go on."""

    def __init__(self, broker: BrokerClient, folder: Path) -> None:
        self._broker = broker
        self._folder = folder
        self._recover: Recover | None = _nobody
        self._live: dict[str, Live] = {}
        self._starting: set[str] = set()
        self._unclaimed: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._looking: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        broker.on_event(self._on_event)

    @property
    def active(self) -> int:
        """How many runs are under way in the workspace: the IDE stays up meanwhile (DECIDED 14)."""
        return sum(live.work is None for live in self._live.values())

    @property
    def found(self) -> bool:
        """Whether what an earlier daemon left has been looked after."""
        return self._recover is None

    def get(self, run: str) -> Live | None:
        return self._live.get(run)

    async def run(self, recover: Recover) -> None:
        """Keep the connection, and after each loss find out what became of the runs. ``recover`` is told once what the
        broker knew when it was first reached."""
        self._recover = recover
        await asyncio.to_thread(self._folder.mkdir, 0o700, True, True)
        try:
            await keep_connected(self._broker, self._look_again)
        finally:
            if self._looking is not None:
                self._looking.cancel()
            await self._broker.close()

    async def fingerprint(self, programs: Sequence[str], cwd: str) -> dict[str, Any]:
        """``{"image", "folder", "programs"}`` of what would be started here and now. Raises CroftError."""
        reply = await self._call("fingerprint", programs=list(programs), cwd=cwd or ".")
        try:
            said = await _read_all(reply.fds.pop())
        except TimeoutError as error:
            raise Unavailable("cannot look at the program: it did not answer in time") from error
        try:
            found: dict[str, Any] = json.loads(said)
        except ValueError as error:
            raise Unavailable("cannot look at the program and its folder") from error
        return found

    async def start(self, order: Order) -> Live:
        """Start it. Raises CroftError when it did not start (code ``changed``: not what was approved)."""
        asked: dict[str, Any] = {
            "stages": [list(argv) for argv in order.stages],
            "run": order.id,
            "cwd": order.cwd or ".",
            "env": dict(order.env),
            "limits": {"seconds": order.limits.seconds, "pids": order.limits.pids, "memory_mb": order.limits.memory_mb},
            "view": order.view,
        }
        if order.expected is not None:
            asked["expected"] = dict(order.expected)
        self._starting.add(order.id)
        try:
            reply = await self._call("spawn", **asked)
        except Unavailable:
            await self._give_up(order.id)
            raise
        finally:
            self._starting.discard(order.id)
        pidfd, *pipes = reply.fds
        os.close(pidfd)
        live = self._new(order.id, order.limits.output_kb << 10)
        live.output.read_from({pipes[0]: STDOUT, pipes[1]: STDERR})
        self._admit(live)
        return live

    def adopt(self, run: str) -> Live:
        """A run that an earlier daemon started: what it writes is lost, how it ends is not."""
        live = self._new(run, 0)
        live.output.end()
        self._admit(live, lost=True)
        return live

    def carry_out(self, run: str, limits: Limits, work: Work) -> Live:
        """A verb that the daemon carries out itself, as if it were a run."""
        live = self._new(run, limits.output_kb << 10)
        live.work = asyncio.create_task(_feed(live.output, work, limits.seconds), name=f"verb {run}")
        live.work.add_done_callback(lambda task: live.exited(_of_task(task)))
        self._admit(live)
        return live

    async def kill(self, run: str) -> None:
        """End everything of a run. Raises CroftError; a run that is over already is none."""
        live = self._live.get(run)
        if live is not None and live.work is not None:
            live.work.cancel()
            return
        with contextlib.suppress(_NoSuchRun):
            await self._call("kill", run=run)

    async def known(self) -> tuple[set[str], dict[str, Mapping[str, Any]]]:
        """What the broker knows: ids of live runs, and how others ended. Raises CroftError."""
        said = (await self._call("runs")).data
        return {row["run"] for row in said["runs"]}, {row["run"]: row for row in said["ended"]}

    # Inside

    async def _give_up(self, run: str) -> None:
        """The broker did not answer in time: should it start the run all the same, that is ended."""
        with contextlib.suppress(CroftError):
            await self.kill(run)

    def _new(self, run: str, cap: int) -> Live:
        return Live(run, Output(self._folder / run, cap))

    def _admit(self, live: Live, *, lost: bool = False) -> None:
        self._live[live.id] = live
        if early := self._unclaimed.pop(live.id, None):
            live.exited(early)
        live.task = asyncio.create_task(self._see_through(live, lost), name=f"run {live.id}")

    async def _see_through(self, live: Live, lost: bool) -> None:
        event = await live.gone
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await live.output.ended()
        except TimeoutError:
            live.output.close()
            await live.output.ended()
        del self._live[live.id]
        live.over.set_result(outcome(event, live.output, lost))

    def _on_event(self, event: Mapping[str, Any]) -> None:
        run = event.get("run")
        if event.get("event") != "exit" or not isinstance(run, str):
            return
        if live := self._live.get(run):
            live.exited(event)
        else:
            self._unclaimed[run] = event
            while len(self._unclaimed) > UNCLAIMED:
                self._unclaimed.popitem(last=False)

    def _look_again(self) -> None:
        """The connection came or went: events may have been missed."""
        if self._broker.closed.done():
            self._up.clear()
            return
        self._up.set()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="runs after reconnecting")

    async def _look(self) -> None:
        candidates = {run: live for run, live in self._live.items() if live.work is None}
        try:
            alive, ended = await self.known()
            if self._recover is not None:
                await self._recover(alive, ended)
                self._recover = None
            for run, live in candidates.items():
                if run not in alive:
                    live.exited(ended.get(run, {"reason": "lost"}))
            for run in alive - set(self._live) - self._starting:
                await self.kill(run)  # its start was given up when the connection broke
        except CroftError as error:
            log.warning("cannot look after the runs; the next connection does", extra={"cause": error.message})

    async def _call(self, op: str, **arguments: Any) -> Any:
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                await self._up.wait()  # a broker that restarts is back within a second
                return await self._broker.call(op, **arguments)
        except BrokerError as error:
            raise _explained(error) from error
        except TimeoutError as error:
            raise Unavailable("the broker does not answer", hint="Try again in a moment.") from error


async def _nobody(alive: set[str], ended: Mapping[str, Mapping[str, Any]]) -> None:
    """Until somebody says who is told."""


class NotStarted(CroftError):
    """The broker refused or could not start it; ``code`` and words are the broker's."""

    code = "cannot_run"
    status = 409


class _NoSuchRun(NotStarted):
    code = "not_found"


def outcome(event: Mapping[str, Any], output: Output, lost: bool) -> Outcome:
    """An exit event of the broker and what was read, as one value."""
    usage = event.get("usage", {})
    return Outcome(
        exit_code=event.get("exit_code"),
        signal=event.get("signal"),
        cause=event.get("reason", "lost"),
        stages=tuple(event.get("stages", ())),
        seconds=usage.get("wall"),
        stdout_bytes=output.written[STDOUT],
        stderr_bytes=output.written[STDERR],
        truncated=output.truncated,
        output_lost=lost,
        memory_peak_bytes=usage.get("memory_peak_bytes"),
        pids_refused=usage.get("pids_refused"),
    )


def _explained(error: BrokerError) -> CroftError:
    if error.code == "not_found":
        return _NoSuchRun(error.message)
    if error.code in ("ide_stopped", "unavailable"):
        return Unavailable(error.message, hint="Try again in a moment.", code=error.code)
    if error.code == "too_many_requests":
        return NotStarted(
            "too many commands are running already", hint="Wait for one to end, then try again.", code=error.code
        )
    return NotStarted(error.message, code=error.code)


async def _read_all(fd: int) -> bytes:
    loop, said = asyncio.get_running_loop(), b""
    os.set_blocking(fd, False)
    try:
        async with asyncio.timeout(3):
            while True:
                ready: asyncio.Future[None] = loop.create_future()
                loop.add_reader(fd, _ready, ready)
                await ready
                chunk = os.read(fd, 65_536)
                if not chunk or len(said) > 262_144:
                    return said
                said += chunk
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _ready(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _feed(output: Output, work: Work, seconds: int) -> int:
    """Carry a verb out into ``output``. Returns its exit status; errors for people go to the error stream."""
    try:
        async with asyncio.timeout(seconds):
            async for data in work():
                output.feed(STDOUT, data)
        return 0
    except CroftError as error:
        output.feed(STDERR, f"{error.message}\n{error.hint}\n".encode())
        return 1
    finally:
        output.end()


def _of_task(task: asyncio.Task[int]) -> Mapping[str, Any]:
    if task.cancelled():
        return {"exit_code": None, "signal": 9, "reason": "killed"}
    error = task.exception()
    if error is None:
        return {"exit_code": task.result(), "signal": None, "reason": "exit"}
    if isinstance(error, TimeoutError):
        return {"exit_code": None, "signal": 9, "reason": "timeout"}
    log.error("a typed verb failed", exc_info=error)
    return {"exit_code": 70, "signal": None, "reason": "exit"}
