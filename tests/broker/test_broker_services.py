"""Services under the broker without systemd: the real Caddy and the real code-server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from appliance.broker.client import BrokerError
from appliance.broker.ide_settings import DEFAULTS

HTTP, HTTPS = 21180, 21143
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="changing user needs root; the root pass of CI runs this")


@pytest.fixture
def proxied(home):
    home.configure(
        proxy__http_port=HTTP, proxy__https_port=HTTPS, proxy__bind="127.0.0.1", proxy__tls="off", log__service_mb=1
    )
    home.start()
    return home


@pytest.fixture
def ide(home):
    where = os.environ.get("CROFT_TEST_IDE")
    assert where, "set CROFT_TEST_IDE to the folder that holds node/ and code/ (./tests/run makes one)"
    home.configure(paths__ide=where)
    home.start()
    return home


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def unix_get(path: Path, target: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(10)
    connection.sock.connect(str(path))
    connection.request("GET", target)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read()
    finally:
        connection.close()


def test_the_proxy_starts_once_reports_and_stops(proxied, poll):
    row = proxied.call("start", service="proxy").data
    assert (row["state"], row["started_by"]) == ("running", str(os.geteuid()))
    again = proxied.call("start", service="proxy").data
    assert (again["pid"], again["run_id"]) == (row["pid"], row["run_id"])
    poll(lambda: answers(HTTP))
    now = proxied.row("proxy")
    assert now["memory_bytes"] > 0
    assert now["cpu_usec"] > 0
    assert proxied.call("stop", service="proxy", grace=10).data["state"] == "stopping"
    poll(lambda: proxied.row("proxy")["state"] == "stopped")
    assert not answers(HTTP)
    assert not Path(f"/proc/{row['pid']}").exists()


@root_only
def test_the_proxy_runs_as_its_own_user_with_one_capability_for_low_ports(home, poll):
    """SYS-1: no root, no capability but binding low ports, and that only where a port is low."""
    home.configure(proxy__http_port=801, proxy__https_port=802, proxy__bind="127.0.0.1", proxy__tls="off")
    home.start()
    seen = status(home.call("start", service="proxy").data["pid"])
    assert seen["Uid"].split()[0] == str(home.paths.caddy_data.stat().st_uid) != "0"
    assert {int(seen[kind], 16) for kind in ("CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh")} == {1 << 10}
    assert seen["NoNewPrivs"] == "1"
    poll(lambda: answers(801))


def test_a_service_that_dies_is_reported_failed_with_its_signal(proxied, poll):
    row = proxied.call("start", service="proxy").data
    os.kill(row["pid"], signal.SIGKILL)
    poll(lambda: proxied.row("proxy")["state"] == "failed")
    assert (proxied.row("proxy")["signal"], proxied.row("proxy")["exit_code"]) == (9, None)
    fresh = proxied.call("start", service="proxy").data
    assert fresh["state"] == "running"
    assert fresh["run_id"] != row["run_id"]


def test_a_broker_that_was_killed_adopts_the_living_service(proxied, poll):
    row = proxied.call("start", service="proxy").data
    poll(lambda: answers(HTTP))
    proxied.kill()
    assert answers(HTTP)
    proxied.start()
    adopted = proxied.row("proxy")
    assert {key: adopted[key] for key in ("state", "pid", "run_id", "since")} == {
        key: row[key] for key in ("state", "pid", "run_id", "since")
    }
    assert proxied.call("start", service="proxy").data["pid"] == row["pid"]
    os.kill(row["pid"], signal.SIGKILL)
    poll(lambda: proxied.row("proxy")["state"] == "failed")


def test_a_reused_pid_is_not_adopted(proxied, poll):
    """The record names pid and start time together."""
    pid = proxied.call("start", service="proxy").data["pid"]
    record = proxied.paths.run / "broker" / "processes.json"
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    proxied.kill()
    document = json.loads(record.read_text())
    document["processes"][0]["start"] -= 1
    document["processes"][0]["folders"] = {}
    record.write_text(json.dumps(document))
    proxied.start()
    assert proxied.row("proxy")["state"] != "running"
    if proxied.switching:
        poll(lambda: not Path(f"/proc/{pid}").exists(), what="the end of a group that nobody recorded")
    elif Path(f"/proc/{pid}").exists():
        os.kill(pid, signal.SIGKILL)


def test_a_deliberate_stop_takes_services_along(proxied, poll):
    proxied.call("start", service="proxy")
    poll(lambda: answers(HTTP))
    assert proxied.stop() == 0
    assert not answers(HTTP)


def test_a_bad_configuration_is_refused_with_caddys_words_and_the_old_file_stays(home):
    home.configure(proxy__http_port=HTTP, proxy__https_port=HTTPS, proxy__tls="acme", proxy__acme_root="/no/such/file")
    home.start()
    with pytest.raises(BrokerError, match="cannot use the proxy's configuration"):
        home.call("start", service="proxy")
    assert not (home.paths.run / "proxy" / "Caddyfile").exists()
    assert home.row("proxy")["state"] == "stopped"


def test_logs_are_handed_out_read_only_and_rotated(proxied, poll):
    """SYS-7: a service that shouts cannot fill the disk; one old file is kept, with the latest lines."""
    with pytest.raises(BrokerError):
        proxied.call("logs", service="proxy")
    proxied.call("start", service="proxy")
    (fd,) = proxied.call("logs", service="proxy").fds
    poll(lambda: b"serving initial configuration" in os.pread(fd, 65_536, 0))
    with pytest.raises(OSError):
        os.write(fd, b"x")
    log, old = proxied.paths.log / "proxy.log", proxied.paths.log / "proxy.log.1"
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    with log.open("ab") as file:
        file.write(b"early\n" * 400_000 + b"last line\n")
    poll(lambda: old.exists() and log.stat().st_size < 1 << 20)
    assert old.stat().st_size <= 1 << 20
    assert old.read_bytes().endswith(b"last line\n")
    assert os.fstat(fd).st_ino == log.stat().st_ino
    os.close(fd)


def test_a_link_in_place_of_a_log_is_not_followed(proxied):
    target = proxied.folder / "victim"
    target.touch()
    (proxied.paths.log / "proxy.log").symlink_to(target)
    with pytest.raises(BrokerError):
        proxied.call("start", service="proxy")
    assert target.read_bytes() == b""
    (proxied.paths.log / "proxy.log").unlink()
    assert proxied.call("start", service="proxy").data["state"] == "running", "nothing was left in the way"


def test_what_is_not_installed_is_absent(home):
    home.start()
    states = {row["service"]: row["state"] for row in home.call("services").data["services"]}
    assert states["ide"] == "absent"
    with pytest.raises(BrokerError, match="not installed"):
        home.call("start", service="ide")


def test_a_folder_planted_by_somebody_else_is_refused(home):
    """The daemon may write in the state folder; a link it puts there must not become root's work."""
    home.configure()
    home.paths.state.mkdir()
    (home.folder / "elsewhere").mkdir()
    home.paths.workspace.symlink_to(home.folder / "elsewhere")
    with pytest.raises(AssertionError, match="ended with 78"):
        home.start()
    assert (home.folder / "elsewhere").stat().st_uid == os.geteuid()


