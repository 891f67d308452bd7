"""Jobs on a real store: watched, paused, cancelled, resumed, and neither lost nor forgotten when the daemon ends under them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.waiting import until

from appliance.clock import ManualClock
from appliance.errors import Conflict, NotFound, Unavailable
from appliance.events import EventBus
from appliance.jobs import BEGUN_MOST, KEPT, Job, Jobs, Kind, Running, shown
from appliance.settings import Paths, load
from appliance.store import Store, open_store


class Work:
    """What a kind of job does here: it counts until it is told how to end."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.discarded: list[Mapping[str, Any]] = []
        self.go, self.stop = asyncio.Event(), asyncio.Event()

    async def run(self, job: Running) -> Mapping[str, Any]:
        self.begun.append(str(job.params.get("name", "")))
        job.report("counting", 1, 10)
        await self.go.wait()
        if job.params.get("fails"):
            raise Unavailable("the source is away", code="unreachable")
        if job.params.get("breaks"):
            raise ZeroDivisionError
        return {"counted": 10}

    async def discard(self, params: Mapping[str, Any]) -> None:
        self.discarded.append(params)


class Bench:
    """One daemon's jobs after another's, over one store."""

    def __init__(self, store: Store) -> None:
        self.store, self.bus = store, EventBus(store.clock)
        self.work = Work()

    def jobs(self, **kinds: Kind) -> Jobs:
        made = {
            "count": Kind(self.work.run, "model.add", "one", pausable=True, resumes=True, discard=self.work.discard),
            "once": Kind(self.work.run, "model.check", "other"),
        }
        return Jobs(self.store.database, self.store.audit, self.bus, self.store.clock, made | kinds)

    async def audited(self) -> list[tuple[str, Any]]:
        records = await self.store.audit.records(limit=50)
        return [(record.event, record.detail.get("result")) for record in reversed(records)]


@asynccontextmanager
async def a_bench(folder: Path) -> AsyncIterator[Bench]:
    async with open_store(load(Paths.under(folder)), ManualClock()) as store:
        yield Bench(store)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with a_bench(tmp_path) as made:
        yield made


async def running(jobs: Jobs, **params: Any) -> Job:
    job = await jobs.create(str(params.pop("kind", "count")), str(params.get("name", "a")), params, "somebody")
    await until(lambda: job.state == "running" and job.current == 1, "it runs")
    return job


async def test_a_job_is_announced_followed_and_its_end_kept(bench: Bench) -> None:
    jobs = bench.jobs()
    job = await running(jobs, name="a")
    assert [one["subject"] for one in jobs.picture()["jobs"]] == ["a"]
    bench.work.go.set()
    done = await jobs.wait(job.id)
    assert (done.state, dict(done.result)) == ("done", {"counted": 10})
    assert jobs.picture() == {"jobs": [], "ended": 1}
    again = await bench.jobs().get(job.id)
    assert shown(again) == shown(done)
    assert await bench.audited() == [("model.add", None), ("outcome", "done")]


async def test_the_same_is_not_begun_twice(bench: Bench) -> None:
    jobs = bench.jobs()
    await running(jobs, name="a")
    with pytest.raises(Conflict):
        await jobs.create("count", "a", {}, "somebody")
    await jobs.close()


async def test_jobs_of_one_lane_wait_for_each_other(bench: Bench) -> None:
    jobs = bench.jobs()
    await running(jobs, name="a")
    second = await jobs.create("count", "b", {"name": "b"}, "somebody")
    other = await running(jobs, kind="once", name="c")
    assert (second.state, other.state) == ("queued", "running")
    bench.work.go.set()
    assert (await jobs.wait(second.id)).state == "done"
    assert bench.work.begun[0] == "a"


async def test_pause_and_resume(bench: Bench) -> None:
    jobs = bench.jobs()
    job = await running(jobs)
    assert (await jobs.act(job.id, "pause")).state == "paused"
    assert job.actions == ["resume", "cancel"]
    assert bench.work.discarded == []
    bench.work.go.set()
    await jobs.act(job.id, "resume")
    assert (await jobs.wait(job.id)).state == "done"
    assert await bench.audited() == [
        ("model.add", None),
        ("outcome", "paused"),
        ("model.add", None),
        ("outcome", "done"),
    ]


