"""The whole appliance in containers: the same journey, and everything that can be killed is killed (R1, R3, R5)."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from playwright.sync_api import Browser
from support.appliance import Appliance
from support.browser import chromium, editor_frame, person, sign_in
from support.editor import Seat, seat_at, two_people_at_once
from support.journey import edit_and_save, trust_the_folder, use_the_terminal
from support.waiting import poll

from appliance.broker.client import call

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

PROJECT = {"label": "com.docker.compose.project=croft"}


@pytest.fixture(scope="module")
def appliance(engine: docker.DockerClient, images: dict[str, str], accounts: dict[str, str]) -> Iterator[Appliance]:
    made = Appliance(accounts, runtime="docker")
    try:
        yield made.start()
    finally:
        made.close()
        for container in engine.containers.list(all=True, filters=PROJECT):
            container.remove(force=True)
        for network in engine.networks.list(filters=PROJECT):
            network.remove()


@pytest.fixture(scope="module")
def browser(appliance: Appliance) -> Iterator[Browser]:
    with chromium(appliance.root_certificate) as running:
        yield running


def names(engine: docker.DockerClient) -> list[str]:
    return sorted(str(container.name) for container in engine.containers.list(all=True, filters=PROJECT))


def works(appliance: Appliance, service: str) -> bool:
    return appliance.is_up() and bool(appliance.service(service)["health"] == "healthy")


def wake_the_ide(appliance: Appliance) -> None:
    appliance.croft("services", "start", "ide")
    poll(lambda: works(appliance, "ide"), "the IDE is ready", 60)


def test_the_journey(appliance: Appliance, browser: Browser) -> None:
    """Link, editor, a saved file, a terminal as the workspace account inside the container."""
    page = person(browser).new_page()
    sign_in(page, appliance.croft("login-link")["url"])
    page.goto(f"{appliance.url}/workspace")
    frame = editor_frame(page)
    workspace = appliance.paths.workspace
    edit_and_save(page, frame, workspace)
    trust_the_folder(page, frame)
    _, folder = use_the_terminal(page, frame, workspace)
    assert folder == str(workspace), "a path means the same inside and outside"
    assert (workspace / "who.txt").stat().st_uid == workspace.stat().st_uid


def test_croft_is_in_the_containers_editor(appliance: Appliance, browser: Browser) -> None:
    """The extension is in place, its line crosses the container's wall, and so does the model's for terminals (NET-2)."""
    context = person(browser)
    page = context.new_page()
    sign_in(page, appliance.croft("login-link")["url"])
    page.goto(f"{appliance.url}/workspace")
    seat = Seat(appliance, page, editor_frame(page))
    poll(seat.window_is_there, "the extension has greeted, and it is known whose window it is", 40)
    file = seat.file("inserted.txt", "")
    seat.open("inserted.txt")
    seat.done("/api/editor/insert", text="from the page\n")
    poll(lambda: file.read_text() == "from the page\n", "what was inserted is saved")
    context.close()


def test_two_people_in_one_container_each_have_their_own_windows(appliance: Appliance, browser: Browser) -> None:
    """What the kernel says of who writes (SO_PASSCRED) and who is at the line (SO_PEERCRED) holds through the container's wall."""
    with seat_at(appliance, browser) as seat:
        two_people_at_once(seat, browser)
        pids = {row.name for row in Path("/proc").iterdir() if row.name.isdigit() and _is_a_windows(row)}
        assert pids, "each window's process is one of this machine, in a namespace of its own"


def _is_a_windows(process: Path) -> bool:
    try:
        words, inside = (process / "cmdline").read_bytes(), (process / "ns/pid").readlink()
    except OSError:
        return False
    return b"extensionHost" in words and inside != Path("/proc/self/ns/pid").readlink()


