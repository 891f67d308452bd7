"""A source of large files over real HTTPS that behaves as badly as a test asks: slow, cut, forgetful, changed, lying."""

from __future__ import annotations

import hashlib
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from support.toolchains import certificates

PIECE = 1 << 14


@dataclass
class Source:
    """``content`` is what every path gives. ``ways`` are used up one a request, then ``usual``; see :class:`Way`."""

    folder: Path
    content: bytes
    port: int = 0
    ways: list[Way] = field(default_factory=list)
    usual: Way = field(default_factory=lambda: Way())
    asked: list[tuple[str, str]] = field(default_factory=list)  # (path, Range header)
    sent: int = 0

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/some/model.gguf"

    @property
    def base(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def authority(self) -> str:
        return str(self.folder / "ca.pem")


@dataclass
class Way:
    """How one request is answered."""

    cut: int = 0  # bytes after which the connection ends
    rate: int = 0  # bytes a second
    ranges: bool = True
    tag: str = '"one"'
    status: int = 0
    location: str = ""
    length: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None  # waits for it before the first byte of the body
    careless: bool = False  # gives the part that was asked for, whatever it is a part of


def file_of(size: int) -> bytes:
    """Content that begins as a model does and repeats nowhere."""
    return b"GGUF" + b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(size // 32))


@contextmanager
def source(folder: Path, content: bytes) -> Iterator[Source]:
    """Serve on a free port of this machine, with a certificate of an authority of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    certificates(folder)
    made = Source(folder, content)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            made.asked.append((self.path, self.headers.get("Range", "")))
            _answer(self, made, made.ways.pop(0) if made.ways else made.usual)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "leaf.pem", folder / "leaf.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign] - clients leave when they like
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        if made.usual.hold:
            made.usual.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(handler: BaseHTTPRequestHandler, made: Source, way: Way) -> None:
    if way.status:
        handler.send_response(way.status)
        handler.send_header("Content-Length", "0")
        for name, value in ({"Location": way.location} if way.location else {}).items() | way.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        return
    begin = _begin(handler, made, way)
    body = made.content[begin:]
    handler.send_response(206 if begin else 200)
    if begin:
        handler.send_header("Content-Range", f"bytes {begin}-{len(made.content) - 1}/{len(made.content)}")
    if way.tag:
        handler.send_header("ETag", way.tag)
    if way.length:
        handler.send_header("Content-Length", str(len(body)))
    else:
        handler.send_header("Connection", "close")
        handler.close_connection = True
    for name, value in way.headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    _send(handler, made, way, body)


def _begin(handler: BaseHTTPRequestHandler, made: Source, way: Way) -> int:
    asked = handler.headers.get("Range", "")
    same = way.careless or handler.headers.get("If-Range", way.tag) == way.tag
    return int(asked.removeprefix("bytes=").rstrip("-")) if asked and way.ranges and same else 0


def _send(handler: BaseHTTPRequestHandler, made: Source, way: Way, body: bytes) -> None:
    end = way.cut or len(body)
    if way.hold and not way.hold.wait(60):
        return
    for at in range(0, end, PIECE):
        piece = body[at : min(at + PIECE, end)]
        handler.wfile.write(piece)
        made.sent += len(piece)
        if way.rate:
            time.sleep(len(piece) / way.rate)  # how slow the source is, not how long the test waits
    if end < len(body):
        handler.close_connection = True
