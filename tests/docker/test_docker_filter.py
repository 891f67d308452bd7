"""docker.sock through the real SDK, and everything that must not pass it (SYS-2)."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors
import pytest
from docker.models.containers import Container

ORIGIN = "com.docker.compose.project"


@pytest.fixture(scope="module")
def running(module_broker) -> Iterator[object]:
    """A broker whose ide and proxy run."""
    for service in ("ide", "proxy"):
        module_broker.up(service)
    return module_broker


@pytest.fixture(scope="module")
def sdk(running) -> docker.DockerClient:
    return running.client()


def ask(path: Path, request: bytes, *, then: bytes = b"", half: bool = False) -> bytes:
    """Send raw bytes and read until the other side closes."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(20)
        link.connect(str(path))
        try:
            link.sendall(request)
            if then:
                time.sleep(0.05)
                link.sendall(then)
            if half:
                link.shutdown(socket.SHUT_WR)
        except BrokenPipeError:
            pass
        answer = b""
        try:
            while chunk := link.recv(65536):
                answer += chunk
        except ConnectionResetError:
            pass
        return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def request(method: str, path: str, body: object = None, headers: str = "") -> bytes:
    payload = b"" if body is None else json.dumps(body).encode()
    length = f"Content-Length: {len(payload)}\r\n" if payload else ""
    return f"{method} {path} HTTP/1.1\r\nHost: docker\r\n{length}{headers}\r\n".encode() + payload


def test_the_sdk_reads_and_drives_our_containers_unchanged(running, sdk: docker.DockerClient, stranger) -> None:
    """DESIGN 5: the Docker SDK works over the filter unchanged."""
    assert sdk.ping()
    assert sdk.version()["ApiVersion"]
    assert {"ServerVersion", "NCPU"} <= set(sdk.info())
    assert {one.name for one in sdk.containers.list(all=True)} == {"croft-ide", "croft-proxy"}
    assert [one.name for one in sdk.containers.list(filters={"name": "croft-ide"})] == ["croft-ide"]
    ide = sdk.containers.get("croft-ide")
    assert sdk.containers.get(ide.short_id).id == ide.id
    assert ide.stats(stream=False)["memory_stats"]["usage"] > 0
    assert ide.top()["Processes"]
    assert b"HTTP server listening" in ide.logs(tail=50)
    ide.pause()
    ide.reload()
    assert ide.status == "paused"
    ide.unpause()
    ide.restart(timeout=5)
    ide.reload()
    assert ide.status == "running"


def test_the_ide_can_be_stopped_and_started_again(running, sdk: docker.DockerClient) -> None:
    ide = sdk.containers.get("croft-ide")
    ide.stop(timeout=5)
    ide.reload()
    assert ide.status == "exited"
    ide.start()
    ide.reload()
    assert ide.status == "running"


def test_logs_and_events_stream(running, sdk: docker.DockerClient) -> None:
    ide = sdk.containers.get("croft-ide")
    lines = ide.logs(stream=True, follow=True, tail=5, timestamps=True)
    assert next(lines)
    lines.close()
    seen: list[str] = []
    events = sdk.events(decode=True, filters={"event": ["pause", "unpause"]})

    def listen() -> None:
        for event in events:
            seen.append(event["Action"])
            if event["Action"] == "unpause":
                return

    listener = threading.Thread(target=listen)
    listener.start()
    deadline = time.monotonic() + 20
    while "unpause" not in seen and time.monotonic() < deadline:
        ide.pause()
        ide.unpause()
        listener.join(0.2)
    events.close()
    listener.join(10)
    assert seen[-1] == "unpause"


def test_events_of_other_containers_stay_unseen(running, sdk: docker.DockerClient, stranger: Container) -> None:
    since = int(time.time())
    stranger.pause()
    stranger.unpause()
    sdk.containers.get("croft-ide").pause()
    sdk.containers.get("croft-ide").unpause()
    seen = list(sdk.events(since=since, until=int(time.time()) + 1, decode=True))
    assert seen
    assert {event["Actor"]["Attributes"].get(ORIGIN) for event in seen} == {"croft"}


