"""What a taken-over daemon or workspace may try to stop the broker: it answers on, and the machine keeps its services."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from appliance.broker import bundle, command, launch, protocol, proxy_root
from appliance.broker.cgroups import Hierarchy
from appliance.broker.client import BrokerError
from appliance.broker.engine import Call, EngineGone, connect
from appliance.broker.images import Ledger
from appliance.broker.processes import Process, Processes
from appliance.broker.project import Project
from appliance.errors import Invalid

# PTRACE_SEIZE by a process that never waits: what it traces stays a zombie that its own parent cannot collect.
HOLD = """\
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
print(libc.ptrace(0x4206, int(sys.argv[1]), 0, 0), flush=True)
time.sleep(60)
"""
# PR_SET_PTRACER_ANY, where Yama asks for it.
ALLOW = """\
import ctypes, time
ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(2**64 - 1), 0, 0, 0)
print(1, flush=True)
time.sleep(60)
"""


def descriptors(broker) -> int:
    return len(list(Path(f"/proc/{broker.pid}/fd").iterdir()))


def at_rest(broker) -> int:
    """How many it has once it has let go of whoever asked last: the same number for half a second."""
    seen = [0]
    while len(seen) < 11 or len(set(seen[-11:])) > 1:
        seen.append(descriptors(broker))
        time.sleep(0.05)
    return seen[-1]


def line_of(fd: int) -> bytes:
    return os.read(fd, 100).strip()


def test_a_tracer_that_keeps_a_zombie_does_not_hold_the_broker_up(broker, poll):
    """EXEC-5: waiting for a traced run would stop every service's supervision until its tracer lets go."""
    victim = broker.call("spawn", argv=["python3", "-c", ALLOW])
    assert line_of(victim.fds[1]) == b"1"
    tracer = broker.call("spawn", argv=["python3", "-c", HOLD, str(victim.data["pid"])])
    assert line_of(tracer.fds[1]) == b"0", "this kernel let nobody trace"
    broker.call("kill", run=victim.data["run"])
    poll(lambda: Path(f"/proc/{victim.data['pid']}/stat").read_text().split()[2] == "Z")
    for _ in range(5):
        assert broker.call("hello").data["pid"] == broker.pid
    broker.call("kill", run=tracer.data["run"])
    poll(lambda: broker.call("runs").data["runs"] == [], what="both runs gone")
    ends = {row["run"]: row["signal"] for row in broker.call("runs").data["ended"]}
    assert ends == {victim.data["run"]: 9, tracer.data["run"]: 9}
    for fd in (*victim.fds, *tracer.fds):
        os.close(fd)


STOP_ALL = """\
import contextlib, os, signal
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) != os.getpid():
        with contextlib.suppress(OSError):
            os.kill(int(name), signal.SIGSTOP)
print(1, flush=True)
"""


@pytest.mark.skipif(
    os.geteuid() != 0, reason="as a person it would stop that person's own processes, these tests included"
)
@pytest.mark.parametrize("op", ["files", "rehearsal"])
def test_helpers_that_a_run_has_stopped_keep_nobody_out(broker, poll, op):
    """SYS-5: a run may stop every process of its account; nobody would wake helpers, nor would their callers' leaving end them."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(BrokerError):
            while True:  # as many as there may be
                held.callback(os.close, broker.call(op).fds[0])
        run = broker.call("spawn", argv=["python3", "-c", STOP_ALL])
        assert line_of(run.fds[1]) == b"1"
        for fd in run.fds:
            os.close(fd)

    def helper() -> int | None:
        try:
            return broker.call(op).fds[0]
        except BrokerError:
            return None

    os.close(poll(helper, what="another helper"))


def test_a_client_that_takes_no_answers_holds_few_descriptors_of_the_broker(broker, poll):
    """SYS-5: sixteen clients that ask for descriptors and never read must not use all of the broker's up."""
    (broker.paths.log / "ide.log").touch()
    before = at_rest(broker)
    packet = protocol.encode({"id": 1, "op": "logs", "service": "ide"})
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            client.settimeout(0.5)
            client.connect(str(broker.socket))
            with contextlib.suppress(TimeoutError):
                for _ in range(2000):
                    client.sendall(packet)
        assert broker.call("hello").data["pid"] == broker.pid
        assert descriptors(broker) - before < 8 * 5
    poll(lambda: descriptors(broker) == before, what="everything let go of")


