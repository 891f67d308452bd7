"""Runs: who they are, what they cannot do, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time

import pytest
from support.broker import groups
from support.processes import alive

from appliance.broker.client import BrokerError

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="changing user needs root; the same checks run in the root pass of CI"
)


async def test_a_run_reports_output_exit_and_usage(client):
    event, out, err = await client.run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (out, err, event["exit_code"], event["signal"], event["reason"]) == ("out\n", "err\n", 3, None, "exit")
    assert 0 < event["usage"]["wall"] < 10
    assert event["usage"]["maxrss_bytes"] > 0
    assert event["usage"]["memory_peak_bytes"] > 0


async def test_standard_input_is_a_pipe_only_when_asked_for(client):
    reply = await client.call("spawn", argv=["cat"], stdin="pipe")
    pidfd, out, err, into = reply.fds
    os.write(into, b"hello")
    os.close(into)
    assert await asyncio.to_thread(os.read, out, 100) == b"hello"
    for fd in (pidfd, out, err):
        os.close(fd)
    _, said, _ = await client.run("sh", "-c", "read x; echo got:$x")
    assert said == "got:\n"


@needs_root
async def test_a_run_has_no_privilege_at_all(client, broker):
    """SYS-1, SYS-2: uid, groups, capabilities and no_new_privs as the kernel sees them from inside."""
    _, out, _ = await client.run("cat", "/proc/self/status")
    status = dict(line.split(":\t", 1) for line in out.splitlines() if ":\t" in line)
    uid, gid = broker.paths.workspace.stat().st_uid, broker.paths.workspace.stat().st_gid
    assert status["Uid"].split() == [str(uid)] * 4
    assert status["Gid"].split() == [str(gid)] * 4
    assert status["Groups"].split() in ([], [str(gid)])
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert status["NoNewPrivs"] == "1"
    _, out, _ = await client.run("sh", "-c", "ls /proc/self/fd; ulimit -c; cat /proc/self/oom_score_adj; umask")
    assert out.split() == ["0", "1", "2", "3", "0", "500", "0022"]  # 3 is ls reading the folder


async def test_no_signal_is_left_ignored_or_blocked(client):
    _, out, _ = await client.run("cat", "/proc/self/status")
    masks = {
        line.split(":")[0]: int(line.split()[1], 16)
        for line in out.splitlines()
        if line.startswith(("SigBlk", "SigIgn"))
    }
    assert masks == {"SigBlk": 0, "SigIgn": 0}


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "GIT_SSH_COMMAND",
        "GIT_CONFIG_COUNT",
        "NODE_OPTIONS",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "BASH_ENV",
        "ENV",
        "PAGER",
        "GIT_PAGER",
        "MANPAGER",
        "EDITOR",
        "IFS",
        "HOME",
        "SHELL",
        "PERL5OPT",
        "CROFT_RUN",
        "PATH",
    ],
)
async def test_variables_that_run_or_load_something_are_refused(client, name):
    with pytest.raises(BrokerError) as caught:
        await client.call("spawn", argv=["true"], env={name: "/tmp/evil"})
    assert caught.value.code == "env_refused"


async def test_the_environment_is_made_from_nothing(client, broker):
    given = {
        "LANG": "ar_EG.UTF-8",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
        "TERM": "dumb",
        "PATH": "/usr/bin:/bin",
    }
    _, out, _ = await client.run("env", env=given)
    seen = dict(line.split("=", 1) for line in out.splitlines())
    run = seen.pop("CROFT_RUN")
    assert run.startswith("run-")
    workspace = broker.names["workspace"]
    assert seen == given | {
        "HOME": str(broker.paths.ide_home),
        "USER": workspace,
        "LOGNAME": workspace,
        "SHELL": "/bin/sh",
    }


async def test_the_folder_is_inside_the_workspace(client, broker):
    inner = broker.paths.workspace / "inner"
    inner.mkdir()
    for cwd, expected in ((".", broker.paths.workspace), ("inner", inner), ("inner/..", broker.paths.workspace)):
        _, out, _ = await client.run("pwd", "-P", cwd=cwd)
        assert out.strip() == str(expected)


@pytest.mark.parametrize(
    "cwd", ["..", "inner/../..", "/", "/etc", "out", "proc", "deep", "link", "file", "gone", "/proc/self/cwd"]
)
async def test_no_folder_outside_the_workspace(client, broker, cwd):
    """Links, dots that lead out, absolute paths and magic links all end in a refusal, and no process is left."""
    workspace = broker.paths.workspace
    (workspace / "inner").mkdir()
    (workspace / "link").symlink_to("inner")
    (workspace / "file").touch()
    (workspace / "out").symlink_to("/etc")
    (workspace / "proc").symlink_to("/proc/self/root")
    (workspace / "deep").symlink_to("inner/../../../etc")
    with pytest.raises(BrokerError, match="cannot open the folder") as caught:
        await client.call("spawn", argv=["pwd"], cwd=cwd)
    assert caught.value.code == "cannot_run"
    assert groups(broker) == []


async def test_a_folder_swapped_for_a_link_gains_nothing(client, broker):
    """The check and the use are one kernel call: whoever swaps ``work`` meanwhile sees a run inside or none."""
    workspace, done = broker.paths.workspace, threading.Event()
    for name in ("real", "work"):
        (workspace / name).mkdir()
    (workspace / "evil").symlink_to("/etc")

    def swap() -> None:
        work, side = workspace / "work", workspace / "side"
        while not done.is_set():
            work.rename(side)
            (workspace / "evil").rename(work)
            work.rename(workspace / "evil")
            side.rename(work)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        inside = 0
        for _ in range(60):
            try:
                _, out, _ = await client.run("pwd", "-P", cwd="work")
            except BrokerError:
                continue
            assert out.strip().startswith(str(workspace)), out
            inside += 1
    finally:
        done.set()
        thread.join()
    assert inside


@pytest.mark.parametrize(
    "argv", [["./x"], ["bin/x"], ["../x"], [""], ["no-such-program"], ["/no/such"], ["/etc/passwd"]]
)
async def test_a_program_is_absolute_or_a_name_on_the_fixed_path(client, broker, argv):
    broker.workspace_file("x", "#!/bin/sh\n")
    with pytest.raises(BrokerError):
        await client.call("spawn", argv=argv)
    assert groups(broker) == []


async def test_the_broker_enforces_the_time_limit_on_the_whole_tree(client):
    mark = f"31{os.getpid()}"
    event, _, _ = await client.run("sh", "-c", f"sleep {mark} & sleep {mark}", limits={"seconds": 1})
    assert (event["reason"], event["signal"]) == ("timeout", 9)
    assert 0.9 < event["usage"]["wall"] < 5
    assert alive(mark) == []


async def test_what_a_run_leaves_behind_dies_with_it(client, broker):
    """Daemonised with a session of its own, without environment, with the pipes closed: the cgroup still holds it."""
    mark = f"32{os.getpid()}"
    event, _, _ = await client.run("sh", "-c", f"setsid -f env -i sleep {mark} >/dev/null 2>&1 </dev/null; exit 0")
    assert event["exit_code"] == 0
    assert alive(mark) == []
    assert groups(broker) == []


async def test_a_fork_bomb_is_bounded_and_ends(client, broker):
    script = broker.workspace_file("bomb.sh", "#!/bin/sh\nwhile :; do setsid /bin/sh $0 & done 2>/dev/null\n")
    event, _, _ = await client.run("sh", str(script), limits={"pids": 40, "seconds": 2})
    assert event["reason"] in ("timeout", "exit")
    assert event["usage"]["pids_refused"] > 0
    assert alive(str(script)) == []
    assert groups(broker) == []
    assert broker.call("hello").data["pid"] == broker.pid


async def test_memory_is_bounded(client):
    code = "x = b'x' * (300 << 20); print('survived')"
    event, out, _ = await client.run("/usr/bin/python3", "-c", code, limits={"memory_mb": 64})
    assert (out, event["reason"], event["signal"]) == ("", "oom", 9)
    assert event["usage"]["memory_peak_bytes"] <= 64 << 20


async def test_kill_takes_everything_and_other_signals_only_the_first(client, poll):
    mark = f"33{os.getpid()}"
    reply = await client.call(
        "spawn", argv=["sh", "-c", f"setsid sleep {mark} & trap 'exit 7' TERM; while :; do sleep 0.05; done"]
    )
    poll(lambda: alive(mark))
    await client.call("kill", run=reply.data["run"], signal=9)
    event = await client.event(run=reply.data["run"])
    assert (event["reason"], event["signal"]) == ("killed", 9)
    assert alive(mark) == []
    second = await client.call(
        "spawn", argv=["sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"]
    )
    await asyncio.to_thread(os.read, second.fds[1], 100)
    await client.call("kill", run=second.data["run"], signal=15)
    assert (await client.event(run=second.data["run"]))["exit_code"] == 7
    for fd in (*reply.fds, *second.fds):
        os.close(fd)


async def test_stages_are_joined_and_each_status_is_reported(client):
    """POL-15: pipes of ours, one standard error, and the status of every stage."""
    stages = [["sh", "-c", "echo b; echo a; echo no >&2; exit 3"], ["sort"], ["sh", "-c", "cat; exit 5"]]
    event, out, err = await client.run(stages=stages)
    assert (out, err) == ("a\nb\n", "no\n")
    assert [one["exit_code"] for one in event["stages"]] == [3, 0, 5]
    assert (event["exit_code"], event["reason"]) == (5, "exit")
    event, _, _ = await client.run(stages=[["false"], ["cat"]])
    assert event["exit_code"] == 1


async def test_a_stage_that_nobody_reads_on_did_not_fail(client):
    event, out, _ = await client.run(stages=[["yes"], ["head", "-n", "1"]])
    assert (out, event["exit_code"], event["signal"]) == ("y\n", 0, None)
    assert event["stages"] == [{"exit_code": None, "signal": 13}, {"exit_code": 0, "signal": None}]


async def test_a_pipeline_is_one_run_with_one_end(client, broker):
    """It lasts until its last stage has ended, and what it leaves behind dies with it."""
    mark = f"37{os.getpid()}"
    script = f"setsid -f env -i sleep {mark} >/dev/null 2>&1; exec sleep 0.4"
    event, _, _ = await client.run(stages=[["true"], ["sh", "-c", script], ["true"]])
    assert event["usage"]["wall"] >= 0.4
    assert alive(mark) == []
    event, _, _ = await client.run(stages=[["sleep", mark], ["sleep", mark]], limits={"seconds": 1})
    assert (event["reason"], [one["signal"] for one in event["stages"]]) == ("timeout", [9, 9])
    assert alive(mark) == []
    assert groups(broker) == []


async def test_a_pipeline_with_a_missing_program_starts_nothing(client, broker):
    for stages in (
        [["touch", "made"], ["no-such-program"], ["cat"]],
        [["touch", "made"], ["cat"], ["no-such-program"]],
    ):
        with pytest.raises(BrokerError) as caught:
            await client.call("spawn", stages=stages)
        assert caught.value.code == "cannot_run"
    assert not (broker.paths.workspace / "made").exists()
    assert groups(broker) == []


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"argv": ["true"], "stages": [["true"]]},
        {"stages": []},
        {"stages": [[]]},
        {"stages": [["true"]] * 9},
        {"stages": [["true"], ["bin/x"]]},
        {"stages": ["true"]},
        {"argv": ["true"], "run": "run-x"},
        {"argv": ["true"], "run": "../run-0123456789abcdef"},
        {"argv": ["true"], "expected": {"folder": "1-1"}},
        {"argv": ["true"], "expected": {"folder": "1-1", "programs": ["a", "b"]}},
    ],
)
async def test_a_malformed_pipeline_is_refused(client, more):
    with pytest.raises(BrokerError) as caught:
        await client.call("spawn", **more)
    assert caught.value.code == "invalid"


async def test_the_caller_may_name_a_run_once(client):
    name = "run-00000000000000ab"
    event, _, _ = await client.run("true", run=name)
    assert event["run"] == name
    with pytest.raises(BrokerError) as caught:
        await client.call("spawn", argv=["true"], run=name)
    assert caught.value.code == "exists"


async def test_an_approved_folder_and_program_are_checked_by_the_child(client, broker):
    """POL-10: what is started is, by device and inode, what was looked at."""
    workspace = broker.paths.workspace
    (workspace / "here").mkdir()
    script = broker.workspace_file("tool", "#!/bin/sh\necho one\n")
    argv = [str(script)]
    seen = await fingerprint(client, argv, "here")
    _, out, _ = await client.run(*argv, cwd="here", expected=seen)
    assert out == "one\n"
    script.rename(workspace / "old")
    broker.workspace_file("tool", "#!/bin/sh\necho two\n")
    await refused_as_changed(client, argv=argv, cwd="here", expected=seen)
    seen = await fingerprint(client, argv, "here")
    (workspace / "here").rename(workspace / "there")
    (workspace / "here").mkdir()
    await refused_as_changed(client, argv=argv, cwd="here", expected=seen)
    await refused_as_changed(client, stages=[argv, ["cat"]], expected={"folder": seen["folder"], "programs": ["", ""]})
    assert groups(broker) == []


async def fingerprint(client, programs: list[str], cwd: str = ".") -> dict[str, object]:
    reply = await client.call("fingerprint", programs=programs, cwd=cwd)
    with os.fdopen(reply.fds[0], "rb") as pipe:
        return json.loads(await asyncio.to_thread(pipe.read))


async def refused_as_changed(client, **request: object) -> None:
    with pytest.raises(BrokerError) as caught:
        await client.call("spawn", **request)
    assert caught.value.code == "changed"


async def test_freeze_and_thaw(client, poll):
    reply = await client.call("spawn", argv=["sh", "-c", "while :; do echo x; sleep 0.02; done"])
    pidfd, out, err = reply.fds
    os.set_blocking(out, False)
    await client.call("freeze", run=reply.data["run"])
    poll(lambda: _quiet(out), what="silence")
    await client.call("thaw", run=reply.data["run"])
    poll(lambda: _readable(out), what="output after thawing")
    await client.call("freeze", run=reply.data["run"])
    await client.call("kill", run=reply.data["run"])
    assert (await client.event(run=reply.data["run"]))["signal"] == 9
    for fd in (pidfd, out, err):
        os.close(fd)


def _readable(fd: int) -> bool:
    try:
        return bool(os.read(fd, 65_536))
    except BlockingIOError:
        return False


def _quiet(fd: int) -> bool:
    """Nothing comes for 0.3 seconds."""
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        if _readable(fd):
            return False
    return True


async def test_the_number_of_runs_is_bounded(client):
    replies = [await client.call("spawn", argv=["sleep", "60"]) for _ in range(16)]
    with pytest.raises(BrokerError) as caught:
        await client.call("spawn", argv=["true"])
    assert caught.value.code == "too_many_requests"
    for reply in replies:
        await client.call("kill", run=reply.data["run"])
        await client.event(run=reply.data["run"])
        for fd in reply.fds:
            os.close(fd)
    assert (await client.call("runs")).data["runs"] == []
