"""Services over a scripted runtime: what people rely on when things start, sleep, fail and come back."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from appliance.errors import Conflict, Invalid, NotFound, Unavailable
from appliance.services.health import Answer
from appliance.services.model import Missing, Observed, State


async def ready(world, service: str) -> None:
    await world.until(lambda: world.services.is_ready(service), step=0.3)


def codes(world) -> list[str]:
    return [one.code for one in world.services.problems()]


async def test_at_boot_the_proxy_starts_and_the_ide_sleeps(world) -> None:
    await ready(world, "proxy")
    assert world.state("proxy") == "running"
    assert world.state("ide") == "stopped"
    assert world.services.view("ide").reason.key == "service.reason.asleep"
    assert [name for what, name, _ in world.runtime.done if what == "start"] == ["proxy"]


async def test_a_visit_wakes_the_ide_and_shows_progress_until_it_answers(world) -> None:
    world.probes["ide"].answer = Answer(False, "refused")
    assert world.services.wake("ide").actions == ()  # nothing has been looked at yet
    await world.until(lambda: world.runtime.starts("ide") != [])
    await world.until(lambda: world.services.view("ide").progress is not None)
    await world.until(lambda: world.services.view("ide").progress.phase == "loading")
    assert world.state("ide") == "starting"
    world.probes["ide"].answer = Answer(True)
    await ready(world, "ide")
    assert world.services.view("ide").progress is None
    assert world.state("ide") == "running"


async def test_ready_waits_for_a_passed_probe_and_gives_up_in_time(world) -> None:
    world.probes["ide"].answer = Answer(False)
    with pytest.raises(Unavailable):
        await world.services.ready("ide", 0.1)
    waiting = asyncio.create_task(world.services.ready("ide", 10))
    world.probes["ide"].answer = Answer(True)
    await world.until(waiting.done, step=0.3)
    await waiting


async def test_a_deliberate_stop_holds_against_visits_and_a_restart_of_the_daemon(world) -> None:
    world.services.wake("ide")
    await ready(world, "ide")
    await world.services.stop("ide", "owner")
    await world.until(lambda: world.state("ide") == "stopped")
    with pytest.raises(Unavailable, match="was stopped"):
        await world.services.ready("ide", 1)
    await world.down()
    await world.up()
    world.services.wake("ide")
    await world.pass_time(120, step=5)
    assert len(world.runtime.starts("ide")) == 1
    assert world.services.view("ide").reason.key == "service.reason.stopped"
    await world.services.start("ide", "owner")
    await ready(world, "ide")
    assert world.store.actors == ["owner", "owner"]


async def test_running_services_are_adopted_by_a_new_daemon(world) -> None:
    """R1: nothing is started or stopped when only the daemon was away."""
    world.services.wake("ide")
    await ready(world, "ide")
    await ready(world, "proxy")
    await world.down()
    before = len([one for one in world.runtime.done if one[0] != "close"])
    await world.up()
    await ready(world, "ide")
    await world.pass_time(120, step=5)
    assert len([one for one in world.runtime.done if one[0] != "close"]) == before


async def test_a_killed_service_is_back_at_once_and_a_second_time_after_ten_seconds(world) -> None:
    """R3."""
    await ready(world, "proxy")
    await world.pass_time(400, step=20)
    killed = world.clock.uptime()
    world.runtime.kill("proxy")
    await world.until(lambda: len(world.runtime.starts("proxy")) == 2, step=0.5)
    assert world.runtime.starts("proxy")[1] - killed <= 2
    await ready(world, "proxy")
    killed = world.clock.uptime()
    world.runtime.kill("proxy")
    await world.until(lambda: len(world.runtime.starts("proxy")) == 3, step=0.5)
    assert 10 <= world.runtime.starts("proxy")[2] - killed <= 12


async def test_a_crash_loop_is_slowed_parked_and_explained_and_touches_nothing_else(world) -> None:
    """R3: five tries at 10 s, backoff to 30 minutes, then parked with the last words."""
    await ready(world, "proxy")
    world.runtime.behaviour["ide"] = "dies"
    world.runtime.words["ide"] = [f"line {n}" for n in range(80)] + ["Error: cannot find module"]
    world.services.socket_opened()  # somebody is waiting, or it would go to sleep in between
    world.services.wake("ide")
    await world.until(lambda: "retrying" in codes(world), step=1)
    starts = world.runtime.starts("ide")
    assert len(starts) == 5
    assert all(10 <= later - earlier <= 13 for earlier, later in itertools.pairwise(starts))
    assert world.services.view("ide").retry_at is not None
    await world.until(lambda: world.services.view("ide").parked is not None, step=30)
    view = world.services.view("ide")
    assert view.parked == "crash_loop"
    assert view.state is State.FAILED
    assert len(view.log_tail) == 50
    assert view.log_tail[-1] == "Error: cannot find module"
    assert "crash_loop" in codes(world)
    parked = len(world.runtime.starts("ide"))
    world.services.wake("ide")
    await world.pass_time(7200, step=60)
    assert len(world.runtime.starts("ide")) == parked
    assert len(world.runtime.starts("proxy")) == 1
    with pytest.raises(Unavailable, match="given up"):
        await world.services.ready("ide", 1)


async def test_starting_it_by_hand_unparks_and_forgets(world) -> None:
    world.runtime.behaviour["ide"] = "dies"
    world.services.socket_opened()
    world.services.wake("ide")
    await world.until(lambda: world.services.view("ide").parked is not None, step=60)
    world.runtime.behaviour["ide"] = "runs"
    await world.services.start("ide", "owner")
    await ready(world, "ide")
    await world.until(lambda: world.services.view("ide").log_tail == ())
    assert world.services.view("ide").parked is None
    assert world.runtime.safe[-1] is False
    assert codes(world) == []


async def test_a_hung_service_is_restarted_and_the_ide_ends_in_safe_mode(world) -> None:
    """R4: two missed probes, then a restart; after five of them without extensions."""
    world.services.wake("ide")
    for _ in range(5):
        await ready(world, "ide")
        assert not world.services.view("ide").safe
        starts = len(world.runtime.starts("ide"))
        world.probes["ide"].answer = Answer(False, "no answer within 5 s")
        await world.until(lambda starts=starts: len(world.runtime.starts("ide")) > starts, step=1)
        world.probes["ide"].answer = Answer(True)
    await ready(world, "ide")
    assert world.services.view("ide").safe
    assert "ide_safe_mode" in codes(world)
    assert len([1 for what, name, _ in world.runtime.done if (what, name) == ("stop", "ide")]) == 5


async def test_one_missed_probe_turns_nobody_away(world) -> None:
    """A page of the editor loads some 200 files; a slow second must not answer half of them with 503."""
    assert not world.services.serves("ide")
    world.services.wake("ide")
    await ready(world, "ide")
    world.probes["ide"].answer = Answer(False, "no answer within 5 s")
    asked = world.probes["ide"].asked
    await world.until(lambda: world.probes["ide"].asked == asked + 1, step=5)
    assert not world.services.is_ready("ide")
    assert world.services.serves("ide")
    await world.services.stop("ide", "owner")
    await world.until(lambda: world.services.view("ide").state is State.STOPPED)
    assert not world.services.serves("ide")


async def test_one_missed_probe_restarts_nothing(world) -> None:
    await ready(world, "proxy")
    world.probes["proxy"].answer = Answer(False)
    asked = world.probes["proxy"].asked
    await world.until(lambda: world.probes["proxy"].asked == asked + 1, step=5)
    world.probes["proxy"].answer = Answer(True)
    await world.pass_time(120, step=3)
    assert len(world.runtime.starts("proxy")) == 1


async def test_silence_of_the_runtime_is_no_failure_of_any_service(world) -> None:
    """R5, R25: services are neither counted down nor duplicated; all is looked at again when it answers."""
    world.services.wake("ide")
    await ready(world, "proxy")
    await ready(world, "ide")
    before = list(world.runtime.done)
    world.runtime.lose(True)
    await world.until(lambda: "runtime_gone" in codes(world), step=1)
    await world.pass_time(600, step=10)
    assert world.runtime.done == before
    assert world.state("ide") == "running"
    world.runtime.lose(False)
    await world.until(lambda: "runtime_gone" not in codes(world), step=1)
    await world.pass_time(60, step=5)
    assert world.runtime.done == before


async def test_the_runtime_may_be_late_at_boot(world) -> None:
    """R25."""
    await world.down()
    world.runtime.rows["proxy"] = Observed("proxy", State.STOPPED)
    world.runtime.lose(True)
    await world.up()
    await world.pass_time(180, step=5)
    assert codes(world) == ["runtime_gone"]
    world.runtime.lose(False)
    await ready(world, "proxy")


async def test_looks_at_a_silent_runtime_become_rare(world) -> None:
    world.runtime.lose(True)
    await world.until(lambda: "runtime_gone" in codes(world))
    world.runtime.looks = 0
    for _ in range(600):  # ten minutes; the loop is nudged only by its own deadlines
        world.clock.advance(1)
        await asyncio.sleep(0)
    assert world.runtime.looks < 10


async def test_idle_stops_the_ide_and_open_windows_runs_and_terminals_keep_it(world) -> None:
    world.services.wake("ide")
    await ready(world, "ide")
    world.services.socket_opened()
    await world.pass_time(7200, step=120)
    assert world.services.view("ide").reason.key == "ide.awake.window"
    world.services.socket_closed()
    world.runs = 1
    await world.pass_time(2400, step=60)
    assert world.services.view("ide").reason.key == "ide.awake.run"
    world.runs, world.terminals = 0, 2
    await world.until(lambda: world.services.view("ide").reason.key == "ide.awake.terminal", step=60)
    world.terminals = 0
    await world.until(lambda: world.state("ide") == "stopped", step=60)
    assert world.services.view("ide").reason.key == "service.reason.asleep"
    world.services.wake("ide")
    await ready(world, "ide")


async def test_an_adopted_ide_falls_asleep_too(world) -> None:
    world.services.wake("ide")
    await ready(world, "ide")
    await world.down()
    await world.up()
    await world.until(lambda: world.state("ide") == "stopped", step=60)


async def test_the_ide_may_end_by_itself(world) -> None:
    world.services.wake("ide")
    await ready(world, "ide")
    world.runtime.kill("ide", exit_code=0)
    await world.until(lambda: world.state("ide") == "stopped")
    await world.pass_time(60, step=5)
    assert len(world.runtime.starts("ide")) == 1
    world.services.wake("ide")
    await ready(world, "ide")


async def test_restart_replaces_the_run_once(world) -> None:
    world.services.wake("ide")
    await ready(world, "ide")
    await world.services.restart("ide", "owner")
    await world.until(lambda: len(world.runtime.starts("ide")) == 2, step=0.3)
    await ready(world, "ide")
    await world.pass_time(120, step=5)
    assert [what for what, name, _ in world.runtime.done if name == "ide"] == ["start", "stop", "start"]


async def test_a_stop_that_stops_nothing_is_tried_again_and_not_all_the_time(world) -> None:
    """A process that the kernel does not let go of must not cost a processor as well."""
    world.services.wake("ide")
    await ready(world, "ide")
    world.runtime.unending.add("ide")
    await world.services.restart("ide", "owner")
    await world.pass_time(20, step=0.1)
    stops = [at for what, name, at in world.runtime.done if (what, name) == ("stop", "ide")]
    assert 10 <= len(stops) <= 25
    world.runtime.unending.clear()
    await world.until(lambda: len(world.runtime.starts("ide")) == 2, step=0.3)
    await ready(world, "ide")


async def test_a_taken_port_is_recognised_from_the_proxy_s_own_words(world) -> None:
    world.port_owner = "nginx"
    world.runtime.behaviour["proxy"] = "dies"
    world.runtime.words["proxy"] = [
        "Error: loading initial config: loading new config: http app module: start: listening on :443: "
        "listen tcp :443: bind: address already in use"
    ]
    await world.down()
    world.runtime.rows["proxy"] = Observed("proxy", State.STOPPED)
    await world.up()
    await world.until(lambda: "port_taken_by" in codes(world), step=1)
    found = world.services.problems()[0]
    assert found.params == {"port": 443, "owner": "nginx"}
    assert found.why.key == "problem.port_taken_by.why"


async def test_a_refused_start_backs_off(world) -> None:
    world.runtime.behaviour["ide"] = "refuses"
    world.services.wake("ide")
    await world.until(lambda: len(world.runtime.starts("ide")) == 3, step=1)
    assert world.runtime.starts("ide")[2] - world.runtime.starts("ide")[0] >= 20
    assert "start_failed" in codes(world)


async def test_a_missing_image_is_pulled_first_and_the_pull_dropped_when_no_longer_wanted(world) -> None:
    world.runtime.rows["ide"] = Observed("ide", State.ABSENT, missing=Missing.IMAGE)
    world.runtime.may_end.clear()
    world.services.wake("ide")
    await world.until(lambda: ("pull", "ide") in [one[:2] for one in world.runtime.done])
    await world.services.stop("ide", "owner")
    world.runtime.may_end.set()
    await world.pass_time(30)
    assert world.runtime.starts("ide") == []
    await world.services.start("ide", "owner")
    await ready(world, "ide")


async def test_what_is_not_installed_is_said_and_not_tried(world) -> None:
    await ready(world, "proxy")
    view = world.services.view("ai")
    assert view.state is State.ABSENT
    assert view.actions == ()
    assert view.reason.key == "service.reason.not_set_up"
    with pytest.raises(Conflict):
        await world.services.start("ai", "owner")
    with pytest.raises(Conflict):
        await world.services.ready("ai", 1)
    assert world.runtime.starts("ai") == []


async def test_names_and_wishes_that_make_no_sense_are_refused(world) -> None:
    with pytest.raises(NotFound):
        await world.services.start("postgres", "owner")
    with pytest.raises(NotFound):
        world.services.follow("../proxy", 10)
    with pytest.raises(Invalid):
        await world.services.stop("proxy", "owner")
    assert world.store.wishes == {}


async def test_the_end_waits_for_a_step_under_way_but_not_for_ever(world, monkeypatch) -> None:
    """R27."""
    await ready(world, "proxy")
    world.runtime.may_end.clear()
    world.services.wake("ide")
    await world.until(lambda: world.runtime.starts("ide") != [])
    asyncio.get_running_loop().call_later(0.2, world.runtime.may_end.set)
    assert await world.down() < 5
    assert world.runtime.rows["ide"].state is State.RUNNING  # ended in good order, and left running
    assert world.runtime.done[-1][0] == "close"
    assert ("stop", "ide") not in [one[:2] for one in world.runtime.done]


async def test_the_end_does_not_wait_for_a_pull(world) -> None:
    """R27."""
    world.runtime.rows["ide"] = Observed("ide", State.ABSENT, missing=Missing.IMAGE)
    await ready(world, "proxy")
    world.runtime.may_end.clear()
    world.services.wake("ide")
    await world.until(lambda: ("pull", "ide") in [one[:2] for one in world.runtime.done])
    assert await world.down() < 2


async def test_changes_are_published_and_quiet_is_quiet(world) -> None:
    async with world.bus.subscribe(["services"]) as events:
        await ready(world, "proxy")
        event = await asyncio.wait_for(anext(events), 5)
        assert {row["name"] for row in event.data["services"]} == {"proxy", "ide", "ai"}
        await world.pass_time(30)
        last = world.bus.last_id
        await world.pass_time(300, step=5)
        assert world.bus.last_id == last


async def test_an_idle_daemon_hardly_looks(world) -> None:
    """F3: two looks for each probe of the proxy, and nothing in between."""
    await ready(world, "proxy")
    await world.until(lambda: world.services.view("proxy").health == "healthy")
    world.runtime.looks = 0
    await asyncio.sleep(1)  # the one thing that cannot be polled for is that nothing happens
    assert world.runtime.looks <= 1


async def test_the_limits_follow_whatever_runs_and_whichever_model_is_chosen(world) -> None:
    """SYS-5: told once for each change, and again after a runtime that did not hear it."""
    await world.until(lambda: world.services.is_ready("proxy"))
    told = len(world.runtime.shared)
    await world.pass_time(30)
    assert len(world.runtime.shared) == told
    world.model_mb = 2309
    world.services.look()
    await world.until(lambda: world.runtime.shared[-1] == 2309)
    world.services.wake("ide")
    await world.until(lambda: world.services.is_ready("ide"))
    assert world.runtime.shared[told:] == [2309, 2309]
    world.runtime.lose(True)
    world.model_mb = None
    await world.pass_time(5)
    world.runtime.lose(False)
    await world.until(lambda: world.runtime.shared[-1] is None, step=1.0)


async def test_an_engine_without_room_rests_until_somebody_asks_again(world) -> None:
    """It says what to do, counts no failure, and tries nothing by itself."""
    world.runtime.rows["ai"] = Observed("ai", State.STOPPED)
    world.runtime.behaviour["ai"] = "no_room"
    await world.until(lambda: world.services.is_ready("proxy"))
    with pytest.raises(Unavailable) as refused:
        await world.services.ready("ai", 5)
    assert refused.value.code == "no_room"
    assert "restart the editor" in refused.value.hint
    assert [one.code for one in world.services.problems()] == ["no_room"]
    await world.pass_time(120, step=10)
    assert len(world.runtime.starts("ai")) == 1
    assert world.services.view("ai").parked is None
    world.runtime.behaviour["ai"] = "runs"
    await world.services.ready("ai", 5)
    assert world.services.problems() == []


async def test_a_problem_of_room_goes_with_what_took_it(world) -> None:
    world.runtime.rows["ai"] = Observed("ai", State.STOPPED)
    world.runtime.behaviour["ai"] = "no_room"
    world.services.wake("ide")
    await world.until(lambda: world.services.is_ready("ide"))
    with pytest.raises(Unavailable):
        await world.services.ready("ai", 5)
    await world.services.restart("ide", "root")
    await world.until(lambda: len(world.runtime.starts("ide")) == 2 and world.services.is_ready("ide"))
    assert world.services.problems() == []
    assert len(world.runtime.starts("ai")) == 1