async def test_what_is_resumed_while_it_is_being_paused_waits_its_turn(bench: Bench) -> None:
    """Two people at once: it was called paused, though it waited, and resuming it once more did its work twice at a time."""
    jobs = bench.jobs()
    job = await running(jobs, name="a")
    other = await jobs.create("count", "b", {"name": "b"}, "somebody")
    pausing = asyncio.create_task(jobs.act(job.id, "pause"))
    while job.state != "paused":  # noqa: ASYNC110 - it lasts for one turn of the loop
        await asyncio.sleep(0)
    await jobs.act(job.id, "resume")
    await pausing
    assert {one.id: one.state for one in await jobs.all()} == {job.id: "queued", other.id: "running"}
    bench.work.go.set()
    assert (await jobs.wait(job.id)).state == "done"
    assert bench.work.begun == ["a", "b", "a"]


@pytest.mark.parametrize("before", ["running", "paused", "queued"])
async def test_cancelling_leaves_nothing(bench: Bench, before: str) -> None:
    jobs = bench.jobs()
    job = await running(jobs, name="a")
    if before == "paused":
        await jobs.act(job.id, "pause")
    if before == "queued":
        job = await jobs.create("count", "b", {"name": "b"}, "somebody")
    assert (await jobs.act(job.id, "cancel")).state == "cancelled"
    assert [params["name"] for params in bench.work.discarded] == [job.subject]
    with pytest.raises(Conflict):
        await jobs.act(job.id, "cancel")
    assert (await bench.jobs().get(job.id)).state == "cancelled"
    await jobs.close()


async def test_a_failure_says_why_and_can_be_tried_again(bench: Bench) -> None:
    jobs = bench.jobs()
    job = await running(jobs, fails=True)
    bench.work.go.set()
    failed = await jobs.wait(job.id)
    assert (failed.state, failed.code, failed.cause) == ("failed", "unreachable", "the source is away")
    assert failed.actions == ["resume", "cancel"]
    await jobs.act(job.id, "resume")
    assert (await jobs.wait(job.id)).state == "failed"
    assert len(bench.work.begun) == 2


async def test_what_failed_can_be_given_up(bench: Bench) -> None:
    """Half a model on a full disk: somebody must be able to get rid of it, also after a restart."""
    jobs = bench.jobs()
    job = await running(jobs, name="a", fails=True)
    bench.work.go.set()
    await jobs.wait(job.id)
    jobs = bench.jobs()
    assert (await jobs.act(job.id, "cancel")).state == "cancelled"
    assert [params["name"] for params in bench.work.discarded] == ["a"]
    found = await jobs.get(job.id)
    assert (found.state, found.cause, found.actions) == ("cancelled", "", [])
    once = await jobs.create("once", "b", {"fails": True}, "somebody")
    assert (await jobs.wait(once.id)).actions == ["resume"], "it leaves nothing"


