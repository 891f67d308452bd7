"""The installer on Debian 13 with systemd: one machine, taken through its life in the order below.

Covers SYS-1, SYS-6, SYS-9, SEC-1. Not run here, for want of a virtual machine with its own kernel: limits of cgroup v2.
"""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from compare import assert_same, serves, snapshot
from machine import Booted, run, wait
from support.tiny_model import tiny_model

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

INSTALL = ("./install.sh", "--unattended", "--runtime", "process", "--ide-bundle", "/ide.tar")
LOG = "/var/log/croft/install.log"


@pytest.fixture(scope="module")
def before(trixie: Booted) -> dict[str, str]:
    return snapshot(trixie)


def test_the_plan_is_printed_and_nothing_changes(trixie: Booted, before: dict[str, str]) -> None:
    trixie.do("sh", "-c", "apt-get -q update && apt-get install -yq --no-install-recommends python3 && apt-get clean")
    plain = snapshot(trixie)
    out = trixie.do(*INSTALL, "--dry-run").stdout
    for words in (
        "install with apt: ",
        "create the system user croft",
        "locked wheels",
        "croft.toml",
        "croft-broker.service",
    ):
        assert words in out
    assert_same(plain, snapshot(trixie))
    before.update(plain)


def test_killed_half_way_and_resumed_over_a_dropped_connection(trixie: Booted, before: dict[str, str]) -> None:
    """A run is killed while it makes the Python packages; the next one resumes and outlives its own terminal."""
    process = start(trixie)
    wait(lambda: "Python packages (hash-locked) ..." in log(trixie), "the third step", 300)
    trixie.do("sh", "-c", "pkill -KILL -g $(pgrep -of '[i]nstall.main import main.*apply')")
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert not serves(trixie)

    process = start(trixie)
    wait(lambda: log(trixie).count("Python packages (hash-locked) ...") == 2, "the third step again", 120)
    assert log(trixie).rpartition("== ")[2].count("already so") >= 2
    trixie.do("sh", "-c", "kill -HUP $(pgrep -of '[b]ash ./install.sh')")
    process.communicate(timeout=60)
    wait(lambda: "steps changed something" in log(trixie), "the installation to end by itself", 600)


def test_serving_and_a_link(trixie: Booted, before: dict[str, str]) -> None:
    """The second run changes nothing, says so, tests itself through the front door; its link is not in the log."""
    stamps = "find /etc /opt/croft /usr/local -newer /var/log/croft/install.log -type f"
    out = trixie.do(*INSTALL).stdout
    assert re.search(r"Nothing to do: all (\d+) steps were already so", out), out
    assert "https://croft.localhost" in out
    link = re.search(r"https://croft\.localhost/\S+", out)
    assert link
    assert link.group(0) not in log(trixie)
    assert trixie.do("sh", "-c", stamps).stdout == ""
    assert serves(trixie)


def test_what_lies_in_no_file(trixie: Booted, before: dict[str, str]) -> None:
    """The packet filter around the workspace's account and the small disk of the editor's socket, while Croft runs."""
    assert "table inet croft_workspace_" in in_memory(trixie)
    assert " /run/croft/ide tmpfs " in in_memory(trixie)


def test_a_command_runs_in_the_workspace(trixie: Booted, before: dict[str, str]) -> None:
    """Under the units' own limits: as the workspace's user, in its folder; and the doctor finds nothing broken."""
    assert trixie.do("croft", "run", "--yes", "--", "pwd").stdout == "/var/lib/croft/workspace\n"
    assert trixie.do("croft", "run", "--yes", "--", "whoami").stdout == "workspace\n"
    doctor = json.loads(trixie.do("croft", "doctor", "--json", check=False).stdout)
    assert [row for row in doctor["checks"] if row["result"] == "fail"] == []


def test_the_engine_serves_under_its_unit(trixie: Booted, before: dict[str, str]) -> None:
    """SYS-1, NET-3: with the model that the daemon chose, for the daemon alone, in a network with nobody else."""
    tiny_model(trixie.tree / "root", 4096)
    trixie.do("install", "-o", "croft", "-g", "croft-ai", "-m", "640", "/root/tiny.gguf", "/var/lib/croft/models")
    python = ("/opt/croft/venv/bin/python", "-I", "-c")
    chosen = "write(pathlib.Path('/var/lib/croft/models'), Choice('tiny', 'tiny.gguf', 2048))"
    trixie.do(*python, f"import pathlib; from appliance.assistant.choice import *; {chosen}")
    trixie.do("croft", "services", "start", "ai")
    asked = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/croft/ai/ai.sock'); "
    asked += "s.sendall(b'GET /health HTTP/1.0\\r\\n\\r\\n'); print(s.recv(100))"
    said = lambda user: trixie.do("runuser", "-u", user, "--", *python, asked, check=False).stdout  # noqa: E731
    wait(lambda: "200" in said("croft"), "the engine has loaded the model", 60)
    assert said("workspace") == ""
    trixie.do("sh", "-c", "nsenter -t $(systemctl show -p MainPID --value croft-ai) -n ip -o link | grep -vq eth0")
    assert trixie.do("systemctl", "show", "-p", "User", "--value", "croft-ai").stdout.strip() == "croft-ai"
    trixie.do("croft", "services", "stop", "ai")
    trixie.do("rm", "/var/lib/croft/models/choice.json", "/var/lib/croft/models/tiny.gguf", "/root/tiny.gguf")


