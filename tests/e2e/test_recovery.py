"""What happens when parts die: everything comes back, nothing runs twice, people stay signed in (R1, R3, R25, R27)."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time

import pytest
from playwright.sync_api import Browser
from support.appliance import Appliance
from support.browser import chromium, editor_frame, person, sign_in
from support.processes import alive
from support.waiting import poll

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def appliance_settings() -> str:
    return "[ide]\nidle_minutes = 1\n"


def pid_of(appliance: Appliance, service: str) -> int:
    """Pid the broker has for a service."""
    from appliance.broker.client import call

    rows = call(appliance.paths.socket("broker"), "services").data["services"]
    return int(next(row["pid"] or 0 for row in rows if row["service"] == service))


def healthy(appliance: Appliance, service: str) -> bool:
    return bool(appliance.service(service)["health"] == "healthy")


def wake_the_ide(appliance: Appliance) -> int:
    appliance.croft("services", "start", "ide")
    poll(lambda: healthy(appliance, "ide"), "the IDE is ready", 60)
    return pid_of(appliance, "ide")


def front_door(appliance: Appliance) -> int:
    """Status of /healthz through Caddy, with the name as SNI (the C library need not know it); 0 without an answer."""
    host, context = appliance.settings.host, ssl.create_default_context(cafile=str(appliance.root_certificate))
    try:
        with (
            socket.create_connection(("127.0.0.1", appliance.https_port), 5) as raw,
            context.wrap_socket(raw, server_hostname=host) as link,
        ):
            link.sendall(
                f"GET /healthz HTTP/1.1\r\nHost: {host}:{appliance.https_port}\r\nConnection: close\r\n\r\n".encode()
            )
            return int(link.recv(64).split()[1])
    except (OSError, IndexError):
        return 0


def no_process_of(appliance: Appliance) -> bool:
    """Whether nothing that names the appliance's folder runs any more."""
    return not alive(str(appliance.folder))


@pytest.mark.browser
def test_the_daemon_is_killed_while_somebody_works(appliance: Appliance) -> None:
    """R1: back within ten seconds, services untouched, the person still signed in, the editor reconnects."""
    with chromium(appliance.root_certificate) as browser:
        page = person(browser).new_page()
        sign_in(page, appliance.croft("login-link")["url"])
        page.goto(f"{appliance.url}/workspace")
        editor_frame(page)
        before = {name: pid_of(appliance, name) for name in ("proxy", "ide")}
        os.kill(appliance.daemon_pid(), signal.SIGKILL)
        begun = time.monotonic()
        poll(lambda: front_door(appliance) == 200, "the front door answers again", 20)
        assert time.monotonic() - begun < 10
        poll(appliance.is_up, "the daemon supervises again", 15)
        assert {name: pid_of(appliance, name) for name in ("proxy", "ide")} == before
        page.goto(f"{appliance.url}/sessions")
        assert "/sign-in" not in page.url, "the session survived"
        poll(lambda: _sockets(appliance, page, browser), "the editor is connected again", 30)


def _sockets(appliance: Appliance, page: object, browser: Browser) -> bool:
    rows = appliance.control.call("GET", "/api/sessions")["sessions"]
    if not sum(row["ide_sockets"] for row in rows):
        page.goto(f"{appliance.url}/workspace")  # type: ignore[attr-defined]
        editor_frame(page)  # type: ignore[arg-type]
        rows = appliance.control.call("GET", "/api/sessions")["sessions"]
    return sum(row["ide_sockets"] for row in rows) > 0


def test_the_broker_is_killed(appliance: Appliance) -> None:
    """The services live on, the next broker adopts them, and it can still stop and start them."""
    ide = wake_the_ide(appliance)
    proxy = pid_of(appliance, "proxy")
    os.kill(appliance.broker_pid(), signal.SIGKILL)
    poll(lambda: _adopted(appliance, proxy, ide), "the same processes are known again", 20)
    appliance.croft("services", "restart", "ide")
    poll(lambda: pid_of(appliance, "ide") not in (0, ide) and healthy(appliance, "ide"), "the IDE was restarted", 60)


def _adopted(appliance: Appliance, proxy: int, ide: int) -> bool:
    from appliance.errors import Unavailable

    try:
        return (pid_of(appliance, "proxy"), pid_of(appliance, "ide")) == (proxy, ide)
    except Unavailable:
        return False


@pytest.mark.parametrize("service", ["proxy", "ide"])
def test_a_service_is_killed(appliance: Appliance, service: str) -> None:
    """R3: it comes back by itself, once."""
    wake_the_ide(appliance)
    killed = pid_of(appliance, service)
    os.kill(killed, signal.SIGKILL)
    poll(lambda: pid_of(appliance, service) not in (0, killed), f"{service} runs again", 30)
    poll(lambda: healthy(appliance, service), f"{service} works again", 60)


def test_a_deliberate_stop_survives_the_daemon(appliance: Appliance) -> None:
    """Only a person starts what a person stopped."""
    wake_the_ide(appliance)
    appliance.croft("services", "stop", "ide")
    poll(lambda: appliance.service("ide")["state"] == "stopped", "the IDE stops", 30)
    os.kill(appliance.daemon_pid(), signal.SIGKILL)
    poll(appliance.is_up, "the daemon is back", 30)
    row = appliance.service("ide")
    assert (row["state"], row["want"]) == ("stopped", "stop")


def test_an_unused_ide_goes_to_sleep(appliance: Appliance) -> None:
    """DECIDED 14: nobody has it open for a minute (the setting of this appliance)."""
    wake_the_ide(appliance)
    poll(lambda: appliance.service("ide")["shown"] == "sleeping", "the IDE sleeps", 120, pause=1)
    assert front_door(appliance) == 200


def test_the_audit_log_is_whole_after_all_that(appliance: Appliance) -> None:
    """LOG-1, LOG-2: killed daemons leave no hole; what they had announced is marked interrupted or done."""
    assert appliance.croft("audit", "verify") == {"ok": True, "fault": None}
    events = [record["event"] for record in appliance.control.call("GET", "/api/audit")["records"]]
    assert {"daemon.start", "service.stop", "outcome"} <= set(events)


def test_sigterm_ends_everything(appliance: Appliance) -> None:
    """R27: services included, within twenty seconds; the next start works."""
    wake_the_ide(appliance)
    begun = time.monotonic()
    assert appliance.stop() == 0
    assert time.monotonic() - begun < 20
    poll(lambda: no_process_of(appliance), "nothing of the appliance runs", 5)
    appliance.start()


def test_even_a_killed_supervisor_leaves_nothing_behind(appliance: Appliance) -> None:
    """Without systemd nobody else would stop the rest."""
    assert appliance.process is not None
    wake_the_ide(appliance)
    appliance.process.kill()
    appliance.process.wait(10)
    appliance.process = None
    poll(lambda: no_process_of(appliance), "nothing of the appliance runs", 30)
