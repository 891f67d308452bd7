"""docker.sock: the Docker Engine API with everything taken out that could touch more than Croft's own containers.

One request per connection. It is read whole, judged (docker_rules), its container or exec looked up by full id, and
only then is a request of our own making sent to the engine, whose answer is passed on byte by byte.

Rule: after its one request a client's bytes go nowhere, so there is nothing to smuggle, pipeline or hijack. Nothing
blocks: buffers are bounded, and a side that is full makes the other wait.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from appliance.broker import docker_rules, server
from appliance.broker.accounts import Accounts
from appliance.broker.docker_rules import MAX_HEAD, Head, Plan, Refused
from appliance.broker.engine import API, Answer, Call, EngineGone, Task, Work, connect, request_bytes

MOST_CLIENTS = 32
REQUEST_SECONDS = 10.0  # in which a whole request must have come
JUDGING_SECONDS = 30.0  # in which the engine must have said whose container it is
STALLED_SECONDS = 60.0  # in which a client must take something of what waits for it
BUFFER = 256 * 1024
CHUNK = 64 * 1024
TELL_EVERY = 1.0  # seconds between two lines about refused requests
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    413: "Payload Too Large",
    503: "Service Unavailable",
}


class DockerFilter:
    """Listens for the daemon and relays what docker_rules lets through."""

    def __init__(self, path: Path, engine: Path, accounts: Accounts) -> None:
        self._engine = engine
        self._uids = frozenset({0, accounts.daemon.uid, os.geteuid()})
        self._user = f"{accounts.workspace.uid}:{accounts.workspace.gid}"
        self._listener = server.listen(path, accounts.daemon.gid, socket.SOCK_STREAM)
        self._open: set[Exchange] = set()
        self._told = 0.0

    def register(self, selector: selectors.BaseSelector) -> None:
        """Join the broker's loop."""
        self._selector = selector
        selector.register(self._listener, selectors.EVENT_READ, lambda mask: self._accept())

    def pump(self) -> float | None:
        """Drop who is too slow. Seconds until the next one may be."""
        now = time.monotonic()
        for exchange in [one for one in self._open if one.deadline is not None and one.deadline <= now]:
            exchange.close()
        return min((one.deadline - now for one in self._open if one.deadline is not None), default=None)

    def close(self) -> None:
        """Take no more requests and end those under way."""
        if self._listener.fileno() >= 0:
            self._selector.unregister(self._listener)
            self._listener.close()
        for exchange in list(self._open):
            exchange.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # gone again, or out of descriptors: the next turn tries again
        if server.credentials(connection).uid not in self._uids or len(self._open) >= MOST_CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        self._open.add(Exchange(connection, self._selector, self._engine, self._user, self._closed))

    def _closed(self, exchange: Exchange, refusal: str) -> None:
        self._open.discard(exchange)
        if refusal and time.monotonic() - self._told >= TELL_EVERY:
            self._told = time.monotonic()
            sys.stderr.write(f"croft broker: a request on docker.sock was refused: {refusal}\n")


