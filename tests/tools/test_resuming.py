"""A toolchain over a connection that is cut: it goes on where it ended, at once or at the next try, and is checked all the same."""

from __future__ import annotations

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

import pytest
from support.toolchains import certificates

from appliance.host.tools import FOLDER, PARTS

pytestmark = pytest.mark.timeout(60)
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
    """One package. Each of ``cuts`` ends an answer after so many bytes; ``asked`` are the ranges that were asked for."""

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
        self.port = 0

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


@pytest.fixture
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    made = Index(tmp_path_factory.mktemp("index"))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.endswith(WHEEL):
                self.answer(200, made.page(), "application/vnd.pypi.simple.v1+json")
                return
            asked = self.headers.get("Range", "")
            made.asked.append(asked)
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


def says(home: Path) -> str:
    return subprocess.run([home / FOLDER / "bin/deno"], check=True, capture_output=True, text=True).stdout


def test_a_cut_connection_goes_on_where_it_ended(tmp_path: Path, index: Index) -> None:
    index.cuts = [600_000, 700_000]
    assert index.add(tmp_path)["event"] == "done"
    assert index.asked == ["", "bytes=600000-", "bytes=1300000-"]
    assert says(tmp_path) == "deno 2.0.1\n"
    assert not (tmp_path / FOLDER / PARTS).exists()


def test_what_came_before_the_source_was_gone_counts_at_the_next_try(tmp_path: Path, index: Index) -> None:
    index.cuts = [900_000, 0, 0, 0, 0, 0]
    assert index.add(tmp_path)["code"] == "unreachable"
    assert not (tmp_path / FOLDER / "deno").exists()
    index.asked.clear()
    assert index.add(tmp_path)["event"] == "done"
    assert index.asked == ["bytes=900000-"]
    assert says(tmp_path) == "deno 2.0.1\n"


def test_a_source_that_knows_no_parts_gives_the_whole_again(tmp_path: Path, index: Index) -> None:
    index.ranges, index.cuts = False, [900_000]
    assert index.add(tmp_path)["event"] == "done"
    assert index.asked == ["", "bytes=900000-"]


def test_pieces_of_another_file_are_thrown_away(tmp_path: Path, index: Index) -> None:
    """SUP-1: what was pieced together is judged by the digest of the whole."""
    part = tmp_path / FOLDER / PARTS / WHEEL
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    assert index.add(tmp_path)["code"] == "altered"
    assert index.asked == ["bytes=1000-"]
    assert not part.exists()
    assert not (tmp_path / FOLDER / "deno").exists()
    assert index.add(tmp_path)["event"] == "done"
