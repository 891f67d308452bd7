"""The process runtime: services are processes that the broker starts and stops for us.

Rule: this class knows nothing that the broker does not; after a restart of either, the broker's rows are
the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from appliance.broker.client import BrokerClient, BrokerError, keep_connected
from appliance.broker.protocol import Reply
from appliance.broker.shares import NoRoom
from appliance.errors import Unavailable
from appliance.services import logs
from appliance.services.connection import ANSWER_WITHIN, count_terminals, for_model
from appliance.services.history import ENDED
from appliance.services.model import SERVICES, LogLine, Missing, Observed, Progress, ServiceName, State, Supply
from appliance.services.runtime import RuntimeGone, StartFailed

LOOK_EVERY = 1.0  # while something is being stopped, should its exit event get lost
STOP_SLACK = 10.0  # beyond the grace, for the kernel to bury what was killed


class ProcessRuntime:
    """See :class:`~appliance.services.runtime.Runtime`. Keeps ``client`` connected; others may use it too."""

    def __init__(self, client: BrokerClient) -> None:
        self._client = client
        self._keeper: asyncio.Task[None] | None = None
        self._changed: Callable[[], None] = lambda: None
        self._stirred = asyncio.Event()
        self._killed_for_memory: dict[ServiceName, str] = {}  # the run that ended so

    async def open(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._client.on_event(self._on_event)
        self._keeper = asyncio.create_task(keep_connected(self._client, self._stir), name="broker connection")

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._client.close()

    async def observe(self) -> tuple[Observed, ...]:
        rows = {row["service"]: row for row in (await self._call("services")).data["services"]}
        return tuple(self._observed(name, rows[name]) for name in SERVICES if name in rows)

    async def start(self, service: ServiceName, model_mb: int | None, *, safe: bool = False) -> None:
        try:
            await self._call("start", service=service, **for_model(model_mb), **({"safe": True} if safe else {}))
        except BrokerError as error:
            raise (NoRoom if error.code == NoRoom.code else StartFailed)(error.message) from error

    async def share(self, model_mb: int | None) -> None:
        try:
            await self._call("share", **for_model(model_mb))
        except BrokerError as error:
            raise RuntimeGone(f"the broker cannot share the machine out: {error.message}") from error

    async def stop(self, service: ServiceName, grace: float) -> None:
        try:
            async with asyncio.timeout(grace + STOP_SLACK):
                await self._call("stop", service=service, grace=grace)
                while await self._is_up(service):
                    await self._next_event()
        except BrokerError as error:
            raise RuntimeGone(f"the broker cannot stop the {service} service: {error.message}") from error
        except TimeoutError:
            raise RuntimeGone(f"the {service} service does not end") from None

    async def pull(self, service: ServiceName, report: Callable[[Progress], None]) -> None:
        raise StartFailed("there are no images in the process runtime", problem="not_installed")

    async def supply(self, service: ServiceName) -> Supply:
        return Supply.INSTALLER

    async def logs(self, service: ServiceName, lines: int) -> list[LogLine]:
        fd = await self._open_log(service)
        if fd is None:
            return []
        try:
            return await logs.tail(fd, lines)
        finally:
            os.close(fd)

    def follow(self, service: ServiceName, lines: int) -> AsyncIterator[LogLine]:
        return logs.follow(lambda: self._open_log(service), lines)

    async def terminals(self) -> int:
        """How many terminals of the IDE have a program in front. Raises Unavailable."""
        return await count_terminals(self._client)

    async def _call(self, op: str, **arguments: Any) -> Reply:
        """Raises BrokerError when the broker refuses, RuntimeGone when it does not answer."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return await self._client.call(op, **arguments)
        except (Unavailable, TimeoutError) as error:
            raise RuntimeGone("the broker does not answer") from error

    async def _open_log(self, service: ServiceName) -> int | None:
        try:
            return (await self._call("logs", service=service)).fds[0]
        except BrokerError as error:
            if error.code == "not_found":
                return None
            raise RuntimeGone(f"cannot read the log: {error.message}") from error

    async def _is_up(self, service: ServiceName) -> bool:
        self._stirred.clear()
        return any(one.service == service and one.state not in ENDED for one in await self.observe())

    async def _next_event(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY):
                await self._stirred.wait()

    def _on_event(self, event: Mapping[str, Any]) -> None:
        if event.get("event") == "exit" and "service" in event:
            if event.get("reason") == "oom":
                self._killed_for_memory[event["service"]] = event.get("run_id", "")
            self._stir()

    def _stir(self) -> None:
        self._stirred.set()
        self._changed()

    def _observed(self, name: ServiceName, row: Mapping[str, Any]) -> Observed:
        """One of the broker's rows; what it does not know is None there."""
        state, run_id = State(row["state"]), row.get("run_id")
        return Observed(
            name,
            state,
            row.get("since") or 0.0,
            run_id,
            row.get("pid"),
            row.get("exit_code"),
            row.get("signal") or 0,
            oom_killed=run_id is not None and self._killed_for_memory.get(name) == run_id,
            missing=Missing.PROGRAM if state is State.ABSENT else Missing.NOTHING,
            memory_bytes=row.get("memory_bytes") or 0,
            memory_limit=row.get("memory_limit") or 0,
            cpu_usec=row.get("cpu_usec") or 0,
            outdated=bool(row.get("outdated")),
        )
