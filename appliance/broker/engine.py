"""Talking to the Docker Engine from the broker's loop: one request per connection, answered by callbacks.

Requests are HTTP/1.0 on purpose: the engine then sends no chunks and ends the body by closing, so there is no framing
to parse. Rule: nothing here blocks, and paths come from this package alone, never from a client.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from appliance.errors import Unavailable

SOCKET = Path("/var/run/docker.sock")
API = "/v1.41"  # engine 20.10, the oldest we support
MAX_HEAD = 64 * 1024
MAX_BODY = 8 * 1024 * 1024
MAX_OUTPUT = 16 * 1024
CHUNK = 64 * 1024

Line = Callable[[bytes], None]


class EngineGone(Unavailable):
    """The engine's socket does not answer, or it hung up half-way."""

    code = "engine_gone"


class Answer:
    """Status and body of one finished call."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body = body

    def json(self) -> Any:
        """The body as JSON. Raises EngineGone when it is none."""
        try:
            return json.loads(self.body or b"null")
        except ValueError as error:
            raise EngineGone("the Docker engine sent something that is not JSON") from error

    @property
    def message(self) -> str:
        """The engine's own words on a failure."""
        try:
            said = json.loads(self.body)
        except ValueError:
            said = None
        return str(said.get("message", "")) if isinstance(said, dict) else f"status {self.status}"


Done = Callable[["Answer | EngineGone"], None]


def request_bytes(method: str, path: str, body: Any = None, *, version: str = "1.0", extra: str = "") -> bytes:
    """One request, rendered. ``body`` becomes JSON, bytes are a tar archive; ``extra`` is header lines ending in CRLF.

    Raises EngineGone for a path that would end its line: what came behind it would be a request of its own.
    """
    if not (path.isascii() and path.isprintable()) or " " in path:
        raise EngineGone("the Docker engine cannot be asked: a name has characters that no name has")
    archive = isinstance(body, bytes)
    payload = body if archive else b"" if body is None else json.dumps(body).encode("ascii")
    kind = f"Content-Type: application/{'x-tar' if archive else 'json'}\r\n" if payload else ""
    length = f"Content-Length: {len(payload)}\r\n" if payload or method == "POST" else ""
    return f"{method} {path} HTTP/{version}\r\nHost: docker\r\n{kind}{length}{extra}\r\n".encode("ascii") + payload


def connect(path: Path) -> socket.socket:
    """A non-blocking connection. Connecting to a unix socket is immediate. Raises EngineGone."""
    try:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as error:  # out of descriptors
        raise EngineGone(f"the Docker engine cannot be asked: {error.strerror}") from error
    link.setblocking(False)
    try:
        link.connect(str(path))
    except OSError as error:  # refused, missing, or its backlog is full
        link.close()
        raise EngineGone(f"the Docker engine does not answer: {error.strerror}") from error
    return link


