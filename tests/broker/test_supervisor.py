"""`croft serve` without systemd: what it starts, what it restarts, and that nothing stays when it ends."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from appliance.errors import Unavailable

HTTP = 21380


@pytest.fixture
def supervised(home, names, poll):
    """A supervisor in a process of its own, with the stand-in daemon copied where its user can read it."""
    home.configure(proxy__http_port=HTTP, proxy__https_port=21343, proxy__bind="127.0.0.1", proxy__tls="off")
    starts = home.folder / "starts"
    starts.touch()
    starts.chmod(0o666)
    code = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from appliance import settings
        from appliance.broker import supervisor
        home = Path({str(home.folder)!r})
        sys.exit(supervisor.run(settings.load(settings.Paths.under(home)), home, daemon=({str(_standin(home))!r},)))
    """)
    process = subprocess.Popen([sys.executable, "-c", code])
    made = Supervised(home, process)
    poll(made.broker_pid, what="a broker")
    yield made
    if process.poll() is None:
        process.terminate()
        process.wait(25)


def _standin(home) -> Path:
    copy = home.folder / "standin.py"
    copy.write_bytes(Path(__file__).with_name("standin_daemon.py").read_bytes())
    copy.chmod(0o644)
    return copy


class Supervised:
    def __init__(self, home, process) -> None:
        self.home = home
        self.process = process

    def starts(self) -> list[dict]:
        return [json.loads(line) for line in (self.home.folder / "starts").read_text().splitlines()]

    def broker_pid(self) -> int:
        try:
            return self.home.call("hello").data["pid"]
        except Unavailable:
            return 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def may_lower_oom_score() -> bool:
    """CAP_SYS_RESOURCE, which root lacks in many containers."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(line.split()[1], 16) >> 24 & 1)


def answers() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", HTTP)) == 0


def test_it_starts_both_the_daemon_without_any_privilege(supervised, poll):
    (row,) = poll(supervised.starts, what="a daemon")
    assert alive(supervised.broker_pid())
    assert row["nnp"] == "1"
    if supervised.home.switching:
        web = (supervised.home.paths.run / "web").stat()
        assert row["uid"] == web.st_uid != 0
        assert web.st_gid in row["groups"]
        assert int(row["cap_bnd"], 16) == 0
        protected = Path(f"/proc/{row['pid']}/oom_score_adj").read_text().strip()
        assert protected == ("-500" if may_lower_oom_score() else Path("/proc/self/oom_score_adj").read_text().strip())
        assert set(row["env"]) <= {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM", "NO_COLOR"}


def test_services_outlive_the_daemon_and_the_broker(supervised, poll):
    (row,) = poll(supervised.starts)
    pid = supervised.home.call("start", service="proxy").data["pid"]
    poll(answers)
    os.kill(row["pid"], signal.SIGKILL)
    assert len(poll(lambda: supervised.starts()[1:], what="a second daemon")) == 1
    assert alive(pid)
    first = supervised.broker_pid()
    os.kill(first, signal.SIGKILL)
    poll(lambda: supervised.broker_pid() not in (0, first), what="a second broker")
    assert supervised.home.row("proxy")["pid"] == pid
    assert answers()


def test_a_part_that_keeps_dying_is_restarted_more_and_more_slowly(supervised, poll):
    times = []
    for number in range(3):
        row = poll(lambda number=number: supervised.starts()[number:], seconds=20)[0]
        times.append(time.monotonic())
        os.kill(row["pid"], signal.SIGKILL)
    assert times[2] - times[1] >= 0.5
    assert alive(supervised.process.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_takes_everything_down_within_20_seconds(supervised, poll, number):
    (row,) = poll(supervised.starts)
    pids = [row["pid"], supervised.broker_pid(), supervised.home.call("start", service="proxy").data["pid"]]
    poll(answers)
    began = time.monotonic()
    supervised.process.send_signal(number)
    assert supervised.process.wait(25) == 0
    assert time.monotonic() - began < 20
    assert not any(alive(pid) for pid in pids)


FILL = """
import os, sys
os.setresuid(*[int(sys.argv[2])] * 3)
count = written = 0
try:
    while count < 1000:
        with open(f"{sys.argv[1]}/{count}", "wb", buffering=0) as file:
            count += 1
            while written < 64 << 20:
                written += file.write(b"x" * 65536)
except OSError as error:
    print(error.strerror, count, written)
"""


def test_the_workspace_cannot_fill_run_through_the_folder_of_its_socket(supervised, poll):
    """DECIDED 8: made before anything starts, the same for as long as anything runs."""
    poll(supervised.starts)
    folder = supervised.home.paths.socket("ide").parent
    if not supervised.home.switching:
        assert not folder.is_mount()
        return
    before, around = folder.stat(), folder.parent.stat()
    assert before.st_dev != around.st_dev
    assert (before.st_uid, before.st_mode & 0o7777) == (pwd.getpwnam(supervised.home.names["workspace"]).pw_uid, 0o2750)
    words = [sys.executable, "-I", "-c", FILL, str(folder), str(before.st_uid)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.startswith("No space left on device")
    assert int(said.split()[-1]) <= 1 << 20
    first = supervised.broker_pid()
    os.kill(first, signal.SIGKILL)
    poll(lambda: supervised.broker_pid() not in (0, first), what="a second broker")
    assert (folder.stat().st_dev, folder.stat().st_ino) == (before.st_dev, before.st_ino)
    supervised.process.terminate()
    supervised.process.wait(25)
    assert not folder.is_mount()


def test_killed_outright_it_still_takes_everything_along(supervised, poll):
    (row,) = poll(supervised.starts)
    pids = [row["pid"], supervised.broker_pid(), supervised.home.call("start", service="proxy").data["pid"]]
    poll(answers)
    supervised.process.kill()
    supervised.process.wait()
    poll(lambda: not any(alive(pid) for pid in pids), seconds=20, what="the end of all parts")


def test_no_zombies_gather(supervised, poll):
    poll(supervised.starts)
    pid = supervised.home.call("start", service="proxy").data["pid"]
    first = supervised.broker_pid()
    os.kill(first, signal.SIGKILL)
    poll(lambda: supervised.broker_pid() not in (0, first))
    supervised.home.call("stop", service="proxy")
    poll(lambda: not Path(f"/proc/{pid}").exists(), what="the service to be reaped by the supervisor")


def test_a_broker_that_can_never_start_ends_it_with_a_status(home):
    home.configure()
    home.paths.state.mkdir()
    (home.folder / "elsewhere").mkdir()
    home.paths.workspace.symlink_to(home.folder / "elsewhere")
    code = (
        "import sys; from pathlib import Path\n"
        "from appliance import settings; from appliance.broker import supervisor\n"
        f"home = Path({str(home.folder)!r})\n"
        f"sys.exit(supervisor.run(settings.load(settings.Paths.under(home)), home))"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=30, capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot use the folder" in done.stderr
