"""`croft run`: streams, passes the status through, asks, and ends everything on Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.broker import Home
from support.daemon import Daemon
from support.processes import alive
from support.waiting import poll

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def daemon(shared_broker: Home):
    with Daemon.beside(shared_broker) as made:
        yield made


def croft(daemon: Daemon, *words: str, **how: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "appliance", "run", "--home", str(daemon.broker.folder), *words]
    return subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False, **how)


def test_output_and_status_pass_through(daemon):
    done = croft(daemon, "--", "echo", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")
    done = croft(daemon, "--yes", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert "err\n" in done.stderr
    assert 'runs   "sh" "-c" "echo out; echo err >&2; exit 7"' in done.stderr


def test_folder_and_json(daemon):
    inner = daemon.broker.paths.workspace / "inner"
    inner.mkdir()
    daemon.broker.give(inner)
    done = croft(daemon, "--cwd", "inner", "--yes", "--", "pwd")
    assert done.stdout.strip() == str(inner)
    done = croft(daemon, "--json", "--", "true")
    assert json.loads(done.stdout)["state"] == "done"
    done = croft(daemon, "--cwd", "../..", "--", "true")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the folder is not in the workspace" in done.stderr


def test_without_a_terminal_it_waits_for_a_decision(daemon):
    argv = [sys.executable, "-m", "appliance", "run", "--home", str(daemon.broker.folder), "--", "sh", "-c", "echo ran"]
    asking = subprocess.Popen(
        argv, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    poll(lambda: daemon.control.call("GET", "/api/approvals")["runs"], "it waits")
    (run,) = daemon.control.call("GET", "/api/approvals")["runs"]
    daemon.control.call("POST", f"/api/commands/{run['id']}/deny")
    out, err = asking.communicate(timeout=20)
    assert (asking.returncode, out) == (126, "")
    assert "waits for a decision" in err


@pytest.mark.parametrize(("said", "status"), [(b"y\n", 5), (b"n\n", 126), (b"\n", 126)])
def test_at_a_terminal_it_asks(daemon, said, status):
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "appliance", "run", "--home", str(daemon.broker.folder), "--", "sh", "-c", "exit 5"]
    asking = subprocess.Popen(argv, cwd=CHECKOUT, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.close(theirs)
    os.write(ours, said)
    asking.communicate(timeout=20)
    os.close(ours)
    assert asking.returncode == status


def test_ctrl_c_ends_everything(daemon):
    mark = f"44{os.getpid()}"
    argv = [sys.executable, "-m", "appliance", "run", "--home", str(daemon.broker.folder), "--yes", "--", "sh", "-c"]
    asking = subprocess.Popen([*argv, f"setsid -f sleep {mark}; sleep {mark}"], cwd=CHECKOUT, stderr=subprocess.DEVNULL)
    poll(lambda: len([line for line in alive(mark) if line.startswith("sleep")]) == 2, "both sleep")
    asking.send_signal(signal.SIGINT)
    assert asking.wait(20) == 128 + signal.SIGKILL
    assert [line for line in alive(mark) if line.startswith("sleep")] == []


def test_what_a_command_writes_does_not_drive_the_terminal(daemon):
    """WEB-15: only colours reach a terminal, nothing else; a pipe gets plain text."""
    script = r"printf '\033]0;title\007\033[31mred\033[0m\033[2J end\n'"
    assert croft(daemon, "--yes", "--", "sh", "-c", script).stdout == "red end\n"
    ours, theirs = pty.openpty()
    argv = [
        sys.executable,
        "-m",
        "appliance",
        "run",
        "--home",
        str(daemon.broker.folder),
        "--yes",
        "--",
        "sh",
        "-c",
        script,
    ]
    running = subprocess.Popen(argv, cwd=CHECKOUT, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    seen = bytearray()
    reading = threading.Thread(target=_read_all, args=(ours, seen))
    reading.start()
    assert running.wait(20) == 0
    reading.join(10)
    os.close(ours)
    assert bytes(seen) == b"\x1b[31mred\x1b[0m end\r\n"


def _read_all(fd: int, seen: bytearray) -> None:
    try:
        while data := os.read(fd, 4096):
            seen += data
    except OSError:
        return  # a terminal whose other end is closed