def test_hardening(trixie: Booted, before: dict[str, str]) -> None:
    """SYS-1: the daemon's exposure is at most 1.5 as installed. Nobody can sign in as the accounts."""
    trixie.do("systemd-analyze", "security", "--threshold=15", "--no-pager", "croft.service")
    assert trixie.do("systemctl", "show", "-p", "User", "--value", "croft.service").stdout.strip() == "croft"
    trixie.do(
        "sh",
        "-c",
        "mkdir -p -m 700 /var/lib/croft/home/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/key && "
        "cp /root/key.pub /var/lib/croft/home/.ssh/authorized_keys && "
        "chown -R workspace: /var/lib/croft/home/.ssh",
    )
    refused = trixie.do(
        "ssh",
        "-i",
        "/root/key",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "BatchMode=yes",
        "workspace@127.0.0.1",
        "id",
        check=False,
    )
    assert refused.returncode == 255, refused.stdout
    trixie.do("rm", "-rf", "/var/lib/croft/home/.ssh", "/root/key", "/root/key.pub")


def test_secret_files(trixie: Booted, before: dict[str, str]) -> None:
    """SEC-1: settings, journal, log and keys are closed to others."""
    modes = trixie.do(
        "stat",
        "-c",
        "%a %U:%G %n",
        "/etc/croft/croft.toml",
        "/var/lib/croft-install/journal.json",
        LOG,
        "/var/lib/croft/keys",
        "/var/lib/croft/croft.db",
    ).stdout.splitlines()
    assert modes[0].startswith("640 root:croft")
    assert modes[1].startswith("600 root:root")
    assert modes[2].startswith("600 root:root")
    assert modes[3].startswith("700 croft:croft")
    assert modes[4].startswith("600 croft:croft")


def test_a_hung_daemon_is_replaced(trixie: Booted, before: dict[str, str]) -> None:
    """SYS-6: SIGSTOP is noticed by the watchdog within a minute."""

    def daemon() -> str:
        return trixie.do("systemctl", "show", "-p", "MainPID", "--value", "croft.service").stdout.strip()

    pid = daemon()
    trixie.do("kill", "-STOP", pid)
    wait(lambda: daemon() not in (pid, "0"), "another daemon", 60)
    wait(lambda: serves(trixie), "the front door", 60)


def test_reboot(trixie: Booted, before: dict[str, str]) -> None:
    trixie.reboot()
    wait(lambda: serves(trixie), "the front door after a reboot", 90)


def test_uninstall_keeps_data_and_a_new_installation_finds_it(trixie: Booted, before: dict[str, str]) -> None:
    """SYS-9: packages, accounts, units and files compare equal; the data is root's until it is used again."""
    trixie.do("sh", "-c", "echo mine > /var/lib/croft/workspace/mine && chown workspace: /var/lib/croft/workspace/mine")
    trixie.do("/opt/croft/venv/install.sh", "--uninstall", "--unattended")
    kept = ("/var/lib/croft", "/etc/croft", "/var/log/croft")
    assert_same(before, snapshot(trixie), kept)
    assert trixie.do("stat", "-c", "%a %U", "/var/lib/croft").stdout.strip() == "700 root"
    trixie.do(*INSTALL)
    assert trixie.do("stat", "-c", "%U", "/var/lib/croft/workspace/mine").stdout.strip() == "workspace"
    assert serves(trixie)


def test_purge_leaves_nothing(trixie: Booted, before: dict[str, str]) -> None:
    trixie.do(*INSTALL[:1], "--uninstall", "--purge", "--unattended")
    assert_same(before, snapshot(trixie))


def in_memory(machine: Booted) -> str:
    """The packet filter's tables, and what is mounted under /run/croft."""
    tables = run("nsenter", "-t", str(machine.init), "-n", "nft", "list", "tables").stdout
    return tables + machine.do("grep", "-F", "/run/croft", "/proc/mounts", check=False).stdout


def start(machine: Booted) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        machine.command(*INSTALL), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def log(machine: Booted) -> str:
    return machine.do("cat", LOG, check=False).stdout