def test_the_daemon_cannot_put_another_folder_in_place_of_the_models(broker, names):
    """SYS-2: what a container mounts, or the broker needs at its start, only root may rename."""
    if os.geteuid() != 0:
        return  # there is one account only, so there is nobody to keep out
    folder = broker.paths.state / "models"
    script = "import os, sys; open(sys.argv[1] + '/a', 'x'); os.rename(sys.argv[1], sys.argv[1] + '-gone')"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(folder)],
        user=names["daemon"],
        group=names["daemon"],
        extra_groups=[names["ai"]],
        capture_output=True,
    )
    assert b"PermissionError" in done.stderr
    assert (folder / "a").exists()
    assert not folder.is_symlink()


def test_a_full_file_system_does_not_end_the_broker(monkeypatch, tmp_path, capsys):
    """R16: the copy of a certificate for `curl` is tried again; services are not lost over it."""
    settings = type("Some", (), {})()
    settings.paths = type("Paths", (), {"caddy_data": tmp_path, "proxy_root": tmp_path / "missing" / "root.crt"})()
    place = tmp_path / "caddy/pki/authorities/local"
    place.mkdir(parents=True)
    (place / "root.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    publisher = proxy_root.ProxyRoot(settings)
    assert 0 < publisher.pump() <= 2
    assert "cannot publish" in capsys.readouterr().err
    (tmp_path / "missing").mkdir()
    monkeypatch.setattr(proxy_root.time, "monotonic", lambda: time.time() + 10)
    publisher._next = 0.0
    publisher.pump()
    assert (tmp_path / "missing/root.crt").read_text().startswith("-----BEGIN")


def test_a_program_that_only_closes_its_output_is_ended_in_time():
    """EXEC-5: `systemctl` and `caddy validate` are waited for as long as was said, and no longer."""
    began = time.monotonic()
    words = ("/bin/sh", "-c", "exec >/dev/null 2>&1; sleep 30")
    assert command.run(words, seconds=0.5) == (-signal.SIGKILL, "")
    assert time.monotonic() - began < 5
    assert command.run(("/bin/sh", "-c", "echo said; exit 3"), seconds=5) == (3, "said\n")


def test_a_shortage_of_descriptors_is_told_as_the_engine_being_gone(tmp_path):
    """An OSError from here would leave the broker's loop by a callback and end it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first_free = os.dup(0)
    os.close(first_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, hard))
    try:
        with pytest.raises(EngineGone):
            connect(tmp_path / "engine.sock")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


HIDDEN = "none HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\r\nPOST /containers/create HTTP/1.1\r\n"


@pytest.mark.parametrize("tag", [HIDDEN, "one two", "one\n", "eins\u0085"])
def test_no_second_request_hides_in_a_name(tag):
    """SYS-2: whoever has a name's ear would have the engine's, which is root's."""
    with pytest.raises(EngineGone):
        Call(Path("/nonexistent"), "POST", f"/images/create?fromImage=x&tag={tag}")


@pytest.mark.parametrize(
    "lie",
    [
        {"digest": HIDDEN},
        {"digest": "latest&fromSrc=https://example.org/x"},
        {"repository": "x/../../containers"},
        {"repository": "../containers"},
        {"version": "1&platform=x"},
        {"previous": "sha256:" + "b" * 64},
        {"digest": None},
        {"id": 7},
    ],
)
def test_a_bundle_whose_words_are_none_of_an_image_is_refused(tmp_path, lie):
    """SYS-2, SUP-2: the broker asks the engine by these words at the next pull."""
    row = {"id": "sha256:" + "a" * 64, "repository": "example/ai", "version": "1.0", "digest": ""} | lie
    content, file = json.dumps({"images": {"ai": row}}).encode(), tmp_path / "bundle.tar"
    with tarfile.open(file, "w:") as tar:
        entry = tarfile.TarInfo("croft.json")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    with pytest.raises(Invalid, match="names no images, or ones"):
        bundle.load(file, Ledger(tmp_path / "images.json"), bundle.Engine(tmp_path / "no.sock"))


def test_a_write_that_the_disk_takes_in_part_is_no_success(tmp_path):
    """FILE-4: half a file under its own name would be a lost one."""
    (tmp_path / "kept").write_text("old")
    script = (
        "import base64, os, resource, sys; from appliance.broker.files_helper import Helper;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10));"
        "helper = Helper(os.open(sys.argv[1], os.O_PATH));"
        "helper.write([], 'kept', data=base64.b64encode(b'x' * 100).decode(), mode='replace')"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script, str(tmp_path)], capture_output=True)
    assert b"OSError: [Errno 27]" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "old"


