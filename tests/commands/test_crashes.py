"""R1, R10: whatever is killed, a run is seen to its end or said to be interrupted, and never runs twice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from support.broker import Home, home_folder
from support.commands import room_in
from support.daemon import Daemon
from support.processes import alive
from support.waiting import poll, until

from appliance.audit import AuditUnavailable
from appliance.commands import runs
from appliance.commands.asker import Asker
from appliance.commands.assessing import Proposal
from appliance.commands.model import Actor
from appliance.errors import CroftError

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def daemon(broker: Home):
    with Daemon.beside(broker) as made:
        yield made


def test_a_daemon_that_was_killed_finds_its_runs_again(daemon):
    """The run goes on, its end is recorded by the next daemon, what had ended meanwhile too; nothing ran twice."""
    marker = daemon.broker.paths.workspace / "marker"
    long = daemon.shell(f"echo x >> {marker}; while [ -e {marker} ]; do sleep 0.05; done; exit 4")
    short = daemon.shell("exec sleep 0.3")
    poll(marker.exists, "the run has begun")
    daemon.kill()
    poll(lambda: daemon.broker.call("runs").data["ended"], "the short one ended while nobody watched")
    daemon.start()
    poll(lambda: daemon.run(short["id"])["state"] != "running", "the short one is closed")
    assert (daemon.run(short["id"])["state"], daemon.run(short["id"])["output_lost"]) == ("done", True)
    assert daemon.run(long["id"])["state"] == "running"
    assert marker.read_text() == "x\n"
    marker.unlink()
    poll(lambda: daemon.run(long["id"])["state"] != "running", "the long one is closed")
    assert (daemon.run(long["id"])["exit_code"], daemon.run(long["id"])["state"]) == (4, "failed")
    assert not marker.exists()
    records = daemon.control.call("GET", "/api/audit?limit=200")["records"]
    assert sum(one["event"] == "command.run" for one in records) == 2
    assert daemon.control.call("GET", "/api/audit/verify")["ok"]


def test_kills_at_any_moment_leave_no_run_open(daemon):
    """Intent without outcome never stays: each row ends, and each announced start has exactly one outcome."""
    for pause in (0.0, 0.03, 0.15):
        asking = threading.Thread(target=_quietly, args=(daemon, "sleep 0.1"))
        asking.start()
        threading.Event().wait(pause)
        daemon.kill()
        asking.join()
        daemon.start()

    def all_closed() -> bool:
        return not daemon.control.call("GET", "/api/commands?state=running")["runs"]

    poll(all_closed, "every run is closed", 30)
    records = daemon.control.call("GET", "/api/audit?limit=500")["records"]
    intents = [one["seq"] for one in records if one["event"] == "command.run"]
    outcomes = [one["intent"] for one in records if one["event"] == "outcome" and one["intent"] in intents]
    assert sorted(intents) == sorted(outcomes)


def _quietly(daemon: Daemon, script: str) -> None:
    with contextlib.suppress(CroftError, OSError):
        daemon.shell(script)


def test_a_machine_that_stopped_says_interrupted(daemon):
    run = daemon.shell("sleep 60")
    daemon.kill()
    daemon.broker.stop()
    daemon.broker.start()
    daemon.start()
    poll(lambda: daemon.run(run["id"])["state"] != "running", "the run is closed")
    found = daemon.run(run["id"])
    assert (found["state"], found["exit_code"]) == ("interrupted", None)
    assert "was not run again" in found["ended"]


async def test_a_broker_that_was_killed_costs_no_output(broker):
    """The pipes are ours: what is written meanwhile is read, and the run is closed when it ends."""
    async with room_in(broker) as room:
        run = await room.shell("for i in 1 2 3 4 5; do echo $i; sleep 0.2; done", wait=0)
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        over = await room.over(run["id"])
        assert await room.output(run["id"]) == b"1\n2\n3\n4\n5\n"
        assert over["state"] == "interrupted", "its status went to nobody"
        assert (await room.propose("echo", "again", wait=10))["state"] == "done"


async def test_a_deliberate_stop_of_the_broker_interrupts(broker):
    mark = f"43{os.getpid()}"
    async with room_in(broker) as room:
        run = await room.shell(f"sleep {mark}", wait=0)
        await asyncio.to_thread(broker.stop)
        assert alive(mark) == []
        await asyncio.to_thread(broker.start)
        assert (await room.over(run["id"]))["state"] == "interrupted"


async def test_a_start_given_up_while_the_broker_hangs_is_closed(broker, monkeypatch):
    """R1: whoever asked is gone and the broker answers nothing; the row ends all the same, and nothing of it stays."""
    mark = f"45{os.getpid()}"
    async with room_in(broker) as room:
        asker = Asker(Actor.HUMAN, "operator", (await room.front.member("operator")).id, session="s")
        waiting = await room.front.commands.propose(asker, Proposal(stages=(("sh", "-c", f"exec sleep {mark}"),)))
        hung, start = asyncio.Event(), runs.Runs.start

        async def start_while_it_hangs(self: runs.Runs, order: runs.Order) -> runs.Live:
            os.kill(broker.pid, signal.SIGSTOP)
            hung.set()
            return await start(self, order)

        with monkeypatch.context() as patched:
            patched.setattr(runs.Runs, "start", start_while_it_hangs)
            approving = asyncio.create_task(room.front.commands.approve(asker, waiting.id, waiting.hash))
            async with asyncio.timeout(10):
                await hung.wait()
            patched.setattr(runs, "ANSWER_WITHIN", 0.5)
            approving.cancel()
            try:
                over = await room.front.commands.wait(waiting.id, 5)
            finally:
                os.kill(broker.pid, signal.SIGCONT)
        assert (str(over.state), over.outcome.cause) == ("interrupted", "lost")
        assert (await room.propose("true", wait=10))["state"] == "done", "the broker has read what came before"
        await until(lambda: not alive(mark), "nothing of it is left")


async def test_cancelling_races_with_the_end(broker):
    """Whoever wins, the row ends once and says what was so."""
    async with room_in(broker) as room:
        for pause in (0, 0.005, 0.01, 0.02, 0.04):
            run = await room.shell("exec sleep 0.02", wait=0)
            await asyncio.sleep(pause)
            answers = await asyncio.gather(*(room.ask("POST", f"/api/commands/{run['id']}/cancel") for _ in range(4)))
            over = await room.over(run["id"])
            assert over["state"] in ("cancelled", "done"), answers
        await until(lambda: not room.front.commands.active, "all are over")
        async with asyncio.timeout(5):
            while len(outcomes := [one for one in await room.audit() if one.event == "outcome"]) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len({one.intent for one in outcomes}) == len(outcomes) == 5


async def test_a_folder_swapped_for_a_link_never_leads_out(broker):
    """POL-9: 2,000 swaps; every run that starts is inside, and through a link none starts."""
    async with room_in(broker) as room:
        workspace, done = room.workspace, threading.Event()
        (workspace / "real").mkdir()
        (workspace / "real" / "name").write_text("inside\n")
        shutil.chown(workspace / "real", room.broker.names["workspace"])
        outside = room.broker.folder / "outside"
        outside.mkdir(mode=0o755)
        (outside / "name").write_text("outside\n")
        (workspace / "evil").symlink_to(outside)
        swaps = threading.Thread(target=_swap, args=(workspace, done))
        swaps.start()
        inside = 0
        try:
            for attempt in itertools.count():
                # It ends: once the swaps are over, the name is the real folder again.
                if attempt >= 40 and inside:
                    break
                answer = await room.ask(
                    "POST", "/api/commands", json={"argv": ["cat", "name"], "cwd": "work", "wait": 10}
                )
                run = answer.get("run")
                if run and run["state"] in ("done", "failed"):
                    assert b"outside" not in await room.output(run["id"])
                    inside += run["state"] == "done"
                elif run and run["state"] == "waiting":
                    await room.ask("POST", f"/api/commands/{run['id']}/cancel")
        finally:
            done.set()
            await asyncio.to_thread(swaps.join)


def _swap(workspace: Path, done: threading.Event) -> None:
    work, side = workspace / "work", workspace / "side"
    (workspace / "real").rename(work)
    for _ in range(2000):
        if done.is_set():
            return
        work.rename(side)
        (workspace / "evil").rename(work)
        work.rename(workspace / "evil")
        side.rename(work)


def _link_at(workspace: Path, deep: str) -> None:
    """A link out, beneath folders with a longer path than one call may name."""
    folder = os.open(workspace, os.O_PATH)
    for name in deep.split("/"):
        os.mkdir(name, dir_fd=folder)
        inner = os.open(name, os.O_PATH, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.symlink("/etc/hostname", "out", dir_fd=folder)
    os.close(folder)


async def test_a_path_through_a_link_asks_and_one_that_leads_out_is_refused(broker):
    """POL-9: looked at again when it starts, also for what was approved."""
    async with room_in(broker) as room:
        broker.workspace_file("plain", "plain\n")
        (room.workspace / "inner").symlink_to("plain")
        (room.workspace / "out").symlink_to("/etc/passwd")
        (room.workspace / "proc").symlink_to("/proc/self/environ")
        assert (await room.propose("cat", "plain", wait=10))["state"] == "done"
        run = await room.propose("cat", "inner")
        assert (run["state"], run["verdict"]) == ("waiting", "ask")
        for name in ("out", "proc"):
            answer = await room.ask("POST", "/api/commands", status=403, json={"argv": ["cat", name]})
            assert answer["error"]["code"] == "denied"
        # A program goes up from where the link leads, so what reads as "hostname" would be /etc/hostname.
        (room.workspace / "etc").symlink_to("/etc/ssl")
        broker.workspace_file("hostname", "inside\n")
        for path in ("etc/../hostname", "./etc/../hostname", "plain/../etc/../hostname"):
            assert (await room.propose("cat", path))["state"] == "waiting"
        # Too long to be looked at from the workspace's own folder, short enough from where the program starts.
        half = "/".join(["d" * 200] * 12)
        await asyncio.to_thread(_link_at, room.workspace, f"{half}/{half}")
        assert (await room.propose("cat", f"{half}/out", cwd=half))["state"] == "waiting"
        (room.workspace / "inner").unlink()
        (room.workspace / "inner").symlink_to("/etc/passwd")
        assert (await room.approve(run, status=409))["error"]["code"] == "changed"


@pytest.fixture
def small(names: dict[str, str]):
    """A broker whose appliance's state lies on a disk of 8 MiB."""
    assert os.geteuid() == 0, "mounting a small disk needs root; ./tests/run runs as root"
    with home_folder(names) as home:
        home.paths.state.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "croft-test", str(home.paths.state)], check=True)
        try:
            home.start()
            yield home
            home.stop()
        finally:
            subprocess.run(["umount", "-l", str(home.paths.state)], check=True)


async def test_a_full_disk_starts_nothing_and_closes_what_runs(small):
    """R10, LOG-3: the run under way ends and is closed once there is room; its output is cut, no other is started."""
    async with room_in(small) as room:
        run = await room.shell("sleep 0.5; seq 20000; echo done", wait=0)
        filler = fill(small.paths.state)
        with contextlib.suppress(CroftError):
            for _ in range(5000):  # the log file has room until it has to grow
                await room.front.audit.note("export", "test", what="x" * 2000)
        for argv in (["true"], ["sh", "-c", "true"]):
            answer = await room.ask("POST", "/api/commands", status=503, json={"argv": argv})
            assert answer["error"]["code"] == AuditUnavailable.code
        await until(lambda: room.front.commands.live(run["id"]) is None, "the run has ended")
        filler.unlink()
        over = await room.front.commands.wait(run["id"], 15)
        assert (str(over.state), over.outcome.exit_code, over.outcome.truncated) == ("done", 0, True)
        assert (await room.propose("true", wait=10))["state"] == "done"
        assert await room.front.audit.verify() is None


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(fd, b"x" * 4096):
            pass
    os.close(fd)
    return filler