class Call:
    """One request under way. ``line`` gets each line of a streamed body as it comes; ``done`` is called once."""

    def __init__(
        self, engine: Path, method: str, path: str, body: Any = None, *, line: Line | None = None, version: str = API
    ) -> None:
        self._engine = engine
        self._out = request_bytes(method, version + path, body)
        self._line = line
        self._in = bytearray()
        self._status = 0
        self._link: socket.socket | None = None

    def begin(self, selector: selectors.BaseSelector, done: Done) -> None:
        """Send the request; a failure to connect is told through ``done`` as well."""
        self._selector, self._done = selector, done
        try:
            self._link = connect(self._engine)
        except EngineGone as error:
            done(error)
            return
        selector.register(self._link, selectors.EVENT_WRITE, self._ready)

    def cancel(self) -> None:
        """Hang up; ``done`` is not called."""
        if self._link is not None:
            self._selector.unregister(self._link)
            self._link.close()
            self._link = None

    def _ready(self, mask: int) -> None:
        if (link := self._link) is None:
            return
        try:
            if mask & selectors.EVENT_WRITE:
                self._send(link)
            elif data := link.recv(CHUNK):
                self._feed(data)
            else:
                self._finish(self._answer())
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(EngineGone(f"the Docker engine does not answer: {error.strerror}"))

    def _send(self, link: socket.socket) -> None:
        self._out = self._out[link.send(self._out) :]
        if not self._out:
            self._selector.modify(link, selectors.EVENT_READ, self._ready)

    def _feed(self, data: bytes) -> None:
        self._in += data
        if not self._status and not self._head():
            return
        if self._line is not None and self._status == 200:
            *lines, rest = self._in.split(b"\n")
            self._in = bytearray(rest)
            for line in lines:
                self._line(bytes(line))
        if len(self._in) > MAX_BODY:
            self._finish(EngineGone("the Docker engine's answer is too large"))

    def _head(self) -> bool:
        head, found, rest = self._in.partition(b"\r\n\r\n")
        if not found:
            if len(self._in) > MAX_HEAD:
                self._finish(EngineGone("the Docker engine's answer is too large"))
            return False
        self._status = int(head[9:12])
        self._in = bytearray(rest)
        return True

    def _answer(self) -> Answer | EngineGone:
        return Answer(self._status, bytes(self._in)) if self._status else EngineGone("the Docker engine hung up")

    def _finish(self, result: Answer | EngineGone) -> None:
        if self._link is not None:
            self.cancel()
            self._done(result)


class Program:
    """A program run to its end. The step gives ``(status, output)``: the last MAX_OUTPUT bytes of both streams."""

    def __init__(self, argv: tuple[str, ...], env: Mapping[str, str]) -> None:
        self._argv, self._env = argv, env
        self._pid: int | None = None

    @classmethod
    def adopt(cls, pid: int) -> Program:
        """A child that runs already; its output is somebody else's."""
        step = cls((), {})
        step._pid = pid
        return step

    def begin(self, selector: selectors.BaseSelector, done: Callable[[Any], None]) -> None:
        """Start it (OSError goes to ``done``) and wait for it in the loop."""
        output = os.memfd_create("output", os.MFD_CLOEXEC)
        try:
            pid = self._pid or _spawn(self._argv, self._env, output)
            watched = os.pidfd_open(pid)
        except OSError as error:
            os.close(output)
            done(error)
            return

        def ended(mask: int) -> None:
            selector.unregister(watched)
            os.close(watched)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            size = os.fstat(output).st_size
            said = os.pread(output, MAX_OUTPUT, max(0, size - MAX_OUTPUT)).decode("utf-8", "replace")
            os.close(output)
            done((status, said))

        selector.register(watched, selectors.EVENT_READ, ended)


def _spawn(argv: tuple[str, ...], env: Mapping[str, str], output: int) -> int:
    streams = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
    ]
    return os.posix_spawn(argv[0], argv, env, file_actions=streams, setsid=True, setsigdef=[signal.SIGPIPE])


Step = Any  # anything with begin(selector, done); what it hands to ``done`` is what the generator is resumed with
Work = Generator[Step, Any, Any]


class Task:
    """Runs a generator that yields steps (a :class:`Call`, a program) and is resumed with what each gave.

    A step that gives an exception has it raised inside the generator. ``ended`` is called once, with the error that
    left the generator, or None.
    """

    def __init__(self, selector: selectors.BaseSelector, work: Work, ended: Callable[[Exception | None], None]) -> None:
        self._selector, self._work, self._ended = selector, work, ended
        self._step: Step = None

    def begin(self) -> None:
        self._resume(None)

    def cancel(self) -> None:
        """Give up a task whose steps are all calls; ``ended`` is not called."""
        if self._step is not None:
            self._step.cancel()
        self._work.close()

    def _resume(self, result: Any) -> None:
        self._step = None
        try:
            step = self._work.throw(result) if isinstance(result, Exception) else self._work.send(result)
        except StopIteration:
            self._ended(None)
        except Exception as error:  # noqa: BLE001 - whatever ends the work is handed on, not hidden
            self._ended(error)
        else:
            self._step = step
            step.begin(self._selector, self._resume)
