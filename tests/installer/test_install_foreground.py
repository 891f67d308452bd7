"""The installer on Debian 12 without systemd as PID 1: it ends serving in the foreground, the link printed first."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from machine import Machine, wait

from appliance.host.install import behind

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

HTTP, HTTPS = 25080, 25443
INSTALL = (
    "./install.sh",
    "--unattended",
    "--ide-bundle",
    "/ide.tar",
    "--http-port",
    str(HTTP),
    "--https-port",
    str(HTTPS),
)


def descendants(pid: int) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


def test_one_command_ends_serving(bookworm: Machine, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(bookworm.command(*INSTALL), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait(lambda: "Croft runs in this terminal" in said.read_text() or process.poll() is not None, "the end", 800)
        text = said.read_text()
        assert process.poll() is None, text[-4000:]
        assert behind.answers("croft.localhost", HTTPS) == ""
        link = re.search(rf"https://croft\.localhost:{HTTPS}/\S*t=(\S+)", text)
        assert link, text
        assert link.group(1) not in (bookworm.tree / "var/log/croft/install.log").read_text()
        inside = descendants(process.pid)
        finish = next(pid for pid in inside if b"finish" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
        os.kill(finish, signal.SIGTERM)
        process.wait(60)
        assert behind.answers("croft.localhost", HTTPS) != ""
    finally:
        process.kill()
        process.wait()


def test_again_without_starting_changes_nothing(bookworm: Machine) -> None:
    out = bookworm.do(*INSTALL, "--no-start").stdout
    assert "Nothing to do" in out, out
    assert "croft serve" in out


def test_a_taken_port_refuses_before_anything(bookworm: Machine) -> None:
    server = subprocess.Popen(
        ("python3", "-I", "-m", "http.server", "--bind", "127.0.0.1", str(HTTP)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait(lambda: "answered 404" in behind.answers("x", HTTP, tls=False), "the other server", 20)
        done = bookworm.do(*INSTALL, check=False)
        assert done.returncode == 3
        assert f"port {HTTP} is taken by" in done.stdout
        assert "--behind-proxy" in done.stdout
    finally:
        server.kill()
        server.wait()


def test_purge(bookworm: Machine) -> None:
    bookworm.do(*INSTALL, "--uninstall", "--purge")
    left = bookworm.do(
        "sh",
        "-c",
        "ls -d /opt/croft /var/lib/croft* /etc/croft /run/croft /usr/local/bin/croft; "
        "grep -E 'croft|workspace' /etc/passwd /etc/group; dpkg -l caddy git | grep ^ii",
        check=False,
    )
    assert left.stdout == ""
