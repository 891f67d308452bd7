"""The backend that drives systemd, over a stand-in `systemctl` that answers as systemd 257 was seen to."""

from __future__ import annotations

import os
import selectors
import subprocess
from pathlib import Path

import pytest

from appliance import settings as settings_module
from appliance.broker import accounts, layout
from appliance.broker.logs import Logs
from appliance.broker.units import UnitsBackend
from appliance.errors import Unavailable
from appliance.settings import Paths

SHOWN = """\
MainPID={pid}
Result={result}
ExecMainCode={code}
ExecMainStatus={status}
MemoryCurrent={memory}
CPUUsageNSec=10984000
Id=croft-{name}.service
LoadState={load}
ActiveState={active}
StateChangeTimestampMonotonic=3309766262
InvocationID=09089bc11a0948799705f58b262fe987
"""
QUIET = {
    "pid": 0,
    "result": "success",
    "code": 0,
    "status": 0,
    "memory": "[not set]",
    "load": "loaded",
    "active": "inactive",
}


class Systemd:
    """A folder with a `systemctl` that prints ``shown`` and keeps what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "systemctl"
        self.program.write_text(
            f'#!/bin/sh\necho "$*" >> {folder}/asked\n'
            f'case "$*" in *" show "*) cat {folder}/shown;; *) cat {folder}/said; exit $(cat {folder}/code);; esac\n'
        )
        self.program.chmod(0o755)
        self.answer()

    def answer(self, ends: int = 0, said: str = "", **proxy: object) -> None:
        blocks = [
            SHOWN.format(
                name=name,
                **(QUIET | (proxy if name == "proxy" else {}) | ({"load": "not-found"} if name == "ai" else {})),
            )
            for name in ("ide", "proxy", "ai")
        ]
        (self.folder / "shown").write_text("\n".join(blocks))
        (self.folder / "said").write_text(said)
        (self.folder / "code").write_text(str(ends))

    def asked(self) -> list[str]:
        lines = (self.folder / "asked").read_text().splitlines()
        return [line.removeprefix("--no-pager --no-ask-password ") for line in lines if " show " not in line]


@pytest.fixture
def systemd(tmp_path):
    return Systemd(tmp_path)


@pytest.fixture
def backend(home, systemd):
    home.configure(proxy__http_port=21480, proxy__https_port=21443, proxy__tls="off")
    settings = settings_module.load(Paths.under(home.folder))
    found = accounts.resolve(settings)
    layout.ensure(settings, found)
    events: list[dict] = []
    made = UnitsBackend(settings, found, Logs(settings, found), events.append, systemctl=str(systemd.program))
    made.events = events
    with selectors.DefaultSelector() as selector:
        made.register(selector)
        made.selector = selector
        yield made


def row(backend, service: str) -> dict:
    return next(one for one in backend.services() if one["service"] == service)


def test_rows_say_what_systemd_says(backend, systemd):
    assert row(backend, "ai")["state"] == "absent"
    assert row(backend, "proxy")["state"] == "stopped"
    systemd.answer(active="active", pid=os.getpid(), memory=1048576)
    found = row(backend, "proxy")
    assert (found["state"], found["pid"], found["memory_bytes"], found["cpu_usec"]) == (
        "running",
        os.getpid(),
        1 << 20,
        10984,
    )
    assert found["run_id"] == "09089bc11a0948799705f58b262fe987"
    systemd.answer(active="failed", result="signal", code=2, status=9)
    found = row(backend, "proxy")
    assert (found["state"], found["exit_code"], found["signal"], found["memory_bytes"]) == ("failed", None, 9, None)
    systemd.answer(active="failed", result="exit-code", code=1, status=3)
    assert (row(backend, "proxy")["exit_code"], row(backend, "proxy")["signal"]) == (3, None)


def test_every_word_to_systemd_is_fixed(backend, systemd):
    backend.start("proxy", None, "7")
    backend.stop("proxy", 10)
    backend.stop("proxy", 0)
    assert systemd.asked() == [
        f"set-property --runtime croft-proxy.service MemoryMax=128M CPUQuota={round(len(os.sched_getaffinity(0)) * 90)}%",
        "reset-failed croft-proxy.service",
        "start --no-block croft-proxy.service",
        "stop --no-block croft-proxy.service",
        "kill --signal=KILL croft-proxy.service",
        "stop --no-block croft-proxy.service",
    ]
    assert row(backend, "proxy")["started_by"] == "7"


def test_a_refusal_of_systemd_is_told_in_its_words(backend, systemd):
    systemd.answer(ends=4, said="Unit croft-proxy.service is masked.")
    with pytest.raises(Unavailable, match="masked"):
        backend.start("proxy", None, "0")


def test_the_end_of_a_unit_is_heard_at_once(backend, systemd):
    process = subprocess.Popen(["sleep", "60"])
    systemd.answer(active="active", pid=process.pid)
    assert row(backend, "proxy")["state"] == "running"
    process.kill()
    systemd.answer(active="failed", result="signal", code=2, status=9)
    for key, mask in backend.selector.select(5):
        key.data(mask)
    process.wait()
    (event,) = backend.events
    assert (event["event"], event["service"], event["signal"], event["reason"]) == ("exit", "proxy", 9, "exit")


@pytest.mark.parametrize("said", ["", "Failed to get properties: Connection timed out\n"])
def test_a_systemd_that_does_not_answer_does_not_end_the_broker(backend, systemd, capsys, said):
    process = subprocess.Popen(["sleep", "60"])
    systemd.answer(active="active", pid=process.pid)
    assert row(backend, "proxy")["state"] == "running"
    backend.start("proxy", None, "0")
    (systemd.folder / "shown").write_text(said)
    with pytest.raises(Unavailable, match="cannot show"):
        backend.services()
    backend._unseen.add("ide")
    assert backend.pump() is not None
    process.kill()
    for key, mask in backend.selector.select(5):
        key.data(mask)
    process.wait()
    (event,) = backend.events
    assert (event["service"], event["reason"], event["exit_code"]) == ("proxy", "exit", None)
    assert "cannot look at the services" in capsys.readouterr().err
    systemd.answer(active="failed", result="signal", code=2, status=9)
    assert row(backend, "proxy")["state"] == "failed"
