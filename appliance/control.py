"""The command line's end of the control socket: HTTP over a unix socket, standard library only so that it starts fast."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.errors import CroftError, Unavailable

TIMEOUT = 90.0


class NotRunning(Unavailable):
    """No daemon answers on the control socket."""

    code = "not_running"


class Refused(CroftError):
    """The daemon refused; its own words and hint."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Control:
    """Calls the running daemon as actor ``console``. :class:`appliance.remote.Remote` does the same from another machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON answer. Raises NotRunning, or Refused with the daemon's words."""
        with _conversation(self._send(method, path, body)) as response:
            return _read(response)

    def lines(self, path: str) -> Iterator[dict[str, Any]]:
        """Data of each event of a stream, until it ends, or is cut: whoever waits for a last event looks whether it came."""
        with _conversation(self._send("GET", path, None)) as response:
            if response.status != 200:
                _read(response)
            for raw in response:
                if raw.startswith(b"data: ") and raw.endswith(b"\n"):
                    yield json.loads(raw[6:])

    def events(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and data of each event of a stream, until it ends."""
        with _conversation(self._send("GET", path, None)) as response:
            if response.status != 200:
                _read(response)
            name = ""
            for raw in response:
                if raw.startswith(b"event: "):
                    name = raw[7:].decode().strip()
                elif raw.startswith(b"data: ") and raw.endswith(b"\n"):
                    yield name, json.loads(raw[6:])

    def pieces(self, path: str) -> Iterator[bytes]:
        """The answer as it is, piece by piece."""
        with _conversation(self._send("GET", path, None)) as response:
            if response.status != 200:
                _read(response)
            while piece := response.read1(65536):
                yield piece

    def _send(self, method: str, path: str, body: Any) -> http.client.HTTPConnection:
        connection = _Connection(self._path)
        headers = {"Content-Type": "application/json", "Accept": "application/json"} if body is not None else {}
        try:
            connection.request(method, path, written(body), headers)
        except PermissionError as error:
            connection.close()
            raise Refused("this command is for root and the croft account", hint="Run it with sudo.") from error
        except OSError as error:
            connection.close()
            raise NotRunning(
                "Croft is not running", hint="Start it with `croft serve`, or see `croft doctor`."
            ) from error
        return connection


def written(body: Any) -> bytes | None:
    """``body`` as it is sent. UTF-8 as it is: escapes make six bytes of an Arabic letter's two. Raises UnicodeError."""
    return None if body is None else json.dumps(body, ensure_ascii=False).encode()


@contextmanager
def _conversation(connection: http.client.HTTPConnection) -> Iterator[http.client.HTTPResponse]:
    """The answer, and the connection closed afterwards. Raises Unavailable when the daemon goes away in the middle."""
    try:
        yield connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable("Croft stopped answering", hint="`croft doctor` says more; its log says why.") from error
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse) -> Any:
    text = response.read()
    try:
        data = json.loads(text)
    except ValueError as error:
        raise _unexplained(response) from error
    if response.status >= 400:
        words = data.get("error") if isinstance(data, dict) else None
        if not isinstance(words, dict):
            raise _unexplained(response)
        raise Refused(words.get("message", "refused"), hint=words.get("hint", ""), code=words.get("code", "refused"))
    return data


def _unexplained(response: http.client.HTTPResponse) -> Refused:
    return Refused(
        f"the answer was {response.status}, without an explanation",
        hint="Is it an appliance that answers? On its machine `croft doctor` says more.",
        code="refused",
    )
