"""An index of one package whose connections can be cut, and the helper of toolchains led to it."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.toolchains import certificates

WHEEL = "deno-2.0.1-py3-none-any.whl"
# The helper with another lock, and without waiting between tries.
HELPER = """
import sys, pathlib
from appliance.host import resuming, tools
tools.LOCKS = pathlib.Path(sys.argv.pop(1))
resuming.time.sleep = lambda seconds: None
sys.exit(tools.main(["add", "deno", "2"]))
"""


class Index:
    """One package. Each of ``cuts`` ends an answer after so many bytes.

    ``asked`` are the ranges that were asked for, ``leads`` is where it sends them instead.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.cuts, self.asked, self.ranges = folder, list[int](), list[str](), True
        certificates(folder)
        with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_STORED) as wheel:
            text = "#!/bin/sh\necho deno 2.0.1\n"
            wheel.writestr("deno-2.0.1.data/scripts/deno", text + "#" * 2_000_000)
            wheel.writestr("deno-2.0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: deno\nVersion: 2.0.1\n")
            wheel.writestr(
                "deno-2.0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr("deno-2.0.1.dist-info/RECORD", "")
        self.content = (folder / WHEEL).read_bytes()
        self.digest = hashlib.sha256(self.content).hexdigest()
        self.port, self.leads = 0, ""

    def page(self) -> bytes:
        row = {"filename": WHEEL, "url": f"https://localhost:{self.port}/{WHEEL}", "size": len(self.content)}
        row |= {"hashes": {"sha256": self.digest}}
        return json.dumps({"meta": {"api-version": "1.1"}, "name": "deno", "files": [row]}).encode()

    def add(self, home: Path) -> dict[str, Any]:
        """The helper's last word."""
        locks = self.folder / "locks"
        locks.mkdir(exist_ok=True)
        (locks / "deno-2.txt").write_text(f"deno==2.0.1 --hash=sha256:{self.digest}\n")
        env = {"HOME": str(home), "PATH": "/usr/bin:/bin", "SSL_CERT_FILE": str(self.folder / "ca.pem")}
        env |= {"UV_DEFAULT_INDEX": f"https://localhost:{self.port}/simple/", "UV_HTTP_RETRIES": "0"}
        words = [sys.executable, "-I", "-c", HELPER, str(locks)]
        done = subprocess.run(words, env=env, stdout=subprocess.PIPE, check=False, timeout=50)
        return dict(json.loads(done.stdout.splitlines()[-1]))


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Index]:
    """One, until the end of the block."""
    made = Index(folder)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.endswith(WHEEL):
                self.answer(200, made.page(), "application/vnd.pypi.simple.v1+json")
                return
            asked = self.headers.get("Range", "")
            made.asked.append(asked)
            if made.leads:
                self.send_response(302)
                self.send_header("Location", made.leads)
                self.end_headers()
                return
            start = int(asked.removeprefix("bytes=").rstrip("-") or 0) if made.ranges else 0
            rest = made.content[start:]
            span = f"bytes {start}-{len(made.content) - 1}/{len(made.content)}" if start else ""
            self.answer(
                206 if start else 200, rest, "application/zip", span, made.cuts.pop(0) if made.cuts else len(rest)
            )

        def answer(self, status: int, body: bytes, kind: str, span: str = "", most: int = 1 << 30) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if span:
                self.send_header("Content-Range", span)
            self.end_headers()
            self.wfile.write(body[:most])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.folder / "leaf.pem", made.folder / "leaf.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield made
        server.shutdown()
        thread.join()
