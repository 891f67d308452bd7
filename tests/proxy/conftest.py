"""A real Caddy with our Caddyfile in front of two stand-ins, once plain and once with TLS, for each Caddy there is.

CROFT_TEST_CADDY names a second, newer Caddy. Without it the cases for that generation are listed at the end as not run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.appliance import free_port
from support.waiting import poll

from appliance.broker.caddyfile import render
from appliance.settings import Paths, Settings, parse

HERE = Path(__file__).parent
HOST = "croft.localhost"
IDE = f"ide.{HOST}"
OPERATOR = "croft_ide_" + "o" * 43
VIEWER = "croft_ide_" + "v" * 43
TOKEN = "eyJ0.eyJzdWIiOiJvcGVyYXRvciJ9.c2lnbmF0dXJl"
NEWER = os.environ.get("CROFT_TEST_CADDY", "")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not NEWER:
        terminalreporter.write_line("not run: tests/proxy with a newer Caddy (CROFT_TEST_CADDY names none)")


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@dataclass
class Answer:
    """One HTTP/1.1 response, as far as it came before the deadline or the end of the connection."""

    raw: bytes
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def __post_init__(self) -> None:
        head, _, self.body = self.raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1]) if lines[0].startswith("HTTP/") else 0
        self.headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        if self.all("transfer-encoding") == ["chunked"]:
            self.body = _unchunk(self.body)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def get(self, name: str) -> str:
        return ", ".join(self.all(name))

    def json(self) -> Any:
        return json.loads(self.body)


def _unchunk(body: bytes) -> bytes:
    out = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        count = int(size.split(b";")[0], 16)
        out, body = out + body[:count], body[count + 2 :]
        if not count:
            break
    return out


class Stack:
    """Caddy, the daemon's stand-in and the editor's stand-in, and what reached each."""

    HOST, IDE, OPERATOR, VIEWER, TOKEN = HOST, IDE, OPERATOR, VIEWER, TOKEN

    def __init__(self, folder: Path, caddy: str, tls: str, **document: Any) -> None:
        self.folder, self.caddy, self.tls = folder, caddy, tls != "off"
        self.http_port, self.https_port = free_port(), free_port()
        self.port = self.https_port if self.tls else self.http_port
        proxy = {"http_port": self.http_port, "https_port": self.https_port, "tls": tls, "bind": "127.0.0.1"}
        self.settings: Settings = parse({"host": HOST, "proxy": proxy | document}, Paths.under(folder))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def storage(self) -> Path:
        return self.settings.paths.caddy_data / "caddy"

    def start(self) -> None:
        for name in ("web", "ide"):
            self.settings.paths.socket(name).parent.mkdir(parents=True, exist_ok=True)
        for role in ("daemon", "editor"):
            self.start_role(role)
        config = self.folder / "Caddyfile"
        config.write_text(render(self.settings, "process"))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
        }
        with (self.folder / "caddy.log").open("wb") as log:
            self.processes["caddy"] = subprocess.Popen(
                [self.caddy, "run", "--adapter", "caddyfile", "--config", str(config)], env=environment, stderr=log
            )
        poll(lambda: answers(self.port), f"Caddy listening; see {self.folder}/caddy.log")
        if self.tls:
            root = self.storage / "pki/authorities/local/root.crt"
            leaves = [self.storage / f"certificates/local/{name}/{name}.crt" for name in (HOST, IDE)]
            poll(lambda: root.exists() and all(leaf.exists() for leaf in leaves), "certificates of the own authority")

    def start_role(self, role: str) -> None:
        place = {"daemon": "web", "editor": "ide"}[role]
        path = self.settings.paths.socket(place)
        path.unlink(missing_ok=True)
        origins = self.settings.ui_origin, self.settings.ide_origin
        command = [sys.executable, str(HERE / "standin.py"), role, str(self.folder), *origins]
        self.processes[role] = subprocess.Popen(command)
        poll(path.exists, f"the {role}'s stand-in")

    def stop_role(self, role: str) -> None:
        process = self.processes.pop(role)
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for role in list(self.processes):
            self.stop_role(role)

    def connect(
        self, *, name: str = IDE, port: int = 0, tls: bool | None = None, alpn: tuple[str, ...] = ("http/1.1",)
    ) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", port or self.port), timeout=20)
        if not (self.tls if tls is None else tls):
            return sock
        context = ssl.create_default_context(cafile=str(self.storage / "pki/authorities/local/root.crt"))
        context.set_alpn_protocols(list(alpn))
        return context.wrap_socket(sock, server_hostname=name)

    def raw(self, request: bytes, *, name: str = IDE, seconds: float = 20, first: bool = False) -> Answer:
        """Send bytes, read until the other end closes, or until the ``first`` answer is whole."""
        with self.connect(name=name) as sock:
            sock.settimeout(seconds)
            sock.sendall(request)
            return Answer(_read_all(sock, _whole if first else lambda data: False))

    def ask(
        self,
        target: str = "/",
        *headers: str,
        method: str = "GET",
        host: str = IDE,
        cookie: str = "",
        body: bytes = b"",
    ) -> Answer:
        """One plain request on its own connection."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}:{self.port}", "Connection: close", *headers]
        if cookie:
            lines.append(f"Cookie: __Host-croft-ide={cookie}")
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return self.raw("\r\n".join([*lines, "", ""]).encode("latin-1") + body, name=host)

    def reached(self, role: str) -> list[dict[str, Any]]:
        """Requests that ``role`` has received so far."""
        path = self.folder / f"{role}.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def state(self, query: str = "") -> dict[str, int]:
        """The gate's counters; ``ready=0`` or ``ready=1`` sets whether the editor counts as up."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.settings.paths.socket("web")))
            sock.sendall(f"GET /test-state?{query} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode())
            return dict(Answer(_read_all(sock)).json())


def _whole(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(end and length) and len(body) >= int(length[0].partition(b":")[2])


def _read_all(sock: socket.socket, enough: Callable[[bytes], bool] = lambda data: False) -> bytes:
    data = b""
    while not enough(data):
        try:
            chunk = sock.recv(65536)
        except (TimeoutError, ConnectionResetError):
            return data
        if not chunk:
            return data
        data += chunk
    return data


def caddies() -> list[str]:
    return ["distribution", *(["newer"] if NEWER else [])]


def caddy_path(which: str) -> str:
    path = shutil.which("caddy") if which == "distribution" else NEWER
    assert path, "caddy is not installed"
    return path


@pytest.fixture(scope="session", params=caddies())
def caddy(request: pytest.FixtureRequest) -> str:
    return caddy_path(request.param)


def _running(folder: Path, caddy: str, tls: str) -> Iterator[Stack]:
    stack = Stack(folder, caddy, tls)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, caddy: str) -> Iterator[Stack]:
    yield from _running(tmp_path_factory.mktemp("p"), caddy, "off")


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory, caddy: str) -> Iterator[Stack]:
    yield from _running(tmp_path_factory.mktemp("s"), caddy, "internal")


@pytest.fixture
def own(tmp_path: Path, caddy: str) -> Iterator[Stack]:
    """A stack of the test's own, to stop and break."""
    yield from _running(tmp_path, caddy, "off")