def test_signals_to_what_has_ended_go_nowhere(tmp_path):
    """An adopted process that ended while no broker watched has no pidfd to signal."""
    with selectors.DefaultSelector() as selector:
        processes = Processes(tmp_path / "processes.json", Hierarchy({}), selector)
        process = Process("run-1", "run", 1 << 22, 1, 0.0, None, child=False)
        processes._adopt_remains(process)
        processes.stop(process, 10, "stopped")
        processes.pump()
        assert not processes


@pytest.mark.parametrize("cut", ["", "0123"])
def test_a_key_that_a_full_disk_cut_off_is_made_anew(tmp_path, cut):
    """R16: an empty key would be refused by Compose at every start from then on."""
    project = object.__new__(Project)
    project.state = tmp_path
    (tmp_path / "ai.key").write_text(cut)
    made = project.ai_key()
    assert len(made) == 64
    assert project.ai_key() == made


def test_a_child_that_cannot_die_yet_is_collected_later(poll):
    """EXEC-5: a program that hangs in a file system of the workspace's making must not hang the broker."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"], {})
    tracer = subprocess.Popen([sys.executable, "-c", HOLD, str(pid)], stdout=subprocess.PIPE)
    assert tracer.stdout is not None
    with tracer:
        if tracer.stdout.readline().strip() != b"0":
            tracer.kill()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.skip("only ancestors may trace here (Yama); the root pass of CI runs this")
        began = time.monotonic()
        launch.end(pid)
        assert time.monotonic() - began < 5
        assert pid in launch._UNCOLLECTED
        tracer.kill()
    other = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    launch.end(other)
    assert not launch._UNCOLLECTED & {pid, other}


def test_what_cannot_be_watched_does_not_run_on(tmp_path, monkeypatch):
    """EXEC-5: out of descriptors, a run that was just started would otherwise have no end."""
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})

    def none_left(pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with selectors.DefaultSelector() as selector:
        processes = Processes(tmp_path / "processes.json", Hierarchy({}), selector)
        monkeypatch.setattr(os, "pidfd_open", none_left)
        with pytest.raises(OSError, match="Too many"):
            processes.add(Process("run-1", "run", pid, 0, 0.0, None))
        assert not processes
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


def test_a_line_of_the_record_that_did_not_fit_is_written_again(tmp_path, poll):
    """R16: a disk that takes half of a line may have room for a record without the runs that have ended since."""
    record = tmp_path / "processes.json"
    with selectors.DefaultSelector() as selector, selectors.DefaultSelector() as other:
        processes, following = Processes(record, Hierarchy({}), selector), Processes(record, Hierarchy({}), other)

        def start(name: str) -> Process:
            pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
            process = Process(name, "run", pid, 0, 0.0, None)
            processes.add(process)
            return process

        first, _ = start("run-1"), start("run-2")
        first.send(signal.SIGKILL)
        poll(lambda: turned(selector, processes).get("run-1") is None)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (record.stat().st_size + 20, before[1]))
        try:
            start("run-3")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        following.adopt()
        found = {process.id for process in following.of_kind("run")}
        for broker, its in ((following, other), (processes, selector)):
            for process in broker.of_kind("run"):
                broker.stop(process, 0, "killed")
            poll(lambda broker=broker, its=its: not turned(its, broker))
    assert found == {"run-2", "run-3"}


def turned(selector: selectors.BaseSelector, processes: Processes) -> Processes:
    """After one turn of the broker's loop."""
    for key, mask in selector.select(0):
        key.data(mask)
    processes.pump()
    return processes