def test_exec_runs_in_the_ide_as_the_workspaces_user(running, sdk: docker.DockerClient) -> None:
    ide = sdk.containers.get("croft-ide")
    done = ide.exec_run(["id", "-u"])
    assert (done.exit_code, done.output.strip()) == (0, str(running.uid("workspace")).encode())
    assert ide.exec_run(["sh", "-c", "exit 3"]).exit_code == 3
    for powers in (
        {"privileged": True},
        {"user": "root"},
        {"user": "0"},
        {"environment": {"LD_PRELOAD": "/tmp/x"}},
        {"stdin": True},
    ):
        with pytest.raises(docker.errors.APIError) as refused:
            ide.exec_run(["id"], **powers)
        assert refused.value.status_code == 403
    with pytest.raises(docker.errors.NotFound):
        sdk.containers.get("croft-proxy").exec_run(["id"])


def test_an_exec_made_by_somebody_else_cannot_be_used(running, sdk: docker.DockerClient, engine) -> None:
    """Whoever holds the real socket may have made an exec as root in our container: it is not ours to start."""
    made = engine.api.exec_create("croft-ide", ["id"], user="0", privileged=True)["Id"]
    for use in (sdk.api.exec_start, sdk.api.exec_inspect):
        with pytest.raises(docker.errors.NotFound):
            use(made)


def test_other_containers_do_not_exist_here(running, sdk: docker.DockerClient, stranger: Container) -> None:
    for name in (stranger.id, stranger.short_id, stranger.name, stranger.id[:4]):
        for act in (
            sdk.api.inspect_container,
            sdk.api.start,
            sdk.api.stop,
            sdk.api.restart,
            sdk.api.pause,
            sdk.api.logs,
            sdk.api.top,
            lambda one: sdk.api.stats(one, stream=False),
            lambda one: sdk.api.exec_create(one, "id"),
        ):
            with pytest.raises(docker.errors.NotFound):
                act(name)
    stranger.reload()
    assert stranger.status == "running"
    for filters in ({"label": "x=y"}, {"label": [f"{ORIGIN}=other"]}, {"name": stranger.name}, {"id": stranger.id}):
        assert stranger.id not in {one.id for one in sdk.containers.list(all=True, filters=filters)}


FORBIDDEN = [
    ("POST", "/containers/create", {"Image": "croft/ide:pin", "HostConfig": {"Privileged": True}}),
    ("POST", "/containers/create", {"Image": "croft/ide:pin", "HostConfig": {"Binds": ["/:/host"]}}),
    ("POST", "/containers/create?name=x", {"Image": "croft/ide:pin"}),
    ("POST", "/containers/croft-ide/update", {"Memory": 0}),
    ("POST", "/containers/croft-ide/rename?name=x", None),
    ("POST", "/containers/croft-ide/kill", None),
    ("POST", "/containers/croft-ide/attach?stream=1&stdin=1", None),
    ("GET", "/containers/croft-ide/attach/ws", None),
    ("GET", "/containers/croft-ide/archive?path=/etc", None),
    ("GET", "/containers/croft-ide/export", None),
    ("POST", "/containers/croft-ide/start", {"HostConfig": {"Privileged": True}}),
    ("POST", "/containers/croft-ide/start?detachKeys=a", None),
    ("POST", "/containers/croft-ide/stop?t=99999", None),
    ("POST", "/containers/croft-ide/stop?t=1&t=2", None),
    ("GET", "/containers/croft-ide/top?ps_args=-o%20pid,cmd%20--sort%20x", None),
    ("POST", "/containers/prune", None),
    ("GET", "/images/json", None),
    ("POST", "/images/create?fromImage=x", None),
    ("POST", "/build", None),
    ("GET", "/networks", None),
    ("GET", "/volumes", None),
    ("GET", "/secrets", None),
    ("POST", "/swarm/init", {}),
    ("GET", "/plugins", None),
    ("POST", "/session", None),
    ("POST", "/grpc", None),
    ("GET", "/distribution/x/json", None),
    ("GET", "/system/df", None),
    ("POST", "/auth", {}),
    ("DELETE", "/containers/croft-ide?force=1", None),
    ("PUT", "/containers/croft-ide/archive?path=/", None),
    ("GET", "/containers/json?filters=%7B%22label%22%3A%5B%22a%22%5D%2C%22volume%22%3A%5B%22x%22%5D%7D", None),
    ("GET", "/containers/json?size=1", None),
    ("GET", "/containers/json?filters=[]", None),
    ("GET", "/events?filters=%7B%22type%22%3A%7B%22image%22%3Afalse%7D%7D", None),
    ("POST", f"/exec/{'0' * 64}/resize?h=1&w=1", None),
    ("POST", "/containers/croft-ide/exec", {"Cmd": ["id"], "privileged": True}),
    ("POST", "/containers/croft-ide/exec", {"Cmd": ["id"], "Cmd ": ["x"]}),
    ("POST", "/containers/croft-ide/exec", {"Cmd": "id"}),
    ("POST", "/containers/croft-ide/exec", {"Cmd": ["a\0b"]}),
    ("POST", "/containers/croft-ide/exec", []),
    ("OPTIONS", "/_ping", None),
    ("CONNECT", "/_ping", None),
    ("PATCH", "/info", None),
]


