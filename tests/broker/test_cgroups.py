"""Both generations of cgroups, on whichever trees this machine has mounted, and the reading of its mount table."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
from pathlib import Path

import pytest

from appliance.broker import cgroups
from appliance.broker.cgroups import Group, Hierarchy, Limits
from appliance.broker.launch import Launch, launch
from appliance.broker.processes import Process, Processes
from appliance.broker.spawn import fresh_group

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="writing cgroups needs root; the root pass of CI runs this")

V1 = """
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 /docker/x /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
""".strip()
OWN = """
8:memory:/user
6:freezer:/docker/x/inner
1:cpu,cpuacct:/
0::/
""".strip()


def test_the_mount_table_is_read_as_the_kernel_writes_it():
    found = dict(cgroups._own_folders(V1, OWN))
    assert found["memory"] == Path("/sys/fs/cgroup/memory/user")
    assert found["cpu"] == found["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert found["freezer"] == Path("/sys/fs/cgroup/freezer/inner")
    assert found["unified"] == Path("/sys/fs/cgroup/unified")


def test_without_cgroups_nothing_is_claimed():
    hierarchy = cgroups.detect("croft-none", mounts="", own="0::/")
    assert (hierarchy.limits, hierarchy.contains, hierarchy.create("x")) == (False, False, None)


def test_limits_in_both_languages():
    limits = Limits(memory_mb=64, cpus=0.5, pids=10, swap=False)
    assert dict(cgroups._v2(limits)) == {
        "memory.max": str(64 << 20),
        "memory.swap.max": "0",
        "cpu.max": "50000 100000",
        "pids.max": "10",
    }
    assert dict(cgroups._v1(limits))["memory.memsw.limit_in_bytes"] == str(64 << 20)
    assert dict(cgroups._v1(Limits())) == dict(cgroups._v2(Limits())) == {}


V2_MEMORY = "anon 800\nactive_file 30\ninactive_file 40\nslab_reclaimable 30\nfile_mapped 20\n"


@pytest.mark.parametrize(("current", "written"), [(900 << 20, True), (1100 << 20, False)])
def test_on_v2_a_limit_is_written_only_once_all_fits_below_it(tmp_path, current, written):
    """SYS-5: the kernel would end processes for it otherwise. The folder stands for a group; what a real one gives back is not seen."""
    for name, text in {"memory.current": f"{current}\n", "memory.max": "max\n", "memory.high": "max\n"}.items():
        (tmp_path / name).write_text(text)
    group = Group({"unified": tmp_path})
    assert group.limit_memory(1000) is written
    assert group.memory_limit() == (1000 << 20 if written else None)
    assert (tmp_path / "memory.high").read_text().startswith("max"), "nobody is slowed down afterwards"


def test_what_is_held_is_all_but_the_file_cache_that_nobody_has_mapped(tmp_path):
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.stat").write_text(V2_MEMORY)
    assert Group({"unified": tmp_path}).memory_held() == 1000 - 30 - 40 - 30 + 20
    assert Group({"freezer": tmp_path}).memory_held() is None, "nobody counts there"


def trees() -> list[str]:
    return ["v1", "v2"]


@pytest.fixture(params=trees())
def hierarchy(request):
    """A base in the tree of that generation; where the machine lacks one, the case says so."""
    name = f"croft-test-{os.getpid()}"
    if request.param == "v1":
        found = cgroups.detect(name)
        if "freezer" not in found.bases:
            pytest.skip("not run here: this machine has no cgroup v1 tree")
    else:
        places = dict(
            cgroups._own_folders(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
        )
        if "unified" not in places:
            pytest.skip("not run here: this machine has no cgroup v2 tree")
        base = places["unified"] / name
        base.mkdir()
        found = Hierarchy({"unified": base})
    yield found
    found.close()


def started_in(group: Group, *argv: str) -> subprocess.Popen[bytes]:
    def join() -> None:
        for path in group.join_paths():
            Path(path).write_text("0")

    return subprocess.Popen(argv, preexec_fn=join, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@root_only
def test_kill_reaches_what_left_its_session(hierarchy, poll):
    group = hierarchy.create("one")
    process = started_in(group, "sh", "-c", "setsid sleep 300 & setsid setsid sleep 300 & sleep 300")
    poll(lambda: len(group.members()) == 4)
    assert process.pid in group.members()
    poll(group.kill)
    process.wait(5)
    poll(group.remove)
    assert list(hierarchy.leftovers()) == []


@root_only
def test_kill_ends_a_fork_bomb_without_limits(hierarchy, poll, tmp_path):
    """Frozen or killed in one step: nothing forks between look and blow. Bounded by its own count, not by us."""
    script = tmp_path / "bomb.sh"
    script.write_text("#!/bin/sh\ni=0; while [ $i -lt 200 ]; do setsid sleep 300 & i=$((i+1)); done; wait\n")
    group = hierarchy.create("bomb")
    process = started_in(group, "sh", str(script))
    poll(lambda: len(group.members()) > 20)
    poll(group.kill, seconds=20)
    process.wait(5)
    poll(group.remove)


@root_only
def test_frozen_processes_are_killed_too(hierarchy, poll):
    group = hierarchy.create("cold")
    process = started_in(group, "sleep", "300")
    poll(lambda: group.members() == [process.pid])
    group.freeze()
    poll(group.kill)
    assert process.wait(5) == -signal.SIGKILL
    poll(group.remove)


@root_only
def test_a_name_is_used_once(hierarchy):
    group = hierarchy.create("same")
    with pytest.raises(FileExistsError):
        hierarchy.create("same")
    assert list(hierarchy.leftovers()) == ["same"]
    assert group.remove()


@root_only
def test_a_start_that_failed_half_way_does_not_block_the_next(hierarchy, tmp_path):
    """R1: a kernel that made one folder of two must not make every later start of the service fail."""
    next(iter(hierarchy.bases.values())).joinpath("service-ide").mkdir()
    with selectors.DefaultSelector() as selector:
        processes = Processes(tmp_path / "processes.json", hierarchy, selector)
        with fresh_group(processes, "service-ide", Limits()) as group:
            assert group is not None
    assert group.remove()


@root_only
def test_a_service_that_starts_again_has_its_group_to_itself(hierarchy, tmp_path, poll):
    """R1: its name comes again, so its end is told once its group is gone; nothing sweeps what runs under that name then."""
    left: list[list[str]] = []
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as held:
        processes = Processes(tmp_path / "processes.json", hierarchy, selector)

        def turn() -> float | None:
            for key, mask in selector.select(0):
                key.data(mask)
            return processes.pump()

        def start(seconds: str) -> None:
            null, root = os.open("/dev/null", os.O_RDWR), os.open("/", os.O_PATH)
            held.callback(os.close, null)
            held.callback(os.close, root)
            with fresh_group(processes, "service-ide", Limits()) as group:
                pid = launch(Launch(("sleep", seconds), root, null, null, null, group=group))
            processes.add(Process("service-ide", "service", pid, 0, 0.0, group))

        def gone(process: Process) -> None:
            left.append(list(hierarchy.leftovers()))
            if len(left) == 1:
                start("300")

        processes.on_gone("service", gone)
        start("0")
        poll(lambda: turn() is None and bool(left), "nothing is left to do while the second one runs")
        service = processes.get("service-ide")
        assert service is not None
        assert service.group is not None
        assert service.group.members() == [service.pid]
        processes.stop(service, 0, "stopped")
        poll(lambda: turn() is None and not processes, "it has ended")
        processes.close()
    assert left == [[], []]


def test_v2_hands_out_controllers_and_steps_aside(tmp_path, monkeypatch):
    """The no-internal-process rule, on a folder that looks like a delegated one (few hosts have controllers free)."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids io")
    (tmp_path / "cgroup.subtree_control").write_text("")
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (tmp_path / "cgroup.type").write_text("domain")
    mounts = f"1 0 0:1 / {tmp_path} rw - cgroup2 cgroup2 rw"
    found = cgroups.detect("croft", mounts=mounts, own="0::/")
    assert found.bases == {"unified": tmp_path / "croft"}
    assert (tmp_path / "croft-own" / "cgroup.procs").read_text() == str(os.getpid())
    again = cgroups.detect("croft", mounts=mounts, own="0::/croft-own")
    assert again.bases == found.bases
    (tmp_path / "cgroup.procs").write_text("1\n")
    assert cgroups.detect("croft", mounts=mounts, own="0::/").bases == {}