@pytest.mark.parametrize("service", ["proxy", "ide"])
def test_a_killed_container_comes_back_once(appliance: Appliance, engine: docker.DockerClient, service: str) -> None:
    """R3."""
    wake_the_ide(appliance)
    before = names(engine)
    engine.containers.get(f"croft-{service}").kill()
    poll(lambda: works(appliance, service), f"{service} works again", 60)
    assert names(engine) == before


def test_the_daemon_is_killed(appliance: Appliance, engine: docker.DockerClient) -> None:
    """R1: containers are untouched."""
    wake_the_ide(appliance)
    before = {
        container.id: container.attrs["State"]["StartedAt"] for container in engine.containers.list(filters=PROJECT)
    }
    os.kill(appliance.daemon_pid(), signal.SIGKILL)
    poll(lambda: works(appliance, "ide"), "the daemon is back", 30)
    after = {
        container.id: container.attrs["State"]["StartedAt"] for container in engine.containers.list(filters=PROJECT)
    }
    assert after == before


def test_files_and_extensions_outlive_the_container(appliance: Appliance, engine: docker.DockerClient) -> None:
    """Settings and files lie outside the container, so a new one finds them."""
    wake_the_ide(appliance)
    (appliance.paths.workspace / "kept.txt").write_text("kept")
    container = engine.containers.get("croft-ide")
    folder = f"{appliance.paths.ide_home}/.local/share/code-server/User"
    assert (
        container.exec_run(
            ["sh", "-c", f"mkdir -p {folder} && echo '{{}}' > {folder}/keybindings.json"],
            user=str(appliance.paths.workspace.stat().st_uid),
        ).exit_code
        == 0
    )
    appliance.croft("services", "stop", "ide")
    poll(lambda: appliance.service("ide")["state"] == "stopped", "the IDE stops", 40)
    container.remove(force=True)
    wake_the_ide(appliance)
    fresh = engine.containers.get("croft-ide")
    assert fresh.id != container.id
    assert fresh.exec_run(["cat", f"{folder}/keybindings.json"]).exit_code == 0
    assert fresh.exec_run(["cat", str(appliance.paths.workspace / "kept.txt")]).output == b"kept"


def test_dockerd_is_killed(appliance: Appliance, engine: docker.DockerClient) -> None:
    """R5: containers stay (live-restore), the daemon says what is wrong meanwhile, nothing is doubled."""
    wake_the_ide(appliance)
    before = names(engine)
    setup = Path(__file__).with_name("setup.sh")
    pid = int(Path(os.environ.get("CROFT_TEST_CACHE", "/var/tmp/croft-tests"), "dockerd.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    poll(lambda: not Path(f"/proc/{pid}").exists(), "dockerd has ended", 10)
    subprocess.run([setup, "up"], check=True, capture_output=True, timeout=120)
    poll(lambda: works(appliance, "ide") and works(appliance, "proxy"), "both work again", 90)
    assert names(engine) == before


def test_runs_happen_inside_the_container(appliance: Appliance, engine: docker.DockerClient) -> None:
    """DECIDED 3: the broker's own spawn, in the namespaces of `ide`, as the workspace account, without Docker's exec."""
    wake_the_ide(appliance)
    reply = call(
        appliance.paths.socket("broker"),
        "spawn",
        argv=["/bin/sh", "-c", "id -u; hostname; pwd; cat /proc/self/status"],
        cwd=".",
        env={},
        stdin=None,
        view="plain",
        limits={"seconds": 20, "pids": 16, "memory_mb": 128},
    )
    pidfd, out, err = reply.fds
    for fd in (pidfd, err):
        os.close(fd)
    with os.fdopen(out, "rb") as stdout:
        uid, host, folder, *status = stdout.read().decode().splitlines()
    assert int(uid) == appliance.paths.workspace.stat().st_uid
    assert host == engine.containers.get("croft-ide").attrs["Config"]["Hostname"]
    assert folder == str(appliance.paths.workspace)
    facts = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert (facts["NoNewPrivs"], int(facts["CapEff"], 16), int(facts["CapBnd"], 16)) == ("1", 0, 0)
