"""Reading the logs of containers through the Docker SDK, in a thread.

Rule: everything here blocks and runs in threads alone; what a reader does not take, the engine keeps.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from appliance.broker import containers
from appliance.services.model import LogLine, ServiceName

log = logging.getLogger(__name__)

AGAIN = 1.0  # seconds until a container that is gone is looked for again
LONGEST = 16 * 1024  # bytes of one line
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) ")


class Follower(threading.Thread):
    """Reads one service's log into ``arrived``, from one container to the next; ``tell`` is called after
    each line."""

    def __init__(
        self,
        sdk: Callable[[], Any],
        service: ServiceName,
        lines: int,
        arrived: queue.Queue[LogLine],
        tell: Callable[[], object],
    ) -> None:
        super().__init__(name=f"docker logs {service}", daemon=True)
        self._sdk = sdk
        self._service = service
        self._lines = lines
        self._arrived = arrived
        self._ended = threading.Event()
        self._tell = tell
        self._stream: Any = None
        self._last = b""  # the engine's stamp of the last line given on; stamps of one container only grow

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._read()
            except unreachable() as error:
                log.debug("cannot read a log", extra={"cause": type(error).__name__})
            self._ended.wait(AGAIN)

    def hang_up(self) -> None:
        """End the stream under the thread; it then ends by itself."""
        self._ended.set()
        with contextlib.suppress(OSError, AttributeError):
            if self._stream is not None:
                self._stream.close()

    def _read(self) -> None:
        more: dict[str, Any] = {"since": math.floor(containers.seconds(self._last.decode()))} if self._last else {}
        self._stream = read(
            self._sdk(), self._service, tail="all" if self._last else self._lines, stream=True, follow=True, **more
        )
        for raw in _whole_lines(self._stream or ()):
            found = _STAMP.match(raw)
            stamp = found[1] if found else b""
            if found and stamp <= self._last:
                continue  # seen before the stream was opened again
            if not self._give(line(raw)):
                return
            self._last = stamp or self._last

    def _give(self, line: LogLine) -> bool:
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._arrived.put(line, timeout=0.5)
                with contextlib.suppress(RuntimeError):  # the loop is gone
                    self._tell()
                return True
        return False


def read(sdk: Any, service: ServiceName, **how: Any) -> Any:
    """Raw log of a service's container with the engine's stamps; None when there is none."""
    with contextlib.suppress(not_found()):
        return sdk.api.logs(containers.name(service), stdout=True, stderr=True, timestamps=True, **how)
    return None


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > LONGEST:
            yield rest
            rest = b""


def line(raw: bytes) -> LogLine:
    """One line as the engine gives it: its stamp, a space, the text. The middle of an endless line has no
    stamp."""
    found = _STAMP.match(raw)
    text = raw[found.end() :] if found else raw
    return LogLine(
        text[:LONGEST].decode("utf-8", "replace").rstrip("\r"), containers.seconds(found[1].decode()) if found else None
    )


def unreachable() -> tuple[type[Exception], ...]:
    """What the SDK raises when nobody answers, or answers that the engine is gone."""
    import docker.errors
    import requests
    import urllib3

    return (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)


def not_found() -> type[Exception]:
    """What the SDK raises for a container that is not there."""
    import docker.errors

    found: type[Exception] = docker.errors.NotFound
    return found
