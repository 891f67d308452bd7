"""A checkout without root: the same broker as the person who started it, honest about what it cannot do."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from support.processes import alive

from appliance.broker.client import BrokerError


def test_hello_says_what_does_not_hold(person_home):
    hello = person_home.call("hello").data
    assert (hello["switching"], hello["limits"], hello["containment"]) == (False, False, "session")


def test_a_run_works_and_stays_the_person(person_home, poll):
    reply = person_home.call("spawn", argv=["cat", "/proc/self/status"])
    with os.fdopen(reply.fds[1], "rb") as out:
        status = dict(line.split(":\t", 1) for line in out.read().decode().splitlines() if ":\t" in line)
    for fd in (reply.fds[0], reply.fds[2]):
        os.close(fd)
    assert status["Uid"].split()[0] == str(person_home.paths.workspace.stat().st_uid)
    assert (int(status["CapEff"], 16), status["NoNewPrivs"]) == (0, "1")
    poll(lambda: person_home.call("runs").data["ended"])


def test_the_folder_is_still_inside_the_workspace(person_home):
    with pytest.raises(BrokerError, match="cannot open the folder"):
        person_home.call("spawn", argv=["pwd"], cwd="..")


@pytest.mark.parametrize("leave", ["sleep {mark} &", "setsid -f sleep {mark} >/dev/null 2>&1 </dev/null"])
def test_what_a_run_leaves_is_found_by_session_or_mark(person_home, poll, leave):
    mark = f"41{os.getpid()}"
    reply = person_home.call("spawn", argv=["sh", "-c", leave.format(mark=mark) + "; sleep 0.1; exit 0"])
    for fd in reply.fds:
        os.close(fd)
    poll(lambda: person_home.call("runs").data["ended"])
    assert alive(mark) == []


def test_the_time_limit_holds(person_home, poll):
    reply = person_home.call(
        "spawn", argv=["sh", "-c", "trap '' TERM HUP INT; while :; do sleep 0.1; done"], limits={"seconds": 1}
    )
    for fd in reply.fds:
        os.close(fd)
    (ended,) = poll(lambda: person_home.call("runs").data["ended"])
    assert (ended["reason"], ended["signal"]) == ("timeout", signal.SIGKILL)


def test_freezing_is_refused_with_the_reason(person_home):
    reply = person_home.call("spawn", argv=["sleep", "60"])
    for fd in reply.fds:
        os.close(fd)
    with pytest.raises(BrokerError, match="cgroups cannot be written"):
        person_home.call("freeze", run=reply.data["run"])


def test_files_and_terminals_work(person_home):
    (fd,) = person_home.call("files").fds
    with socket.socket(fileno=fd) as channel:
        channel.sendall(b'{"id":1,"op":"write","path":"a","data":"aGk="}')
        assert b'"ok":true' in channel.recv(65_536)
    assert (person_home.paths.workspace / "a").read_text() == "hi"
    assert person_home.call("terminals").data == {"foreground": 0}


def test_services_run_as_the_person(person_home, poll):
    config = person_home.paths.config
    assert person_home.stop() == 0
    config.write_text(config.read_text() + 'proxy.http_port = 21280\nproxy.https_port = 21243\nproxy.tls = "off"\n')
    person_home.start()
    pid = person_home.call("start", service="proxy").data["pid"]
    assert Path(f"/proc/{pid}").stat().st_uid == person_home.paths.workspace.stat().st_uid
    poll(lambda: _answers(21280))
    person_home.kill()
    person_home.start()
    assert person_home.row("proxy")["pid"] == pid
    assert person_home.stop() == 0
    assert not _answers(21280)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
