"""The planner and its memory, as properties over everything that can be seen, wanted and remembered (R3, R4, R13)."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from appliance.services import history as memory
from appliance.services.history import ENDED, History, Tuning
from appliance.services.model import (
    SERVICES,
    Desired,
    Missing,
    Observed,
    Park,
    Probe,
    Start,
    State,
    Step,
    Stop,
    Wait,
    Want,
)
from appliance.services.plan import NEVER_PARKED, plan

TUNING = Tuning()
NOW = 10_000.0

run_ids = st.one_of(st.none(), st.sampled_from(["a", "b"]))
times = st.one_of(st.none(), st.floats(0, NOW))
observations = st.builds(
    Observed,
    service=st.sampled_from(SERVICES),
    state=st.sampled_from(State),
    run_id=run_ids,
    exit_code=st.one_of(st.none(), st.integers(-1, 255)),
    signal=st.sampled_from([0, 9, 15]),
    oom_killed=st.booleans(),
    missing=st.sampled_from(Missing),
    outdated=st.booleans(),
)
wishes = st.builds(
    Desired,
    service=st.sampled_from(SERVICES),
    want=st.sampled_from(Want),
    awake=st.booleans(),
    generation=st.integers(0, 2),
    replaced_run=run_ids,
    fetch_at=st.one_of(st.none(), st.floats(0, NOW * 2)),
)
histories = st.builds(
    History,
    generation=st.integers(0, 2),
    run_id=run_ids,
    seen_at=st.floats(0, NOW),
    begun=st.booleans(),
    over=st.booleans(),
    told_to_stop=st.booleans(),
    rested=st.booleans(),
    healthy_since=times,
    probed_at=times,
    missed=st.integers(0, 5),
    failures=st.integers(0, 40),
    cause=st.sampled_from(["", "exited", "out_of_memory", "unhealthy"]),
    retry_at=st.floats(0, NOW * 2),
    parked=st.sampled_from(["", "crash_loop"]),
    safe=st.booleans(),
)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Observed], dict, dict]:
    names = draw(st.permutations(SERVICES))
    seen = [replace(draw(observations), service=name) for name in names]
    return (
        seen,
        {name: replace(draw(wishes), service=name) for name in names},
        {name: draw(histories) for name in names},
    )


def next_step(seen: Observed, wish: Desired, history: History, now: float = NOW) -> Step | None:
    steps = plan([seen], {seen.service: wish}, {seen.service: history}, now, TUNING)
    return steps[0] if steps else None


@given(worlds())
def test_plan_is_total_repeatable_and_has_at_most_one_step_per_service(world) -> None:
    steps = plan(*world, NOW, TUNING)
    assert steps == plan(*world, NOW, TUNING)
    assert all(isinstance(step, get_args(Step)) for step in steps)
    assert [step.service for step in steps] == [name for name in SERVICES if name in {s.service for s in steps}]


@given(worlds())
def test_nothing_starts_what_was_stopped_parked_rests_or_is_up(world) -> None:
    """R3: a deliberate stop stays, a parked service stays parked."""
    seen, desired, remembered = world
    states = {one.service: one for one in seen}
    for step in plan(seen, desired, remembered, NOW, TUNING):
        name = step.service
        if isinstance(step, Start):
            assert desired[name].running
            assert not remembered[name].parked
            assert not remembered[name].rested
            assert remembered[name].retry_at <= NOW
            assert states[name].state in ENDED
            assert states[name].missing is not Missing.PROGRAM
        if isinstance(step, Stop | Probe):
            assert states[name].state not in ENDED
        if isinstance(step, Wait):
            assert step.until > NOW
        if isinstance(step, Park):
            assert name not in NEVER_PARKED


@given(worlds())
def test_what_is_up_and_unwanted_is_stopped(world) -> None:
    seen, desired, _remembered = world
    stops = {step.service for step in plan(*world, NOW, TUNING) if isinstance(step, Stop)}
    for one in seen:
        if one.state in {State.STARTING, State.RUNNING} and not desired[one.service].running:
            assert one.service in stops


@given(observations, wishes, histories, st.floats(0, 0.999))
def test_learning_twice_from_one_look_is_learning_once(seen, wish, history, jitter) -> None:
    once = memory.learn(history, seen, wish, NOW, jitter, TUNING)
    assert memory.learn(once, seen, wish, NOW, jitter, TUNING) == once


@given(observations, wishes, histories)
def test_learning_never_counts_a_wanted_end_as_a_failure(seen, wish, history) -> None:
    """A stop that was asked for, or that we did, is no failure; nor is going to sleep when unused."""
    learnt = memory.learn(history, seen, wish, NOW, 0.5, TUNING)
    base = 0 if wish.generation != history.generation else history.failures
    assert learnt.failures in {0, base, base + 1}
    if not wish.running or (history.told_to_stop and seen.run_id == history.run_id):
        assert learnt.failures <= base
    if wish.want is Want.ON_DEMAND and seen.exit_code == 0 and not seen.signal:
        assert learnt.failures <= base


@given(st.integers(1, 200), st.floats(0, 0.999), st.booleans())
def test_backoff_never_shrinks_and_is_capped(failures, jitter, worked) -> None:
    first = TUNING.delay(failures, jitter, worked=worked)
    assert first <= TUNING.delay(failures + 1, jitter, worked=worked) <= TUNING.longest_retry
    assert first >= TUNING.quick_retry


def test_backoff_figures() -> None:
    """R3: 10 s, five tries, then doubling up to 30 minutes."""
    assert [TUNING.delay(n, 0, worked=False) for n in range(1, 15)] == [
        10,
        10,
        10,
        10,
        10,
        20,
        40,
        80,
        160,
        320,
        640,
        1280,
        1800,
        1800,
    ]


def fail_until_given_up(service: str) -> list[Step | None]:
    """The steps of a service that ends with status 1 as soon as it is started."""
    wish = Desired(service, Want.RUN)
    history, now, steps = History(), NOW, []
    for number in range(40):
        seen = Observed(service, State.FAILED, run_id=f"run{number}", exit_code=1)
        history = memory.learn(history, seen, wish, now, 0.0, TUNING)
        step = next_step(seen, wish, history, now)
        if isinstance(step, Wait):
            now = step.until
            step = next_step(seen, wish, history, now)
        steps.append(step)
        if not isinstance(step, Start):
            break
        history = memory.began(history, safe=step.safe)
    return steps


def test_a_crash_loop_is_parked_after_the_longest_wait() -> None:
    """R3."""
    steps = fail_until_given_up("ai")
    assert steps[-1] == Park("ai", "crash_loop")
    assert len(steps) == TUNING.gives_up_after + 1


def test_the_ide_falls_back_to_safe_mode_after_five_restarts() -> None:
    """R4."""
    steps = fail_until_given_up("ide")
    assert [step.safe for step in steps[:6]] == [False] * 5 + [True]
    assert steps[-1] == Park("ide", "crash_loop")


def test_the_proxy_is_never_given_up() -> None:
    """R25: no state may need a shell on the machine."""
    assert all(isinstance(step, Start) for step in fail_until_given_up("proxy"))


def test_a_person_or_a_new_configuration_unparks() -> None:
    seen = Observed("ai", State.FAILED, run_id="a", exit_code=1)
    history = History(run_id="a", failures=20, retry_at=NOW + 900, parked="crash_loop")
    wish = Desired("ai", Want.RUN)
    assert next_step(seen, wish, memory.learn(history, seen, wish, NOW, 0, TUNING)) is None
    wish = replace(wish, generation=1)
    assert next_step(seen, wish, memory.learn(history, seen, wish, NOW, 0, TUNING)) == Start("ai")


def test_a_model_too_big_for_memory_is_parked_at_once() -> None:
    """R13."""
    wish = Desired("ai", Want.ON_DEMAND, awake=True)
    history = memory.began(History(), safe=False)
    seen = Observed("ai", State.FAILED, run_id="a", signal=9, oom_killed=True)
    assert next_step(seen, wish, memory.learn(history, seen, wish, NOW, 0, TUNING)) == Park("ai", "too_big")


def test_two_missed_probes_restart_and_one_does_not() -> None:
    """R4."""
    seen = Observed("ide", State.RUNNING, run_id="a")
    wish = Desired("ide", Want.RUN)
    history = memory.learn(History(), seen, wish, NOW, 0, TUNING)
    history = memory.probed(history, "a", True, NOW)
    history = memory.probed(history, "a", False, NOW + 30)
    assert next_step(seen, wish, history, NOW + 30) == Wait("ide", NOW + 35, "probing")
    history = memory.probed(history, "a", False, NOW + 35)
    assert next_step(seen, wish, history, NOW + 35) == Stop("ide", "unhealthy")


def test_a_slow_start_is_not_a_missed_probe_but_has_a_limit() -> None:
    seen = Observed("ide", State.RUNNING, run_id="a")
    wish = Desired("ide", Want.RUN)
    history = memory.learn(History(), seen, wish, NOW, 0, TUNING)
    for second in range(20):
        history = memory.probed(history, "a", False, NOW + second)
    assert isinstance(next_step(seen, wish, history, NOW + 20), Probe | Wait)
    assert next_step(seen, wish, history, NOW + 90) == Stop("ide", "too_slow")


def test_an_answer_for_an_earlier_run_is_ignored() -> None:
    history = History(run_id="b", over=False, healthy_since=NOW)
    assert memory.probed(history, "a", False, NOW) == history


def test_the_ide_ending_by_itself_when_unused_is_no_failure() -> None:
    wish = Desired("ide", Want.ON_DEMAND, awake=True)
    history = memory.learn(History(), Observed("ide", State.RUNNING, run_id="a"), wish, NOW, 0, TUNING)
    ended = Observed("ide", State.STOPPED, run_id="a", exit_code=0)
    history = memory.learn(history, ended, wish, NOW, 0, TUNING)
    assert history.failures == 0
    assert next_step(ended, wish, history) is None
    assert next_step(ended, wish, memory.woken(history)) == Start("ide")


def test_the_proxy_ending_by_itself_is_a_failure_whatever_its_status() -> None:
    wish = Desired("proxy", Want.RUN)
    history = memory.learn(History(), Observed("proxy", State.RUNNING, run_id="a"), wish, NOW, 0, TUNING)
    ended = Observed("proxy", State.STOPPED, run_id="a", exit_code=0)
    history = memory.learn(history, ended, wish, NOW, 0, TUNING)
    assert history.failures == 1
    assert next_step(ended, wish, history) == Wait("proxy", NOW + 10, "backing_off")


def test_an_outdated_configuration_is_replaced_once_the_service_works() -> None:
    """Not before: a proxy that has not answered yet may be about to get the certificate that makes it outdated."""
    seen = Observed("proxy", State.RUNNING, run_id="a", outdated=True)
    wish = Desired("proxy", Want.RUN)
    history = memory.learn(History(), seen, wish, NOW, 0, TUNING)
    assert next_step(seen, wish, history) == Probe("proxy")
    history = memory.probed(history, "a", True, NOW)
    assert next_step(seen, wish, history) == Stop("proxy", "outdated")
    ended = replace(seen, state=State.STOPPED)
    history = memory.learn(memory.stopping(history), ended, wish, NOW + 1, 0, TUNING)
    assert next_step(ended, wish, history, NOW + 1) == Start("proxy")
    assert history.failures == 0


def test_a_restart_ends_the_run_it_names_and_no_other() -> None:
    wish = Desired("ide", Want.RUN, replaced_run="a")
    assert next_step(Observed("ide", State.RUNNING, run_id="a"), wish, History(run_id="a")) == Stop("ide", "asked")
    history = History(run_id="b", seen_at=NOW, over=False)
    assert isinstance(next_step(Observed("ide", State.RUNNING, run_id="b"), wish, history), Probe)


def test_failures_are_forgotten_after_a_good_stretch_but_not_in_safe_mode() -> None:
    seen = Observed("ide", State.RUNNING, run_id="a")
    wish = Desired("ide", Want.RUN)
    good = History(run_id="a", over=False, healthy_since=NOW - 300, failures=4)
    assert memory.learn(good, seen, wish, NOW, 0, TUNING).failures == 0
    assert memory.learn(replace(good, safe=True), seen, wish, NOW, 0, TUNING).failures == 4


def test_what_runs_when_the_daemon_returns_is_left_alone() -> None:
    """R1: adopted, not restarted."""
    seen = Observed("proxy", State.RUNNING, run_id="old", since=1.0)
    wish = Desired("proxy", Want.RUN)
    assert next_step(seen, wish, memory.learn(History(), seen, wish, NOW, 0, TUNING)) == Probe("proxy")
