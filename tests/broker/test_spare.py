"""The children forked ahead of runs: what they hold while they wait, that they become runs like any other, and that none stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from appliance.broker import kernel
from appliance.broker.client import BrokerError
from appliance.broker.spare import KEPT

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="a child waits only where runs have another user; the root pass of CI has one"
)

# What a process can tell of itself that must not depend on how it was started.
INSIDE = """
sed -E '/^(Pid|Tgid|Ngid|NSpid|NStgid|NSpgid|NSsid|PPid|Vm|Rss|Hugetlb|.*ctxt|Threads|Cpus|Mems|SigQ|Speculation|THP)/d' \
  /proc/self/status
cat /proc/self/limits /proc/self/oom_score_adj; ls /proc/self/fd; ulimit -c; umask; pwd; ls -l /proc/self/ns | sed 's/.*-> //'
env | grep -v CROFT_RUN | sort
"""


def waiting(home) -> list[Path]:
    """The groups of children that wait, in one of the hierarchies."""
    places = home.cgroups()
    return sorted(places[0].glob("spare-*")) if places else []


def member(group: Path) -> int:
    """The pid of what waits in there; 0 while there is none."""
    with contextlib.suppress(OSError):
        return int(next(iter((group / "cgroup.procs").read_text().split()), "0"))
    return 0


async def warmed(client, broker, poll) -> dict[int, Path]:
    """The pids and groups of the children that wait, each of which has let go of all that it was born with."""
    await client.run("true")

    def ready() -> dict[int, Path] | None:
        found = {member(group): group for group in waiting(broker)}
        if len(found) != KEPT or not all(pid and held(pid) == ["null", "null", "null", "socket"] for pid in found):
            return None
        return found if all(kernel.stat_fields(pid)[0] == "S" for pid in found) else None

    return await asyncio.to_thread(poll, ready, "children wait")


def held(pid: int) -> list[str]:
    """What its descriptors are, in the order of their numbers."""
    with contextlib.suppress(OSError):
        descriptors = sorted(Path(f"/proc/{pid}/fd").iterdir(), key=lambda path: int(path.name))
        return [str(path.readlink()).split(":")[0].removeprefix("/dev/") for path in descriptors]
    return []


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def user(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def places_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


async def read(reply) -> str:
    """All that a run writes; its descriptors are closed then."""
    with os.fdopen(reply.fds[1], "rb") as pipe:
        said = await asyncio.to_thread(pipe.read)
    for fd in (reply.fds[0], *reply.fds[2:]):
        os.close(fd)
    return said.decode()


async def test_what_waits_is_no_run_and_out_of_reach_of_runs(client, broker, poll):
    """It holds one socket, belongs to root, and a run can neither signal nor look into it."""
    script = "read pid; kill -9 $pid || echo refused; cat /proc/$pid/environ || echo refused"
    reply = await client.call("spawn", argv=["sh", "-c", script], stdin="pipe")
    found = await warmed(client, broker, poll)
    assert [row["run"] for row in (await client.call("runs")).data["runs"]] == [reply.data["run"]]
    assert {user(pid) for pid in found} == {0}
    os.write(reply.fds[3], f"{min(found)}\n".encode())
    assert (await read(reply)).split() == ["refused", "refused"]
    assert all(alive(pid) for pid in found)


async def test_a_run_becomes_of_what_waits(client, broker, poll):
    """The same process and group, its limits written before its program begins; and another one waits afterwards."""
    found = await warmed(client, broker, poll)
    _, out, _ = await client.run("sh", "-c", "echo $$; (echo forked)", limits={"pids": 1})
    (pid,) = map(int, out.split())
    await asyncio.to_thread(poll, lambda: not found[pid].exists(), "the group goes with the run")
    assert pid not in await warmed(client, broker, poll)


async def test_it_looks_the_same_from_inside(client, broker, poll):
    """SYS-1, SYS-2: user, groups, capabilities, no_new_privs, signals, limits, descriptors, namespaces and environment."""
    seen = [(await client.run("sh", "-c", INSIDE))[1]]
    found = await warmed(client, broker, poll)
    reply = await client.call("spawn", argv=["sh", "-c", INSIDE])
    assert reply.data["pid"] in found
    seen.append(await read(reply))
    assert seen[0] == seen[1]
    assert "NoNewPrivs:\t1" in seen[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_one_that_was_killed_is_replaced_by_a_cold_start(client, broker, poll, number):
    found = await warmed(client, broker, poll)
    for pid in found:
        os.kill(pid, number)
    await asyncio.to_thread(poll, lambda: all(kernel.stat_fields(pid)[0] == "Z" for pid in found), "they have ended")
    event, out, _ = await client.run("echo", "still")
    assert (out, event["exit_code"]) == ("still\n", 0)
    assert not any(group.exists() for group in found.values())
    assert not any(alive(pid) for pid in found)


async def test_the_one_they_are_born_of_is_replaced_too(client, broker, poll):
    """It holds one socket, is no child's parent, and what it was may be killed like anything else."""
    found = await warmed(client, broker, poll)
    (nursery,) = set(children(broker.pid)) - set(found)
    assert held(nursery) == ["null", "null", "null", "socket"]
    assert children(nursery) == []
    os.kill(nursery, signal.SIGKILL)
    for _ in range(3):
        assert (await client.run("echo", "still"))[1] == "still\n"
    again = await warmed(client, broker, poll)
    assert nursery not in set(children(broker.pid)) - set(again)


