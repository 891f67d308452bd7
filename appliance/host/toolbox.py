"""The toolchains of the workspace as the daemon offers them: what is there, and one change at a time, followed live.

Rule: what is there is read from the disk each time it is asked for; the daemon remembers only what is under way and how
the last change failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import IO, Annotated, Any, TypedDict

import msgspec

from appliance.audit import AuditLog
from appliance.errors import Conflict, CroftError, NotFound, Unavailable
from appliance.events import EventBus

log = logging.getLogger(__name__)

ANSWER_WITHIN = 20.0  # seconds for a look
Ask = Callable[..., Awaitable[socket.socket]]
"""Called with ``action`` and, but for list, ``name`` and ``series``; gives the socket of a helper (appliance.host.tools)."""
Run = Callable[[list[str]], Awaitable[IO[bytes]]]
"""Starts a command in the workspace's own surroundings, as its account; gives what it writes."""
WHY = (
    *("absent", "altered", "broker", "busy", "disk_full", "failed", "ide_stopped"),
    *("missing", "no_apt", "present", "unavailable", "unknown", "unreachable"),
)


Text = Annotated[str, msgspec.Meta(max_length=1000)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class Progress(msgspec.Struct, tag_field="event", tag="progress"):
    """How far it is."""

    current: Bytes
    total: Bytes


class Tool(TypedDict):
    """One that is here whole; ``bytes`` is what it takes."""

    name: Text
    series: Text
    version: Text
    bytes: Bytes
    programs: list[Text]


class Done(msgspec.Struct, tag_field="event", tag="done"):
    """The last word; a helper also tells what is here now and the bytes that are free."""

    tools: list[Tool] = []
    free: Bytes = 0


class Gone(msgspec.Struct, tag_field="event", tag="failed"):
    """The last word of one that could not do it."""

    code: Text
    message: Text


_LINE = msgspec.json.Decoder(Progress | Done | Gone)


class ToolFailed(CroftError):
    """The helper's own words; ``code`` is one of WHY, which pages have words for."""

    code = "failed"
    status = 409


class Toolbox:
    """One for the appliance. ``runtime`` is the broker's word."""

    def __init__(self, ask: Ask, run: Run, audit: AuditLog, bus: EventBus, runtime: str) -> None:
        self._ask, self._run, self._audit, self._bus, self.runtime = ask, run, audit, bus, runtime
        self._task: asyncio.Task[None] | None = None
        self._ended = 0
        self.job: dict[str, Any] | None = None
        self.problem: dict[str, Any] | None = None

    def picture(self) -> dict[str, Any]:
        """``job`` under way (name series action current total, bytes), ``problem`` of the last, ``ended`` counts changes."""
        return {"job": self.job, "problem": self.problem, "ended": self._ended}

    async def look(self) -> Done:
        """What is here. Raises CroftError."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                async with contextlib.aclosing(_lines(await self._ask(action="list"))) as lines:
                    return [line async for line in lines if isinstance(line, Done)][-1]
        except TimeoutError as error:
            raise Unavailable("cannot look at the tools: the disk does not answer", hint="Try again.") from error

    async def begin(self, action: str, name: str, series: str, actor: str) -> None:
        """Start adding or removing one, announced in the audit log. Raises NotFound, Conflict, AuditUnavailable."""
        from appliance.host.tools import offered

        if series not in offered(name):
            raise NotFound("there is no such tool", hint="`croft tools list` names every one.")
        if self.job is not None:
            raise Conflict(
                "another tool is being added or removed", hint="Wait for it, or cancel it.", code="tool_busy"
            )
        self.job = {"action": action, "name": name, "series": series, "current": 0, "total": 0}
        self.problem = None
        announced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._change(dict(self.job), actor, announced), name=f"tool {name}")
        await announced

    def cancel(self) -> None:
        """Give up what is under way; nothing of it is left."""
        if self._task is not None:
            self._task.cancel()

    async def wait(self) -> None:
        """Until nothing is under way."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _change(self, job: dict[str, Any], actor: str, announced: asyncio.Future[None]) -> None:
        from appliance.host.tools import unpacking

        what = {key: job[key] for key in ("name", "series")}
        try:
            async with self._audit.doing(f"tool.{job['action']}", actor, tool=job["name"], series=job["series"]):
                announced.set_result(None)
                self._tell()
                if job["action"] == "add" and (command := await asyncio.to_thread(unpacking, **what)):
                    await self._follow(job, await self._run(command))
                await self._follow(job, await self._ask(action=job["action"], **what))
        except CroftError as error:
            if not announced.done():
                announced.set_exception(error)
            self.problem = what | {"code": error.code if error.code in WHY else "failed", "message": error.message}
            log.warning("a tool was not changed", extra={"tool": job["name"], "cause": error.message})
        finally:
            self.job = None
            self.changed()

    async def _follow(self, job: dict[str, Any], channel: socket.socket | IO[bytes]) -> None:
        async with contextlib.aclosing(_lines(channel)) as lines:
            async for line in lines:
                if isinstance(line, Progress):
                    self.job = job | {"current": line.current, "total": line.total}
                    self._tell()

    def changed(self) -> None:
        """Pages show everything anew."""
        self._ended += 1
        self._tell()

    def _tell(self) -> None:
        self._bus.publish("tools", {}, keep=False)


async def _lines(channel: socket.socket | IO[bytes]) -> AsyncGenerator[Progress | Done, None]:
    """What a helper says, up to its last word. Raises ToolFailed, Unavailable. Leaving early ends its work.

    One in the container can be made to say anything.
    """
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), channel
    )
    try:
        while text := await reader.readline():
            line = _LINE.decode(text)
            if isinstance(line, Gone):
                raise ToolFailed(line.message, code=line.code)
            yield line
            if isinstance(line, Done):
                return
    except (ValueError, OSError, RecursionError) as error:
        raise Unavailable("the tools' helper said something that is not understood") from error
    finally:
        transport.close()
    raise Unavailable("the tools' helper ended before it was done", hint="Try again.")
