"""Runs and a broker that ends: they outlive one that was killed, and end with one that was stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.broker import groups
from support.processes import alive


async def test_a_pipeline_survives_a_broker_that_was_killed(home, client, poll):
    mark = f"38{os.getpid()}"
    reply = await client.call("spawn", stages=[["sleep", "0.2"], ["sleep", mark]], limits={"seconds": 600})
    for fd in reply.fds:
        os.close(fd)
    home.kill()
    home.start()
    poll(lambda: len(alive(mark)) == 1 and not Path(f"/proc/{reply.data['pid']}").exists())
    (row,) = home.call("runs").data["runs"]
    home.call("kill", run=row["run"])
    poll(lambda: home.call("runs").data["ended"])
    assert alive(mark) == []


async def test_runs_survive_their_client_and_a_broker_that_was_killed(home, client, poll):
    """R-cases: nothing is doubled or lost when either side goes; how it ended is told to whoever comes back."""
    mark = f"34{os.getpid()}"
    reply = await client.call("spawn", argv=["sleep", mark], limits={"seconds": 600})
    for fd in reply.fds:
        os.close(fd)
    home.kill()
    home.start()
    (row,) = home.call("runs").data["runs"]
    assert (row["run"], row["pid"], row["argv0"]) == (reply.data["run"], reply.data["pid"], "sleep")
    home.call("kill", run=row["run"])
    poll(lambda: not home.call("runs").data["runs"])
    (ended,) = home.call("runs").data["ended"]
    assert (ended["run"], ended["reason"]) == (row["run"], "killed")
    assert alive(mark) == []


async def test_what_ended_while_no_broker_watched_is_reported(home, client, poll):
    mark = f"35{os.getpid()}"
    reply = await client.call("spawn", argv=["sh", "-c", f"setsid sleep {mark} & exec sleep {mark}"])
    poll(lambda: len(alive(mark)) == 2)
    home.kill()
    os.kill(reply.data["pid"], signal.SIGKILL)
    for fd in reply.fds:
        os.close(fd)
    home.start()
    poll(lambda: home.call("runs").data["ended"])
    assert alive(mark) == []
    assert groups(home) == []


@pytest.mark.parametrize("torn", [1, 2])
async def test_a_record_that_a_full_disk_cut_off_costs_that_run_alone(home, client, poll, torn):
    """R16: what is half a line names nobody, so what it was about is ended; whatever stands around it is found again."""
    marks = [f"38{os.getpid()}{number}" for number in range(3)]
    replies = [await client.call("spawn", argv=["sleep", mark]) for mark in marks]
    home.kill()
    record = home.paths.run / "broker/processes.json"
    lines = record.read_text().splitlines()
    assert len(lines) == 4, "a document and a line for each run"
    lines[1 + torn] = lines[1 + torn][:-20]
    record.write_text("\n".join(lines))
    home.start()
    poll(lambda: alive(marks[torn]) == [])
    kept = [number for number in range(3) if number != torn]
    assert all(len(alive(marks[number])) == 1 for number in kept)
    found = {row["run"] for row in home.call("runs").data["runs"]}
    assert found == {replies[number].data["run"] for number in kept}
    for run in found:
        home.call("kill", run=run)
    poll(lambda: not any(map(alive, marks)))
    for fd in (fd for reply in replies for fd in reply.fds):
        os.close(fd)


async def test_a_deliberate_stop_ends_all_runs(home, client):
    mark = f"36{os.getpid()}"
    reply = await client.call("spawn", argv=["sleep", mark])
    for fd in reply.fds:
        os.close(fd)
    assert home.stop() == 0
    assert alive(mark) == []
    assert groups(home) == []
    assert home.cgroups() == []
