"""The ear of ``croft sign-in``: one port of 127.0.0.1 that takes one answer from the browser and closes.

Rule: an answer without our state is nobody's; it is turned away and waited on, so no page can end the wait or slip in its own code.
"""

from __future__ import annotations

import hmac
import socket
import time
from typing import Self
from urllib.parse import parse_qs, urlsplit

from appliance.errors import Invalid

HEAD_MAX = 8192
EACH_SECONDS = 5.0


class Listener:
    """Listens while it is open as a context."""

    def __init__(self, state: str, onward: str) -> None:
        self._state = state
        self._onward = onward

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        return self

    def __exit__(self, *why: object) -> None:
        self._socket.close()

    def wait(self, seconds: float) -> str:
        """The code. Raises Invalid when it was denied or nobody answered in time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                break
            with connection:
                answer = self._answer(connection)
            if answer is not None:
                return _code(answer)
        raise Invalid("nobody answered in the browser in time", hint="Run `croft sign-in` again.", code="grant_refused")

    def _answer(self, connection: socket.socket) -> dict[str, str] | None:
        """The fields of a request that is ours; the browser is sent on. None for anything else."""
        try:
            connection.settimeout(EACH_SECONDS)
            fields = self._fields(_head(connection))
            if fields is None:
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return None
            onward = (
                f"HTTP/1.1 303 See Other\r\nLocation: {self._onward}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            connection.sendall(onward.encode("ascii"))
            return fields
        except OSError:
            return None  # it hung up, or said nothing in time: not the browser we wait for

    def _fields(self, head: bytes) -> dict[str, str] | None:
        lines = head.decode("latin-1").split("\r\n")
        method, _, rest = lines[0].partition(" ")
        host = next((line[5:].strip() for line in lines[1:] if line.lower().startswith("host:")), "")
        if method != "GET" or host != f"127.0.0.1:{self.port}":
            return None
        try:
            found = parse_qs(urlsplit(rest.partition(" ")[0]).query, max_num_fields=8)
        except ValueError:
            return None
        fields = {name: values[0] for name, values in found.items() if len(values) == 1}
        ours = hmac.compare_digest(fields.get("state", "").encode(), self._state.encode())
        return fields if ours and ("code" in fields or "error" in fields) else None


def _head(connection: socket.socket) -> bytes:
    head = b""
    deadline = time.monotonic() + EACH_SECONDS
    while b"\r\n\r\n" not in head and len(head) < HEAD_MAX and time.monotonic() < deadline:
        more = connection.recv(HEAD_MAX)
        if not more:
            break
        head += more
    return head


def _code(fields: dict[str, str]) -> str:
    if "code" not in fields:
        raise Invalid("it was turned away in the browser", hint="Nothing was granted.", code="grant_refused")
    return fields["code"]
