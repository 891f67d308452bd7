"""The docker runtime: services are containers. The broker makes and starts them; the Docker SDK, over the
broker's filtered socket, watches, reads and stops them.

Rule: the SDK blocks, so it is only ever called in threads of its own, and it is imported there, when it is
first needed. Figures come from the kernel's control groups: the engine's own statistics take a second or
two per container.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import queue
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from appliance.broker import containers
from appliance.broker.client import BrokerClient, BrokerError, keep_connected
from appliance.broker.protocol import Reply
from appliance.broker.shares import NoRoom
from appliance.errors import CroftError, Unavailable
from appliance.services import docker_logs
from appliance.services.connection import for_model
from appliance.services.model import SERVICES, LogLine, Missing, Observed, Progress, ServiceName, State, Supply
from appliance.services.problems import TABLE
from appliance.services.runtime import RuntimeGone, StartFailed

log = logging.getLogger(__name__)

ANSWER_WITHIN = 10.0  # seconds for the broker, and for the engine over a call that should be quick
START_WITHIN = 180.0  # Compose may have to make networks and a container on a slow disk
SILENCE = 600.0  # a pull that reports nothing for so long has failed
WATCH_AGAIN = 1.0  # seconds between tries to hear the engine's events again
QUEUE = 1000  # lines a slow reader may be behind


class DockerRuntime:
    """See :class:`~appliance.services.runtime.Runtime`. ``docker_socket`` is the filtered one."""

    def __init__(self, client: BrokerClient, docker_socket: Path) -> None:
        self._client = client
        self._socket = docker_socket
        self._threads = ThreadPoolExecutor(4, "docker")
        self._sdk: Any = None
        self._sdk_lock = threading.Lock()
        self._changed: Callable[[], None] = lambda: None
        self._keeper: asyncio.Task[None] | None = None
        self._watcher: threading.Thread | None = None
        self._closing = threading.Event()
        self._stream: Any = None
        self._waiting: dict[tuple[str, str], asyncio.Queue[Mapping[str, Any]]] = {}

    async def open(self, changed: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._changed = changed
        self._client.on_event(self._on_event)
        self._keeper = asyncio.create_task(keep_connected(self._client, changed), name="broker connection")

        def stir() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone: so is everybody who wants to know
                loop.call_soon_threadsafe(changed)

        self._watcher = threading.Thread(target=self._watch, args=(stir,), name="docker events", daemon=True)
        self._watcher.start()

    async def close(self) -> None:
        self._closing.set()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await asyncio.to_thread(self._close_sdk)
        await self._client.close()

    async def observe(self) -> tuple[Observed, ...]:
        seen = await self._call(self._inspect)
        return tuple([await self._observed(name, seen.get(name)) for name in SERVICES])

    async def start(self, service: ServiceName, model_mb: int | None, *, safe: bool = False) -> None:
        asked = for_model(model_mb) | ({"safe": True} if safe else {})
        await self._job("start", "start", service, START_WITHIN, lambda event: None, **asked)

    async def share(self, model_mb: int | None) -> None:
        try:
            await self._ask("share", **for_model(model_mb))
        except BrokerError as error:
            raise RuntimeGone(f"the broker cannot share the machine out: {error.message}") from error

    async def stop(self, service: ServiceName, grace: float) -> None:
        await self._call(lambda sdk: self._stop(sdk, service, math.ceil(grace)))

    async def pull(self, service: ServiceName, report: Callable[[Progress], None]) -> None:
        def progress(event: Mapping[str, Any]) -> None:
            report(Progress(event["phase"], event["current"], event["total"]))

        await self._job("image-pull", "pull", service, SILENCE, progress)

    async def supply(self, service: ServiceName) -> Supply:
        """``held`` also where the container that runs was made from the image before: one is fetched, then switched to."""
        found, status = await self._call(self._inspect), (await self._status(service)).data
        if not status["present"] or not status["current"]:
            return Supply.FETCH
        return Supply.HELD if service in found and found[service][0].image != status["image"] else Supply.CURRENT

    async def logs(self, service: ServiceName, lines: int) -> list[LogLine]:
        raw = await self._call(lambda sdk: docker_logs.read(sdk, service, tail=lines))
        return [docker_logs.line(one) for one in (raw or b"").split(b"\n") if one][-lines:] if lines else []

    async def follow(self, service: ServiceName, lines: int) -> AsyncIterator[LogLine]:
        """A thread reads, the queue between holds at most QUEUE lines, and a full queue makes the thread
        wait."""
        arrived: queue.Queue[LogLine] = queue.Queue(QUEUE)
        ready, loop = asyncio.Event(), asyncio.get_running_loop()
        reader = docker_logs.Follower(self.sdk, service, lines, arrived, lambda: loop.call_soon_threadsafe(ready.set))
        reader.start()
        try:
            while True:
                await ready.wait()
                ready.clear()
                while not arrived.empty():
                    yield arrived.get_nowait()
        finally:
            reader.hang_up()

    # The broker.

    async def _job(
        self,
        op: str,
        name: str,
        service: ServiceName,
        within: float,
        progress: Callable[[Mapping[str, Any]], None],
        **asked: Any,
    ) -> None:
        """Ask for something that takes its time and wait for its end. Raises StartFailed and RuntimeGone."""
        events: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._waiting[name, service] = events
        try:
            await self._ask(op, service=service, **asked)
            while (event := await self._next(events, within))["event"] != "done":
                progress(event)
        except BrokerError as error:
            raise _failure(error.code, error.message) from error
        finally:
            del self._waiting[name, service]
        if event["error"]:
            raise _failure(event["error"]["code"], event["error"]["message"])

    async def _next(self, events: asyncio.Queue[Mapping[str, Any]], within: float) -> Mapping[str, Any]:
        """The next event of a job; an end of the connection to the broker ends the wait as well."""
        waiting: asyncio.Future[Any] = asyncio.ensure_future(events.get())
        ends: asyncio.Future[Any] = self._client.closed
        try:
            await asyncio.wait({waiting, ends}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                event: Mapping[str, Any] = waiting.result()
                return event
        finally:
            waiting.cancel()
        raise RuntimeGone("the broker does not answer")

    def _on_event(self, event: Mapping[str, Any]) -> None:
        name = "pull" if event.get("event") == "progress" else str(event.get("op"))
        waiting = self._waiting.get((name, str(event.get("service"))))
        if waiting is not None and event["event"] in ("progress", "done"):
            waiting.put_nowait(event)
        if event.get("event") != "progress":
            self._changed()

    async def _ask(self, op: str, **asked: Any) -> Reply:
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return await self._client.call(op, **asked)
        except BrokerError:
            raise
        except (Unavailable, TimeoutError) as error:
            raise RuntimeGone("the broker does not answer") from error

    # The engine, in threads.

    async def _call(self, work: Callable[[Any], Any]) -> Any:
        """Run ``work(sdk)`` in a thread. Raises RuntimeGone when the engine or the filter does not answer."""

        def run() -> Any:
            try:
                return work(self.sdk())
            except docker_logs.unreachable() as error:
                code = "engine_gone" if self._connected() else None
                raise RuntimeGone(f"the Docker engine does not answer: {type(error).__name__}", code=code) from error

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def _connected(self) -> bool:
        closed = getattr(self._client, "closed", None)
        return closed is not None and not closed.done()

    def sdk(self) -> Any:
        """The SDK's client, made on first use. Blocks: for threads only. Raises OSError when nobody listens."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self._socket))  # the SDK forgets to close its socket when connecting fails
        with self._sdk_lock:
            if self._sdk is None:
                import docker  # 17 MB that an appliance without containers never needs

                self._sdk = docker.DockerClient(f"unix://{self._socket}", timeout=int(ANSWER_WITHIN), max_pool_size=8)
            return self._sdk

    def _close_sdk(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # the stream's insides are gone when it has just ended
            if self._stream is not None:
                self._stream.close()
        if self._watcher is not None:
            self._watcher.join(5.0)
        self._threads.shutdown(wait=True)
        if self._sdk is not None:
            self._sdk.close()

    def _inspect(self, sdk: Any) -> dict[str, tuple[containers.Seen, int]]:
        found: dict[str, tuple[containers.Seen, int]] = {}
        for service in SERVICES:
            with contextlib.suppress(docker_logs.not_found()):
                document = sdk.api.inspect_container(containers.name(service))
                if (seen := containers.read(service, document)) is not None:
                    found[service] = (seen, int(document["HostConfig"]["Memory"]))
        return found

    async def _observed(self, name: ServiceName, found: tuple[containers.Seen, int] | None) -> Observed:
        if found is None:
            present = (await self._status(name)).data["present"]
            return Observed(name, State.ABSENT, missing=Missing.CONTAINER if present else Missing.IMAGE)
        seen, limit = found
        if not seen.running:
            code, number = seen.outcome if seen.run_id else (None, None)
            return Observed(
                name,
                State(seen.state),
                seen.since,
                seen.run_id,
                exit_code=code,
                signal=number or 0,
                oom_killed=seen.oom_killed,
                memory_limit=limit,
            )
        figures = containers.group(seen.pid, seen.id).figures()
        return Observed(
            name,
            State.RUNNING,
            seen.since,
            seen.run_id,
            seen.pid,
            memory_limit=limit,
            memory_bytes=figures["memory_bytes"] or 0,
            cpu_usec=figures["cpu_usec"] or 0,
            outdated=name == "proxy" and await self._outdated(name),
        )

    async def _outdated(self, service: ServiceName) -> bool:
        """What only the broker knows: whether the service runs with a configuration that has changed since."""
        rows = (await self._ask("services")).data["services"]
        return any(row["service"] == service and row["outdated"] for row in rows)

    async def _status(self, service: ServiceName) -> Reply:
        try:
            return await self._ask("image-status", service=service)
        except BrokerError as error:
            raise RuntimeGone(f"the broker cannot look at images: {error.message}") from error

    def _stop(self, sdk: Any, service: ServiceName, grace: int) -> None:
        with contextlib.suppress(docker_logs.not_found()):
            sdk.api.stop(containers.name(service), timeout=grace)

    def _watch(self, stir: Callable[[], None]) -> None:
        """Hear of every change until closed; whenever the engine goes or comes back, much may have changed."""
        while not self._closing.is_set():
            try:
                self._stream = self.sdk().events(decode=True)
                stir()
                for event in self._stream:
                    if not str(event.get("Action", "")).startswith("exec_"):
                        stir()
            except docker_logs.unreachable() as error:
                log.debug("cannot hear the engine's events", extra={"cause": type(error).__name__})
            stir()
            self._closing.wait(WATCH_AGAIN)


def _failure(code: str, message: str) -> CroftError:
    if code == "engine_gone":
        return RuntimeGone(message, code=code)
    if code == NoRoom.code:
        return NoRoom(message)
    return StartFailed(message, problem=code if code in TABLE else "")