def test_the_ide_listens_on_its_socket_only(ide, poll):
    """Real code-server: healthz over the socket, own user, defaults written once, no TCP port, workspace trust on."""
    row = ide.call("start", service="ide").data
    sock = ide.paths.socket("ide")
    poll(lambda: sock.exists() and unix_get(sock, "/healthz")[0] == 200, seconds=60)
    assert stat.S_IMODE(sock.stat().st_mode) == 0o660
    assert sock.stat().st_gid == sock.parent.stat().st_gid
    owner = ide.paths.workspace.stat().st_uid
    assert sock.stat().st_uid == owner
    assert status(row["pid"])["Uid"].split()[0] == str(owner)
    assert int(status(row["pid"])["CapBnd"], 16) == 0 or not ide.switching
    settings = ide.paths.ide_home / ".local/share/code-server/User/settings.json"
    assert json.loads(settings.read_text()) == DEFAULTS
    assert settings.stat().st_uid == owner
    words = Path(f"/proc/{row['pid']}/cmdline").read_bytes().decode().split("\0")
    assert "--disable-workspace-trust" not in words
    assert not any(_tcp_listeners(pid) for pid in _tree(row["pid"]))
    settings.write_text("{}")
    ide.call("stop", service="ide")
    poll(lambda: ide.row("ide")["state"] == "stopped", seconds=30)
    ide.call("start", service="ide")
    poll(lambda: sock.exists() and _answers_200(sock), seconds=60)
    assert settings.read_text() == "{}"


def _answers_200(sock: Path) -> bool:
    try:
        return unix_get(sock, "/healthz")[0] == 200
    except ConnectionRefusedError:
        return False


def _tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _tree(int(child)))]


def _tcp_listeners(pid: int) -> list[str]:
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            inodes.add(str(link.readlink()))
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]