class Exchange:
    """One client, one request, one answer."""

    def __init__(
        self,
        client: socket.socket,
        selector: selectors.BaseSelector,
        engine: Path,
        user: str,
        closed: Callable[[Exchange, str], None],
    ) -> None:
        self.deadline: float | None = time.monotonic() + REQUEST_SECONDS
        self._client = client
        self._selector = selector
        self._engine = engine
        self._user = user
        self._closed = closed
        self._in = bytearray()
        self._head: Head | None = None
        self._asked = False
        self._judging: Task | None = None
        self._upstream: socket.socket | None = None
        self._to_engine = b""
        self._to_client = bytearray()
        self._ended = False
        self._refusal = ""
        selector.register(client, selectors.EVENT_READ, self._client_ready)

    def close(self) -> None:
        """Let go of both sides."""
        if self._client.fileno() < 0:
            return
        self._selector.unregister(self._client)
        self._client.close()
        self._close_upstream()
        if self._judging is not None:
            self._judging.cancel()
        self._closed(self, self._refusal)

    # The client's side.

    def _client_ready(self, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                self._flush()
            if mask & selectors.EVENT_READ and self._client.fileno() >= 0:
                self._take(self._client.recv(CHUNK))
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def _take(self, data: bytes) -> None:
        if not data or self._asked:  # hung up, or speaks out of turn
            self.close()
            return
        self._in += data
        try:
            self._read_request()
        except Refused as refusal:
            self._refuse(refusal)

    def _read_request(self) -> None:
        if self._head is None:
            head, found, rest = self._in.partition(b"\r\n\r\n")
            if len(head) > MAX_HEAD:
                raise Refused(400, "the request's head is too large")
            if not found:
                return
            self._head, self._in = docker_rules.parse_head(bytes(head)), rest
        if len(self._in) < self._head.length:
            return
        self._asked = True
        if len(self._in) > self._head.length:
            raise Refused(400, "one request per connection")
        plan = docker_rules.decide(self._head, bytes(self._in), self._user)
        self.deadline = time.monotonic() + JUDGING_SECONDS
        self._judging = Task(self._selector, self._answer(plan), self._answered)
        self._judging.begin()

    # Judging, with the engine's help.

    def _answer(self, plan: Plan) -> Work:
        """Look up what the request is about, so that a name, a prefix or a race cannot make it mean something else."""
        ids = {"container": "", "exec": plan.exec}
        if plan.exec:
            document = yield from self._inspect(f"/exec/{plan.exec}/json")
            if not docker_rules.harmless(document, self._user):
                raise Refused(404, "there is no such exec")
            yield from self._owned(str(document.get("ContainerID", "")), plan.service)
        elif plan.container:
            ids["container"] = yield from self._owned(plan.container, plan.service)
        path = plan.path.format(**ids) + (f"?{plan.query}" if plan.query else "")
        if plan.cut:
            document = yield from self._inspect(path, version="")
            self._send(200, {key: document[key] for key in plan.cut if key in document})
        else:
            self._relay(plan, path)

    def _owned(self, container: str, service: str) -> Work:
        document = yield from self._inspect(f"/containers/{container}/json")
        if not docker_rules.owned(document, service):
            raise Refused(404, "there is no such container")
        return str(document["Id"])

    def _inspect(self, path: str, version: str = API) -> Work:
        answer: Answer = yield Call(self._engine, "GET", path, version=version)
        if answer.status != 200:
            raise Refused(404, "there is no such container or exec")
        return answer.json()

    def _answered(self, error: Exception | None) -> None:
        self._judging = None
        if isinstance(error, EngineGone):
            error = Refused(503, error.message)
        if isinstance(error, Refused):
            self._refuse(error)
        elif error is not None:
            raise error

    def _refuse(self, refusal: Refused) -> None:
        self._refusal = refusal.message if refusal.status in (400, 403, 413) else ""  # the rest is everyday
        self._send(refusal.status, {"message": f"croft: {refusal.message}"})

    def _send(self, status: int, document: object) -> None:
        if self._client.fileno() < 0:
            return
        body = json.dumps(document).encode("ascii")
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._asked = self._ended = True
        self._to_client += head.encode("ascii") + body
        self._want()

    # The engine's side.

    def _relay(self, plan: Plan, path: str) -> None:
        self.deadline = None
        self._to_engine = request_bytes(plan.method, path, plan.body, version="1.1", extra="Connection: close\r\n")
        self._upstream = connect(self._engine)
        self._selector.register(self._upstream, selectors.EVENT_WRITE, self._upstream_ready)

    def _upstream_ready(self, mask: int) -> None:
        if (upstream := self._upstream) is None:
            return
        try:
            if mask & selectors.EVENT_WRITE:
                self._to_engine = self._to_engine[upstream.send(self._to_engine) :]
                if not self._to_engine:
                    self._selector.modify(upstream, selectors.EVENT_READ, self._upstream_ready)
                return
            data = upstream.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._to_client += data
        if not data:
            self._ended = True
            self._close_upstream()
        self._flush()

    def _close_upstream(self) -> None:
        if self._upstream is not None:
            if self._upstream in self._selector.get_map():
                self._selector.unregister(self._upstream)
            self._upstream.close()
            self._upstream = None

    def _flush(self) -> None:
        """Give the client what it takes; wait for it, and make the engine wait, when it takes no more."""
        try:
            sent = self._client.send(self._to_client) if self._to_client else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._to_client[:sent]
        if self._ended and not self._to_client:
            self.close()
            return
        if sent or self.deadline is None:
            self.deadline = time.monotonic() + STALLED_SECONDS if self._to_client else None
        self._want()

    def _want(self) -> None:
        if self._ended and self.deadline is None:
            self.deadline = time.monotonic() + STALLED_SECONDS
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._to_client else 0)
        self._selector.modify(self._client, mask, self._client_ready)
        if self._upstream is None or self._to_engine:
            return
        listening = self._upstream in self._selector.get_map()
        if listening and len(self._to_client) >= BUFFER:
            self._selector.unregister(self._upstream)
        elif not listening and len(self._to_client) < BUFFER:
            self._selector.register(self._upstream, selectors.EVENT_READ, self._upstream_ready)