async def test_what_failed_is_resumed_once_and_not_beside_the_same_work(bench: Bench) -> None:
    """Two who press the button at once, and one who began it anew instead."""
    jobs = bench.jobs()
    job = await running(jobs, name="a", fails=True)
    bench.work.go.set()
    await jobs.wait(job.id)
    bench.work.go.clear()
    both = await asyncio.gather(*(jobs.act(job.id, "resume") for _ in range(2)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in both) == ["Conflict", "Job"]
    bench.work.go.set()
    await jobs.wait(job.id)
    assert bench.work.begun == ["a", "a"]
    bench.work.go.clear()
    anew = await running(jobs, name="a")
    with pytest.raises(Conflict):
        await jobs.act(job.id, "resume")
    await jobs.act(anew.id, "cancel")


async def test_a_fault_of_ours_ends_the_job_without_telling_more(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = bench.jobs()
    job = await running(jobs, breaks=True)
    bench.work.go.set()
    failed = await jobs.wait(job.id)
    assert (failed.state, failed.code, failed.cause) == ("failed", "error", "ZeroDivisionError")
    assert any(record.exc_info for record in caplog.records), "the log has the whole story"


async def test_the_next_daemon_goes_on(tmp_path: Path) -> None:
    async with a_bench(tmp_path) as first:
        jobs = first.jobs()
        going = await running(jobs, name="a")
        once = await running(jobs, kind="once", name="c")
        waiting = await jobs.create("count", "d", {"name": "d"}, "somebody")
        await jobs.close()
    async with a_bench(tmp_path) as second:
        jobs = second.jobs()
        second.work.go.set()
        await jobs.open()
        for job_id, state, code in (
            (going.id, "done", ""),
            (waiting.id, "done", ""),
            (once.id, "failed", "interrupted"),
        ):
            found = await jobs.wait(job_id)
            assert (found.state, found.code) == (state, code), found.subject
        assert (await jobs.get(going.id)).attempt == 2


async def test_a_paused_job_stays_paused_over_a_restart(tmp_path: Path) -> None:
    async with a_bench(tmp_path) as first:
        jobs = first.jobs()
        job = await running(jobs)
        await jobs.act(job.id, "pause")
        await jobs.close()
    async with a_bench(tmp_path) as second:
        jobs = second.jobs()
        await jobs.open()
        found = await jobs.get(job.id)
        assert (found.state, found.current, found.total) == ("paused", 1, 10)
        assert second.work.begun == []
        second.work.go.set()
        await jobs.act(job.id, "resume")
        assert (await jobs.wait(job.id)).state == "done"


async def test_work_that_takes_the_daemon_down_again_and_again_is_given_up(bench: Bench) -> None:
    jobs = bench.jobs()
    job = await running(jobs)
    await jobs.close()
    await bench.store.database.execute("UPDATE jobs SET attempt = ? WHERE id = ?", (BEGUN_MOST, job.id))
    later = bench.jobs()
    await later.open()
    assert (await later.get(job.id)).code == "interrupted"


async def test_a_kind_nobody_knows_any_more_is_said_to_be_interrupted(bench: Bench) -> None:
    jobs = bench.jobs(old=Kind(bench.work.run, "model.add", "old", resumes=True))
    job = await running(jobs, kind="old")
    await jobs.close()
    later = bench.jobs()
    await later.open()
    assert (await later.get(job.id)).state == "failed"


async def test_old_jobs_are_forgotten_but_never_unfinished_ones(bench: Bench) -> None:
    jobs = bench.jobs()
    bench.work.go.set()
    for number in range(KEPT + 5):
        job = await jobs.create("once", f"n{number}", {}, "somebody")
        await jobs.wait(job.id)
    rows = await bench.store.database.rows("SELECT count(*) AS n FROM jobs")
    assert rows[0]["n"] <= KEPT + 1


async def test_readers_hear_of_it_but_not_a_hundred_times_a_second(bench: Bench) -> None:
    async def chatter(job: Running) -> Mapping[str, Any]:
        for number in range(500):
            job.report("counting", number, 500)
            await asyncio.sleep(0)
        return {}

    jobs = bench.jobs(chatter=Kind(chatter, "model.add", "chatter"))
    async with bench.bus.subscribe({"jobs"}, None, tag="x") as reader:
        job = await jobs.create("chatter", "a", {}, "somebody")
        await jobs.wait(job.id)
        await asyncio.sleep(0.4)  # the last one may come that much later
        heard = 0
        reader.close()
        heard = len(reader._queue)
    assert 1 <= heard <= 8


async def test_what_there_is_not(bench: Bench) -> None:
    with pytest.raises(NotFound):
        await bench.jobs().get("job-0000000000000000")


def test_what_is_left_to_do_is_told_from_the_speed() -> None:
    job = Job("job-1", "count", "a", {}, "x", "running", 0.0, current=40, total=100, speed=20.0)
    assert job.left == 3.0
    assert Job("job-1", "count", "a", {}, "x", "running", 0.0, current=40, speed=20.0).left is None