@pytest.mark.parametrize(("method", "path", "body"), FORBIDDEN, ids=lambda one: str(one)[:60])
@pytest.mark.parametrize("prefix", ["", "/v1.41"])
def test_what_no_row_describes_is_refused(running, method: str, path: str, body: object, prefix: str) -> None:
    answer = ask(running.paths.socket("docker"), request(method, prefix + path, body))
    assert status(answer) in (400, 403)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["message"].startswith("croft: ")


PATH_TRICKS = [
    "/v1.41/../v1.41/containers/{other}/json",
    "//containers/{other}/json",
    "/containers//{other}/json",
    "/containers/./{other}/json",
    "/containers/croft-ide/../{other}/json",
    "/containers/croft-ide%2f..%2f{other}/json",
    "/containers/%63roft-ide/json",
    "/v1.41%2fcontainers/{other}/json",
    "/containers/{other}%00/json",
    "/containers/{other}/json/",
    "/containers/{other}/json;x",
    "/containers/{other}/json#croft-ide",
    "http://docker/containers/{other}/json",
    "/v1.23/containers/croft-ide/json",
    "/v1.9/containers/json",
    "/v1.041/containers/json",
    "/v01.41/containers/json",
    "/v1.41/v1.41/containers/json",
    "/v2.41/containers/json",
    "/v1.4111/containers/json",
    "/V1.41/containers/json",
    "/Containers/json",
    "/containers/{other}/JSON",
    "/containers/json?all=1&filters=",
    "/containers/json?%66ilters={{}}&filters={{}}",
    "/containers/json?all",
    "/containers/json?;filters={{}}",
    "*",
]


@pytest.mark.parametrize("path", PATH_TRICKS)
def test_path_tricks_lead_nowhere(running, stranger: Container, path: str) -> None:
    answer = ask(running.paths.socket("docker"), request("GET", path.format(other=stranger.id)))
    assert status(answer) in (400, 403, 404)
    assert b"not-for-croft" not in answer


SMUGGLED = b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{}"
ODD = {
    "both lengths": b"POST /containers/croft-ide/pause HTTP/1.1\r\nHost: d\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked": b"POST /containers/croft-ide/exec HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\n{}\r\n0\r\n\r\n",
    "two lengths": b"GET /_ping HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "length list": b"POST /containers/croft-ide/exec HTTP/1.1\r\nHost: d\r\nContent-Length: 2, 2\r\n\r\n{}",
    "signed length": b"POST /containers/croft-ide/exec HTTP/1.1\r\nHost: d\r\nContent-Length: +2\r\n\r\n{}",
    "huge length": b"POST /containers/croft-ide/exec HTTP/1.1\r\nHost: d\r\nContent-Length: 99999999\r\n\r\n{}",
    "get with body": b"GET /_ping HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{}",
    "folded": b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: a\r\n Transfer-Encoding: chunked\r\n\r\n",
    "space before colon": b"GET /_ping HTTP/1.1\r\nHost: d\r\nTransfer-Encoding : chunked\r\n\r\n",
    "bare line feed": b"GET /_ping HTTP/1.1\nHost: d\n\r\n\r\n",
    "nul": b"GET /_ping HTTP/1.1\r\nHost: d\0\r\n\r\n",
    "expect": b"POST /containers/croft-ide/exec HTTP/1.1\r\nHost: d\r\nExpect: 100-continue\r\n"
    b"Content-Length: 2\r\n\r\n",
    "two spaces": b"GET  /_ping HTTP/1.1\r\nHost: d\r\n\r\n",
    "old http": b"GET /_ping HTTP/1.0\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(200) + b"\r\n\r\n",
    "endless head": b"GET /_ping HTTP/1.1\r\n" + b"X: " + b"a" * 70000,
    "many headers": b"GET /_ping HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(3000)) + b"\r\n",
    "pipelined": b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n" + SMUGGLED,
    "duplicate key": b"POST /containers/croft-ide/exec HTTP/1.1\r\nHost: d\r\nContent-Length: 40\r\n\r\n"
    b'{"Cmd":["id"],"User":"","user":"0"}     ',
    "deep json": b"POST /containers/croft-ide/exec HTTP/1.1\r\nHost: d\r\nContent-Length: 60000\r\n\r\n" + b"[" * 60000,
    "bad utf-8": b"POST /containers/croft-ide/exec HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n\xff\xfe",
}


