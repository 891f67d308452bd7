"""What the items are measured on: a whole appliance in a folder, Caddies with our Caddyfile, and the peers."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from measure import NotRun, free_port, wait_for

from appliance.broker.caddyfile import render
from appliance.settings import Paths, parse

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT / "tests"))

from support.accounts import throwaway_accounts  # noqa: E402, F401 - items take it from here
from support.appliance import Appliance, whole_appliance  # noqa: E402

HOST = "croft.localhost"
IDE = f"ide.{HOST}"
BARE_HOST = "bare.localhost"


class Visitor:
    """A browser without the browser: keeps cookies per host and follows nothing by itself."""

    def __init__(self, appliance: Appliance) -> None:
        self._port = appliance.https_port
        self._context = ssl.create_default_context(
            cafile=str(appliance.paths.caddy_data / "caddy/pki/authorities/local/root.crt")
        )
        self.cookies: dict[str, dict[str, str]] = {HOST: {}, IDE: {}}

    def ask(self, host: str, target: str, form: dict[str, str] | None = None, **headers: str) -> tuple[int, str, str]:
        """Status, Location and body."""
        connection = _TlsTo(host, self._port, self._context)
        jar = "; ".join(f"{name}={value}" for name, value in self.cookies[host].items())
        origin = f"https://{HOST}:{self._port}"
        sent = {"Host": f"{host}:{self._port}", "Cookie": jar, "Accept": "text/html", "Origin": origin}
        if form is not None:
            sent |= {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
        connection.request(
            "POST" if form is not None else "GET",
            target,
            urlencode(form) if form is not None else None,
            sent | {name.replace("_", "-"): value for name, value in headers.items()},
        )
        answer = connection.getresponse()
        body = answer.read().decode("utf-8", "replace")
        for line in answer.headers.get_all("Set-Cookie", []):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[host][name] = value
        connection.close()
        return answer.status, answer.headers.get("Location", ""), body

    def sign_in(self, link: str) -> None:
        """Follow a set-up or login link to the end."""
        secret = _field(self.ask(HOST, _target(link))[2], "t")
        status, _, body = self.ask(HOST, "/sign-in/link", {"t": secret, "email": "owner@example.org", "name": "Owner"})
        if status != 303:
            raise RuntimeError(f"cannot sign in: {status} {body[:300]}")

    def sign_out(self) -> int:
        """Status of the sign-out; the cookies are kept, as a thief would."""
        kept = {host: dict(jar) for host, jar in self.cookies.items()}
        status = self.ask(HOST, "/sign-out", {})[0]
        self.cookies = kept
        return status

    def enter(self) -> str:
        """Go from the workspace page to the IDE host. Returns the IDE host's cookie line."""
        page = self.ask(HOST, "/workspace")[2]
        status, _, body = self.ask(
            IDE, "/__croft/enter", {"code": _field(page, "code"), "next": "/"}, Sec_Fetch_Site="same-site"
        )
        if status != 303:
            raise RuntimeError(f"cannot enter the IDE: {status} {body[:300]}")
        return "; ".join(f"{name}={value}" for name, value in self.cookies[IDE].items())


class _TlsTo(http.client.HTTPSConnection):
    """HTTPS to 127.0.0.1 with the host's name in the handshake: the C library does not resolve it."""

    def __init__(self, name: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__("127.0.0.1", port, timeout=30, context=context)
        self._name, self._tls = name, context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


def _field(page: str, name: str) -> str:
    tag = next((tag for tag in re.findall(r"<input[^>]*>", page) if f'name="{name}"' in tag), "")
    value = re.search(r'value="([^"]*)"', tag)
    if not value:
        raise RuntimeError(f"the page has no field {name!r}")
    return value[1]


def _target(url: str) -> str:
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


@dataclass
class Ready:
    """A running appliance with somebody signed in and the IDE awake."""

    appliance: Appliance
    visitor: Visitor
    cookie: str


@contextmanager
def running_appliance(*, ide: bool) -> Iterator[Appliance]:
    """`croft serve --home DIR` with the real broker and Caddy; ``ide`` says whether the item needs code-server."""
    if ide and not os.environ.get("CROFT_TEST_IDE"):
        raise NotRun("CROFT_TEST_IDE names no folder with code-server")
    try:
        with whole_appliance() as appliance:
            yield appliance
    except AssertionError as error:
        raise NotRun(f"the appliance did not start: {str(error).splitlines()[0]}") from error


@contextmanager
def signed_in() -> Iterator[Ready]:
    """An appliance, an owner, and code-server answering."""
    with running_appliance(ide=True) as appliance:
        visitor = Visitor(appliance)
        visitor.sign_in(appliance.croft("login-link")["url"])
        cookie = visitor.enter()
        wait_for(
            lambda: visitor.ask(IDE, "/", Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate")[0] in (200, 302),
            "the IDE",
            60,
        )
        yield Ready(appliance, visitor, cookie)


class Caddy:
    """One Caddy process with our plain Caddyfile in a folder of its own, plus ``extra`` sites.

    ``check`` off leaves out the forward_auth block and nothing else.
    """

    def __init__(self, folder: Path, extra: str = "", *, check: bool = True) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.port = folder, free_port()
        document = {"host": HOST, "proxy": {"tls": "off", "bind": "127.0.0.1", "http_port": self.port}}
        self.settings = parse(document, Paths.under(folder))
        for name in ("web", "ide"):
            self.settings.paths.socket(name).parent.mkdir(parents=True, exist_ok=True)
        text = render(self.settings, "process")
        self._running = caddy(folder, (text if check else _unchecked(text)) + extra)
        self.process = self._running.__enter__()

    @property
    def ide_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._running.__exit__(None, None, None)


@contextmanager
def caddy(folder: Path, text: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Caddy that serves the Caddyfile ``text``, with all it keeps in ``folder``."""
    program = shutil.which("caddy")
    if not program:
        raise NotRun("caddy is not installed")
    (folder / "Caddyfile").write_text(text)
    with (folder / "caddy.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")],
            stderr=log,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
        )
    try:
        wait_for(
            lambda: b"serving initial configuration" in (folder / "caddy.log").read_bytes(), f"Caddy in {folder}", 20
        )
        yield process
    finally:
        process.terminate()
        process.wait(10)


def _unchecked(text: str) -> str:
    """``text`` without its forward_auth block."""
    before, _, rest = text.partition("forward_auth ")
    depth = 0
    for index, char in enumerate(rest):
        depth += (char == "{") - (char == "}")
        if char == "}" and not depth:
            return before + rest[index + 1 :]
    raise RuntimeError("the Caddyfile has no forward_auth block")


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="croft-bench-") as folder:
        yield Path(folder)


def peers() -> Path:
    """Where the programs we are compared with are installed once and kept."""
    folder = Path(os.environ.get("CROFT_BENCH_PEERS") or Path.home() / ".cache/croft-bench")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