async def test_many_at_once_share_no_group(client, broker, poll):
    """One takes what waits, the others start cold; each in a group of its own."""
    found = await warmed(client, broker, poll)
    replies = [await client.call("spawn", argv=["sleep", "30"]) for _ in range(6)]
    places = [places_of(reply.data["pid"]) for reply in replies]
    assert len(set(places)) == len(places)
    assert {reply.data["pid"] for reply in replies[:KEPT]} == set(found)
    for reply in replies:
        await client.call("kill", run=reply.data["run"])
        for fd in reply.fds:
            os.close(fd)
    for reply in replies:
        await client.event(run=reply.data["run"])


async def test_an_order_that_cannot_be_carried_out_leaves_nothing(client, broker, poll):
    """A missing program, a folder outside, and a program that is not the approved one: the words of a cold start."""
    orders = (
        ({"argv": ["no-such-program"]}, "cannot_run"),
        ({"argv": ["pwd"], "cwd": "../.."}, "cannot_run"),
        ({"argv": ["true"], "expected": {"folder": "1-1", "programs": ["/usr/bin/true 1-1"]}}, "changed"),
    )
    for order, code in orders:
        found = await warmed(client, broker, poll)
        with pytest.raises(BrokerError) as caught:
            await client.call("spawn", **order)
        assert caught.value.code == code
        (gone,) = (pid for pid in found if not alive(pid))
        assert not found[gone].exists()
    assert (await client.call("runs")).data["runs"] == []


async def test_it_ends_with_its_broker_and_the_next_one_clears_up(client, broker, poll):
    found = await warmed(client, broker, poll)
    born = children(broker.pid)
    broker.kill()
    await asyncio.to_thread(poll, lambda: not any(alive(pid) for pid in born), "they end by themselves")
    assert all(group.exists() for group in found.values())
    broker.start()
    await asyncio.to_thread(
        poll, lambda: not any(group.exists() for group in found.values()), "their groups are removed"
    )


async def test_a_run_made_of_it_outlives_its_broker(client, broker, poll):
    """The next broker finds the run by its record, whatever its group is called."""
    found = await warmed(client, broker, poll)
    reply = await client.call("spawn", argv=["sleep", "30"])
    broker.kill()
    broker.start()
    run, group = reply.data["run"], found[reply.data["pid"]]
    assert [row["run"] for row in broker.call("runs").data["runs"]] == [run]
    assert member(group) == reply.data["pid"]
    broker.call("kill", run=run)
    await asyncio.to_thread(poll, lambda: not group.exists(), "everything of it is gone")
    for fd in reply.fds:
        os.close(fd)


async def test_a_stop_leaves_nothing(client, broker, poll):
    await warmed(client, broker, poll)
    born = children(broker.pid)
    assert broker.stop() == 0
    assert not any(alive(pid) for pid in born)
    assert broker.cgroups() == []