@pytest.mark.parametrize("name", ODD)
def test_what_two_readers_could_read_differently_is_refused(running, engine, name: str) -> None:
    before = {one.id for one in engine.containers.list(all=True)}
    assert status(ask(running.paths.socket("docker"), ODD[name], half=name == "endless head")) in (0, 400, 403, 413)
    assert {one.id for one in engine.containers.list(all=True)} == before


def test_bytes_after_the_request_go_nowhere(running, engine) -> None:
    """A second request, whether on a kept connection or after an upgrade, ends the connection."""
    before = {one.id for one in engine.containers.list(all=True)}
    path = running.paths.socket("docker")
    for headers in ("", "Connection: keep-alive\r\n", "Connection: Upgrade\r\nUpgrade: tcp\r\n"):
        answer = ask(path, request("GET", "/events", headers=headers), then=SMUGGLED)
        assert status(answer) in (0, 200)
        assert answer.count(b"HTTP/1.1") <= 1
    assert {one.id for one in engine.containers.list(all=True)} == before


def test_a_request_may_come_in_pieces(running) -> None:
    text = request("POST", "/containers/croft-ide/exec", {"Cmd": ["true"]})
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(20)
        link.connect(str(running.paths.socket("docker")))
        for at in range(0, len(text), 7):
            link.sendall(text[at : at + 7])
        assert link.recv(4096).startswith(b"HTTP/1.1 201")


def test_a_client_that_does_not_read_holds_nobody_up(running, sdk: docker.DockerClient, engine) -> None:
    """Back-pressure: the broker's memory stays bounded and others are served."""
    ide = engine.containers.get("croft-ide")
    ide.exec_run(["sh", "-c", "head -c 30000000 /dev/zero | tr '\\0' x | fold -w 4000 > /proc/1/fd/1"], user="0")
    rss = _rss(running.process.pid)
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.connect(str(running.paths.socket("docker")))
        lazy.sendall(request("GET", "/containers/croft-ide/logs?stdout=1&stderr=1&follow=1&tail=100000"))
        for _ in range(20):
            assert sdk.ping()
        assert running.row("ide")["state"] == "running"
        assert _rss(running.process.pid) - rss < 4 << 20


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_more_clients_than_allowed_are_turned_away(running, sdk: docker.DockerClient) -> None:
    path, many = str(running.paths.socket("docker")), []
    for _ in range(60):
        link = socket.socket(socket.AF_UNIX)
        link.connect(path)
        many.append(link)
    assert running.row("ide")["state"] == "running"
    for link in many:
        link.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert sdk.ping()
            return
        except (docker.errors.APIError, OSError):
            time.sleep(0.05)
    pytest.fail("the filter does not take clients again")


def test_only_the_daemon_may_speak(running) -> None:
    """Peer uid (SO_PEERCRED), besides the folder's and the socket's modes."""
    path = running.paths.socket("docker")
    code = (
        "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(5)\n"
        "try:\n s.connect(sys.argv[1])\n s.sendall(b'GET /_ping HTTP/1.1\\r\\n\\r\\n')\n print(len(s.recv(99)))\n"
        "except OSError as e: print(type(e).__name__)\n"
    )

    def ask_as(role: str) -> str:
        account = pwd.getpwnam(running.accounts[role])
        return subprocess.run(
            [sys.executable, "-I", "-c", code, str(path)],
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    assert ask_as("workspace") == ask_as("proxy") == "PermissionError"
    assert int(ask_as("daemon")) > 10
    path.chmod(0o666)
    path.parent.chmod(0o755)
    try:
        for role in ("workspace", "proxy"):
            assert ask_as(role) in ("0", "BrokenPipeError", "ConnectionResetError")
    finally:
        path.chmod(0o660)
        path.parent.chmod(0o750)
