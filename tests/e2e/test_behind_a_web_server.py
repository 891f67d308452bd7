"""`--behind-proxy`: the snippets as they are printed, in a real nginx, Apache and Caddy in front of a whole appliance."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from support.appliance import Appliance, free_port
from support.waiting import poll

from appliance.host.install import behind

HOST, IDE = "croft.localhost", "ide.croft.localhost"


@pytest.fixture(scope="module")
def appliance_settings() -> str:
    return 'tls = "off"\n'


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for both names: cert.pem and key.pem in one folder."""
    folder = tmp_path_factory.mktemp("front")
    names = f"subjectAltName=DNS:{HOST},DNS:{IDE}"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={HOST}", "-addext", names,
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")], check=True, capture_output=True,
    )  # fmt: skip
    return folder


def nginx(folder: Path, text: str, port: int, certificate: Path) -> list[str]:
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;").replace(
        f"# ssl_certificate and ssl_certificate_key for {HOST} and *.{HOST}",
        f"ssl_certificate {certificate}/cert.pem; ssl_certificate_key {certificate}/key.pem;",
    )
    (folder / "nginx.conf").write_text(
        f"pid {folder}/pid; error_log stderr; user root; events {{}}\nhttp {{ access_log off;\n{text}\n}}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]


def apache(folder: Path, text: str, port: int, certificate: Path) -> list[str]:
    text = text.replace("<VirtualHost *:443>", f"<VirtualHost 127.0.0.1:{port}>").replace(
        f"# SSLCertificateFile and SSLCertificateKeyFile for {HOST} and *.{HOST}",
        f"SSLCertificateFile {certificate}/cert.pem\n    SSLCertificateKeyFile {certificate}/key.pem",
    )
    modules = ("mpm_event", "authz_core", "ssl", "proxy", "proxy_http", "proxy_wstunnel", "headers", "socache_shmcb")
    load = "\n".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in modules)
    (folder / "httpd.conf").write_text(
        f"ServerRoot {folder}\nPidFile {folder}/pid\nErrorLog {folder}/error.log\nListen 127.0.0.1:{port}\n"
        f"DefaultRuntimeDir {folder}\nMutex file:{folder}\nUser www-data\nGroup www-data\n{load}\n{text}\n"
    )
    return ["apache2", "-f", str(folder / "httpd.conf"), "-D", "FOREGROUND"]


def caddy(folder: Path, text: str, port: int, certificate: Path) -> list[str]:
    tls = f"tls {certificate}/cert.pem {certificate}/key.pem\n    reverse_proxy"
    options = f"{{\n  admin off\n  https_port {port}\n  http_port {free_port()}\n  auto_https disable_redirects\n}}\n"
    (folder / "Caddyfile").write_text(options + text.replace("reverse_proxy", tls, 1))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


Front = Callable[[Path, str, int, Path], list[str]]


@contextmanager
def running(kind: str, make: Front, appliance: Appliance, certificate: Path, folder: Path) -> Iterator[int]:
    """The web server with the printed snippet. Yields its HTTPS port."""
    port = free_port()
    command = make(folder, behind.snippet(kind, HOST, appliance.http_port), port, certificate)
    with (folder / "front.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        poll(lambda: answering(port), f"{kind} listens: {(folder / 'front.log').read_text()}", 20)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def answering(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, host: str, head: str, body: str = "") -> str:
    """One raw request over TLS; the head of the answer, and what comes with it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), 10) as raw,
        context.wrap_socket(raw, server_hostname=host) as link,
    ):
        link.sendall(f"{head}\r\n\r\n{body}".encode())
        link.settimeout(10)
        got = b""
        while b"\r\n\r\n" not in got or (b"101 " not in got[:20] and len(got) < 200_000):
            try:
                more = link.recv(65536)
            except TimeoutError:
                break
            if not more:
                break
            got += more
    return got.decode("utf-8", "replace")


def cookie_of(answer: str, name: str) -> str:
    found = re.search(rf"(?im)^set-cookie: {name}=([^;]+)", answer)
    assert found is not None, answer[:600]
    return f"{name}={found[1]}"


def post(path: str, host: str, fields: dict[str, str], *lines: str) -> tuple[str, str]:
    body = urlencode(fields)
    head = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", *lines,
            "Content-Type: application/x-www-form-urlencoded", "Connection: close", "Accept: text/html"]  # fmt: skip
    return "\r\n".join(head), body


@pytest.mark.parametrize(("kind", "make"), [("nginx", nginx), ("apache", apache), ("caddy", caddy)])
def test_people_sign_in_and_the_editor_connects(
    kind: str, make: Front, appliance: Appliance, certificate: Path, tmp_path: Path
) -> None:
    """Health, sign-in, the hand-over to the IDE host and its WebSocket, with the caller's real address recorded."""
    appliance.croft("services", "start", "ide")
    poll(lambda: appliance.service("ide")["health"] == "healthy", "the IDE is ready", 60)
    with running(kind, make, appliance, certificate, tmp_path) as port:
        # The names are this appliance's own, so the installer's test must find Croft behind them.
        assert " 200 " in ask(port, HOST, f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close").splitlines()[0]
        secret = dict([urlsplit(appliance.croft("login-link")["url"]).query.split("=", 1)])["t"]
        own = "Sec-Fetch-Site: same-origin"
        signed_in = ask(port, HOST, *post("/sign-in/link", HOST, {"t": secret, "email": "a@example.org"}, own))
        cookie = cookie_of(signed_in, "__Host-croft")
        page = ask(port, HOST, f"GET /workspace HTTP/1.1\r\nHost: {HOST}\r\nCookie: {cookie}\r\nConnection: close")
        code = re.search(r"croft_hnd_[A-Za-z0-9_-]+", page)
        assert code is not None, page[:600]
        entered = ask(port, IDE, *post("/__croft/enter", IDE, {"code": code[0]}, f"Origin: https://{HOST}"))
        ide_cookie = cookie_of(entered, "__Host-croft-ide")
        key = base64.b64encode(b"0123456789abcdef").decode()
        upgrade = (
            f"GET /stable-x?reconnectionToken=t&reconnection=false HTTP/1.1\r\nHost: {IDE}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nCookie: {ide_cookie}\r\n"
        )
        assert " 101 " in ask(port, IDE, f"{upgrade}Origin: https://{IDE}").splitlines()[0]
        assert " 403 " in ask(port, IDE, f"{upgrade}Origin: https://evil.example").splitlines()[0]
    rows = appliance.control.call("GET", "/api/sessions")["sessions"]
    assert {row["address"] for row in rows} == {"127.0.0.1"}
