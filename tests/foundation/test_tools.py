"""The small tools behind `make audit` and `make pins`."""

from __future__ import annotations

import datetime
import importlib.util
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
DIGEST = "sha256:" + "ab" * 32


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"croft_tool_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("dependencies", "code"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0),
        ([{"name": "a", "version": "1", "vulns": [{"id": "X-1", "aliases": []}]}], 1),
        ([{"name": "a", "version": "1", "vulns": [{"id": "X-2", "aliases": ["CVE-1"]}]}], 0),
        ([{"name": "a", "skip_reason": "unknown there"}], 2),
    ],
)
def test_the_audit_tells_found_from_excepted_from_not_looked(dependencies: list[dict[str, object]], code: int) -> None:
    """SUP-3: what was not audited is never read as a pass."""
    assert tool("audit").judge({"dependencies": dependencies}, {"CVE-1": "cannot be reached"})[0] == code


def test_every_exception_has_a_reason_and_an_end() -> None:
    tool("audit").exceptions(datetime.date(2026, 11, 22))


class Registry(BaseHTTPRequestHandler):
    """Answers a manifest's HEAD as a registry does."""

    def do_HEAD(self) -> None:
        known = self.path == "/v2/coder/ide/manifests/1.2"
        self.send_response(200 if known else 404)
        if known:
            self.send_header("Docker-Content-Digest", DIGEST)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_digest_is_looked_up_and_written_beside_its_version(registry: str) -> None:
    """SUP-2: only what the registry says is written, and only into the image's own row."""
    pins = tool("pins")
    found = pins.digest(f"{registry}/coder/ide", "1.2", scheme="http")
    text = (TOOLS.parent / "compose/pins.toml").read_text()
    after = tomllib.loads(pins.pinned(text, "proxy", found))
    before = tomllib.loads(text)
    assert after["proxy"]["digest"] == DIGEST
    assert {name: row for name, row in after.items() if name != "proxy"} == {
        name: row for name, row in before.items() if name != "proxy"
    }


def test_an_unknown_version_changes_nothing(registry: str) -> None:
    with pytest.raises(OSError, match="404"):
        tool("pins").digest(f"{registry}/coder/ide", "9.9", scheme="http")


def test_names_without_a_host_are_docker_hubs() -> None:
    split = tool("pins").split
    assert split("caddy") == ("registry-1.docker.io", "library/caddy")
    assert split("codercom/code-server") == ("registry-1.docker.io", "codercom/code-server")
    assert split("quay.io/go-skynet/local-ai") == ("quay.io", "go-skynet/local-ai")
