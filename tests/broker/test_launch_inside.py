"""Runs in the IDE's container: its namespaces, its files, and no way back to the host's."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from pathlib import Path

import pytest

from appliance.broker.accounts import Account
from appliance.broker.launch import Launch, launch
from appliance.broker.spawn import enter
from appliance.errors import Invalid, Unavailable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces needs root; the root pass of CI runs this")


@pytest.fixture
def container(home, names, poll):
    """What an engine makes, from util-linux: a process of the workspace's user, its own namespaces and mounts."""
    user = names["workspace"]
    inner = home.folder / "inner"
    inner.mkdir()
    (home.folder / "host-secret").write_text("host")
    script = (
        f"mount -t tmpfs none {home.folder} && mkdir {inner}"
        f" && echo inside > {inner}/marker && mkdir {inner}/sub && ln -s / {inner}/out"
        f" && chown -R {user} {inner} && mount -t proc proc /proc && hostname inside-it"
        f" && exec setpriv --reuid {user} --regid {user} --clear-groups sleep 300"
    )
    process = subprocess.Popen(["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "sh", "-c", script])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    poll(lambda: children.read_text().split())
    pid = int(children.read_text())
    poll(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"))
    yield pid, str(inner), pwd.getpwnam(user)
    os.kill(pid, signal.SIGKILL)
    process.wait()


def output(container, *argv: str, cwd: str = ".") -> str:
    pid, folder, user = container
    inside = enter(pid, folder, user.pw_uid)
    read, write = os.pipe2(os.O_CLOEXEC)
    null, root = os.open("/dev/null", os.O_RDWR), os.open("/", os.O_PATH | os.O_DIRECTORY)
    account = Account(user.pw_name, user.pw_uid, user.pw_gid, (user.pw_gid,))
    try:
        child = launch(Launch(argv, root, null, write, null, account=account, inside=inside, cwd=cwd, env={}))
    finally:
        for fd in (write, null, root, inside.pidfd):
            os.close(fd)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    assert os.waitpid(child, 0)[1] == 0
    return said


def test_it_sees_the_container_and_nothing_of_the_host(container):
    pid, folder, _ = container
    assert output(container, "cat", "marker") == "inside\n"
    assert output(container, "hostname") == "inside-it\n"
    assert output(container, "pwd", "-P", cwd="sub") == f"{folder}/sub\n"
    assert output(container, "sh", "-c", "cd ..; ls") == "inner\n"  # where the host has host-secret
    for kind in ("mnt", "pid", "net", "ipc", "uts"):
        seen = output(container, "readlink", f"/proc/self/ns/{kind}").strip()
        assert seen == str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    assert int(output(container, "sh", "-c", "echo $$")) < 100
    assert output(container, "sh", "-c", "ls /proc/self/fd").split() == ["0", "1", "2", "3"]  # 3 is ls reading


def test_it_has_no_privilege_there_either(container):
    lines = output(container, "cat", "/proc/self/status").splitlines()
    status = dict(line.split(":\t") for line in lines if ":\t" in line)
    assert status["Uid"].split() == [str(container[2].pw_uid)] * 4
    assert {int(status[kind], 16) for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize("cwd", ["..", "out", "/proc", "gone"])
def test_its_folder_is_inside_the_workspace(container, cwd):
    with pytest.raises(Invalid, match="cannot open the folder"):
        output(container, "pwd", cwd=cwd)


def test_the_caller_stays_on_the_host(container):
    before = Path("/proc/self/ns/pid_for_children").stat().st_ino
    output(container, "true")
    with pytest.raises(Invalid):
        output(container, "no-such-program")
    assert Path("/proc/self/ns/pid_for_children").stat().st_ino == before == Path("/proc/self/ns/pid").stat().st_ino


def test_only_the_workspaces_own_container_is_entered(container, names):
    pid, folder, user = container
    with pytest.raises(Unavailable):
        enter(os.getpid(), folder, os.getuid())
    with pytest.raises(Unavailable):
        enter(pid, folder, pwd.getpwnam(names["daemon"]).pw_uid)
    with pytest.raises(Unavailable):
        enter(2**22 - 1, folder, user.pw_uid)
