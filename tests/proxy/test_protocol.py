"""HTTP itself: methods, upgrades, smuggling, hosts, sizes; over HTTP/1.1 and raw HTTP/2 frames."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator

import pytest

UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def upgrade(
    stack, path: str, *headers: str, method: str = "GET", host: str = "ide.croft.localhost", body: bytes = b""
) -> bytes:
    lines = "".join(f"{line}\r\n" for line in headers)
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{UPGRADE}{lines}\r\n".encode() + body


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT", "DEBUG", "PROPFIND", "PURGE", "get", "FOO"])
@pytest.mark.parametrize("host", ["croft.localhost", "ide.croft.localhost"])
def test_unknown_methods_are_refused(plain, method: str, host: str) -> None:
    """FWD-11."""
    before = len(plain.reached("daemon")), len(plain.reached("editor"))
    target = f"{host}:443" if method == "CONNECT" else "/"
    answer = plain.raw(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.status in (400, 405)
    assert (len(plain.reached("daemon")), len(plain.reached("editor"))) == before


@pytest.mark.parametrize(
    "origin", ["Origin: https://ide.croft.localhost", "Origin: https://evil.example", "Origin: null", "X-No: origin"]
)
@pytest.mark.parametrize("path", ["/", "/stable-abc?reconnectionToken=1", "/?payload=1", "/%5f%5fcroft/"])
def test_upgrades_go_to_the_relay_with_what_it_checks(plain, path: str, origin: str) -> None:
    """FWD-6: an upgrade never goes to the editor; cookie and Origin arrive at the daemon as they were sent."""
    editor, since = len(plain.reached("editor")), len(plain.reached("daemon"))
    with plain.connect() as sock:
        sock.sendall(upgrade(plain, path, origin, f"Cookie: __Host-croft-ide={plain.OPERATOR}"))
        assert sock.recv(4096).startswith(b"HTTP/1.1 101")
    entry = plain.reached("daemon")[since]
    headers = {name.lower(): value for name, value in entry["headers"]}
    assert headers.get("origin") == (origin.partition(": ")[2] if origin.startswith("Origin") else None)
    assert headers["cookie"] == f"__Host-croft-ide={plain.OPERATOR}"
    assert len(plain.reached("editor")) == editor


@pytest.mark.parametrize(
    "spelled",
    ["Upgrade: WebSocket", "upgrade: websocket", "UPGRADE: h2c", "Upgrade:", "Upgrade: \t", "Upgrade: tls/1.0"],
)
def test_no_spelling_of_upgrade_reaches_the_editor(plain, spelled: str) -> None:
    """FWD-6: with or without the Connection header that belongs to it."""
    editor = len(plain.reached("editor"))
    for connection in ("Connection: Upgrade\r\n", "Connection: close\r\n", ""):
        plain.raw(
            f"GET / HTTP/1.1\r\nHost: ide.croft.localhost\r\n{spelled}\r\n{connection}"
            f"Sec-Fetch-Site: same-origin\r\nCookie: __Host-croft-ide={plain.OPERATOR}\r\n\r\n".encode(),
            seconds=0.5,
        )
    assert len(plain.reached("editor")) == editor


def test_unlisted_methods_of_the_editor_go_to_the_daemon(plain) -> None:
    """DECIDED 11."""
    editor = len(plain.reached("editor"))
    for method in ("PUT", "PATCH", "DELETE"):
        assert (
            plain.ask("/", "Sec-Fetch-Site: same-origin", method=method, cookie=plain.OPERATOR).json()["role"]
            == "daemon"
        )
    assert len(plain.reached("editor")) == editor


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: ide.croft.localhost\r\nConnection: close\r\n\r\n"
HEAD = (
    b"POST /mint-key HTTP/1.1\r\nHost: ide.croft.localhost\r\nSec-Fetch-Site: same-origin\r\n"
    b"Cookie: __Host-croft-ide=%s\r\n"
)


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 200\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello",
        b"Content-Length: +5\r\n\r\nhello",
        b"Content-Length: 5, 5\r\n\r\nhello",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 0x5\r\n\r\nhello",
        b"X: a\r\n Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5;a=\rb\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"Host: evil.example\r\nContent-Length: 0\r\n\r\n",
        b"Content-Length: 0\nX: y\r\n\r\n",
    ],
    ids=range(18),
)
def test_request_boundaries_are_the_same_for_all(plain, framing: bytes) -> None:
    """FWD-11: however a body is framed, what follows it is never part of it, nor is it a request of its own."""
    since, daemon = len(plain.reached("editor")), len(plain.reached("daemon"))
    plain.raw(HEAD % plain.OPERATOR.encode() + framing + SMUGGLED, seconds=1)
    arrived = plain.reached("editor")[since:]
    assert len(arrived) <= 1
    assert all(entry["path"] == "/mint-key" and "smuggled" not in entry["body"] for entry in arrived)
    assert len(plain.reached("daemon")) == daemon


def test_bodies_hidden_in_a_body_stay_there(plain) -> None:
    """FWD-11: CL.TE and TE.CL in a body that another reader would split."""
    inner = b"0\r\n\r\n" + SMUGGLED
    since = len(plain.reached("editor"))
    request = HEAD % plain.OPERATOR.encode() + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner
    assert plain.raw(request).json()["body"].encode() == inner
    assert len(plain.reached("editor")) == since + 1


def test_upgrade_with_a_body_is_refused(plain) -> None:
    """FWD-11: bytes after an upgrade's head belong to the socket, not to a body."""
    for path in ("/", "/__croft/x"):
        answer = plain.raw(upgrade(plain, path, f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED), first=True)
        assert answer.status == 400


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1",
        "[::1]",
        "localhost",
        "croft.localhost.evil.example",
        "x.croft.localhost",
        "croft.localhost@evil.example",
        "ide.croft.localhost.",
        "",
        "croft.localhost,evil.example",
    ],
)
def test_unknown_hosts_are_misdirected(plain, secure, host: str) -> None:
    """WEB-9: rebinding and address literals end before any route."""
    for stack in (plain, secure):
        before = len(stack.reached("daemon")), len(stack.reached("editor"))
        answer = stack.raw(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert answer.status in (400, 421), answer.raw
        assert (len(stack.reached("daemon")), len(stack.reached("editor"))) == before


def test_name_in_the_handshake_must_be_the_host(secure) -> None:
    """WEB-9: a connection made for one host cannot be used for the other."""
    raw = b"GET / HTTP/1.1\r\nHost: croft.localhost:%d\r\nConnection: close\r\n\r\n" % secure.port
    assert secure.raw(raw, name=secure.HOST).status == 200
    assert secure.raw(raw, name=secure.IDE).status == 421


def test_name_without_a_certificate_gets_no_handshake(secure) -> None:
    """WEB-9."""
    with pytest.raises(ssl.SSLError), secure.connect(name="evil.example"):
        pass


def test_plain_http_only_points_to_https(secure) -> None:
    for host in (secure.HOST, secure.IDE):
        with secure.connect(port=secure.http_port, tls=False) as sock:
            sock.sendall(f"GET /a?b=1 HTTP/1.1\r\nHost: {host}\r\nCookie: a=b\r\nConnection: close\r\n\r\n".encode())
            head = sock.recv(4096).decode()
        assert head.startswith("HTTP/1.1 308")
        assert f"Location: https://{host}:{secure.https_port}/a?b=1\r\n" in head


def test_admin_interface_is_unreachable(plain) -> None:
    """FWD-10: off, not hidden: nothing listens on its port that is this Caddy's."""
    pid = plain.processes["caddy"].pid
    listening = {line.split()[3].rpartition(":")[2] for line in _sockets(pid)}
    assert listening == {str(plain.http_port)}


def _sockets(pid: int) -> list[str]:
    out = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    return [line for line in out.splitlines() if f"pid={pid}," in line]


def test_oversized_headers_and_bodies(plain) -> None:
    """WEB-16."""
    assert plain.ask("/", "X: " + "a" * 40_000, host=plain.HOST).status == 431
    assert plain.ask("/" + "a" * 40_000, host=plain.HOST).status in (414, 431)
    since = len(plain.reached("editor"))
    answer = plain.ask(
        "/mint-key", "Sec-Fetch-Site: same-origin", method="POST", body=b"a" * 1_100_000, cookie=plain.OPERATOR
    )
    assert answer.status in (0, 400, 413, 502)
    assert len(plain.reached("editor")) == since


# HTTP/2 frames by hand: clients refuse to send what is tested here (RFC 9113, RFC 8441).

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def hpack(headers: list[tuple[str, str]]) -> bytes:
    """Literals without indexing and without Huffman (RFC 7541 6.2.2)."""
    block = b""
    for name, value in headers:
        assert max(len(name), len(value)) < 127
        block += b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return block


def frames(sock: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    buffer = b""
    while True:
        while len(buffer) >= 9 and len(buffer) >= 9 + int.from_bytes(buffer[:3], "big"):
            size = int.from_bytes(buffer[:3], "big")
            yield buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big"), buffer[9 : 9 + size]
            buffer = buffer[9 + size :]
        chunk = sock.recv(65536)
        if not chunk:
            return
        buffer += chunk


def h2(stack, headers: list[tuple[str, str]], data: bytes = b"") -> str:
    """One request on stream 1: ``headers``, ``reset``, ``goaway`` or ``closed``, whichever comes first for it."""
    with stack.connect(alpn=("h2",)) as sock:
        assert sock.selected_alpn_protocol() == "h2"
        sock.settimeout(5)
        sock.sendall(
            PREFACE
            + frame(4, 0, 0)
            + frame(1, 4 if data else 5, 1, hpack(headers))
            + (frame(0, 1, 1, data) if data else b"")
        )
        try:
            for kind, flags, stream, _ in frames(sock):
                if kind == 4 and not flags & 1:
                    sock.sendall(frame(4, 1, 0))
                if kind == 7:
                    return "goaway"
                if stream == 1 and kind in (1, 3):
                    return {1: "headers", 3: "reset"}[kind]
        except (TimeoutError, ConnectionResetError):
            return "closed"
        return "closed"


def pseudo(stack, method: str = "GET", path: str = "/") -> list[tuple[str, str]]:
    return [(":method", method), (":scheme", "https"), (":authority", f"{stack.IDE}:{stack.port}"), (":path", path)]


def test_h2_works_and_is_checked(secure) -> None:
    before = len(secure.reached("editor"))
    assert h2(secure, pseudo(secure)) == "headers"
    assert len(secure.reached("editor")) == before
    cookie = ("cookie", f"__Host-croft-ide={secure.OPERATOR}")
    assert h2(secure, [*pseudo(secure), ("sec-fetch-site", "same-origin"), ("cookie", "a=b"), cookie]) == "headers"
    assert len(secure.reached("editor")) == before + 1


@pytest.mark.parametrize("origin", ["https://evil.example", "null", ""])
def test_h2_websocket_never_reaches_the_editor(secure, origin: str) -> None:
    """FWD-6: extended CONNECT (RFC 8441) is either unknown or goes to the relay."""
    before = len(secure.reached("editor"))
    extra = [("origin", origin)] if origin else []
    cookie = ("cookie", f"__Host-croft-ide={secure.OPERATOR}")
    h2(
        secure,
        [*pseudo(secure, "CONNECT"), (":protocol", "websocket"), ("sec-websocket-version", "13"), cookie, *extra],
    )
    h2(secure, [(":method", "CONNECT"), (":authority", "ide.croft.localhost:443"), cookie])
    assert len(secure.reached("editor")) == before


@pytest.mark.parametrize(
    "extra",
    [
        [("transfer-encoding", "chunked")],
        [("connection", "upgrade"), ("upgrade", "websocket")],
        [("content-length", "3")],
        [("x", "a\r\nsmuggled: 1")],
        [("x\r\nsmuggled", "1")],
        [("Cookie", "upper=1")],
        [("host", "evil.example")],
        [(":path", "/second")],
    ],
    ids=["te", "upgrade", "length", "value", "name", "upper", "host", "path"],
)
def test_h2_downgrade_smuggles_nothing(secure, extra: list[tuple[str, str]]) -> None:
    """FWD-11: what HTTP/1.1 would read as framing or as another header does not come through."""
    since = len(secure.reached("editor"))
    cookie = ("cookie", f"__Host-croft-ide={secure.OPERATOR}")
    h2(
        secure,
        [*pseudo(secure, "POST", "/mint-key"), ("sec-fetch-site", "same-origin"), cookie, *extra],
        data=b"hello" + SMUGGLED,
    )
    arrived = secure.reached("editor")[since:]
    assert len(arrived) <= 1
    for entry in arrived:
        names = {name.lower() for name, _ in entry["headers"]}
        assert entry["path"] == "/mint-key"
        assert not names & {"smuggled", "upgrade"}
        assert ["Host", f"{secure.IDE}:{secure.port}"] in entry["headers"]
