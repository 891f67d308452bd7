"""POL-13, R9: budgets per person, session and rule; they survive restarts and no clock makes them more."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import room_in
from support.daemon import POLICY

from appliance.clock import ManualClock
from appliance.commands.asker import Asker
from appliance.commands.assessing import Proposal
from appliance.commands.history import Run
from appliance.commands.language import load
from appliance.commands.limits import DAY, MOST_IN_NAME, MOST_PENDING, Bucket, LimitReached, budgets
from appliance.commands.model import Actor, Rate


@given(
    st.integers(1, 50),
    st.integers(1, 200),
    st.lists(st.floats(0, 5000, allow_nan=False), min_size=1, max_size=300),
)
def test_a_budget_is_never_exceeded(per_minute, per_day, pauses):
    """Whatever the pattern: burst plus what has flown in since, and no more than a day's worth in its day."""
    rate, now, taken, uses = Rate(per_minute, per_day), 0.0, 0, []
    bucket = Bucket(per_minute, 0, 0.0, 0.0)
    for pause in pauses:
        now += pause
        bucket.advance(rate, now)
        refused = bucket.wait(rate)
        if refused is None:
            bucket.take()
            taken += 1
            uses.append(now)
        else:
            assert 0 < refused[1] <= DAY
    assert taken <= per_minute + now * per_minute / 60 + 1e-6
    for first in uses[:1]:
        assert sum(first <= use < first + DAY for use in uses) <= per_day


@given(st.integers(1, 60), st.floats(0.1, 59))
def test_who_waits_as_long_as_told_may_go_on(per_minute, pause):
    rate, bucket = Rate(per_minute, 10_000), Bucket(0.0, 1, 0.0, 0.0)
    bucket.advance(rate, pause)
    if refused := bucket.wait(rate):
        bucket.advance(rate, pause + refused[1] + 1e-6)
        assert bucket.wait(rate) is None


def test_tokens_and_sessions_have_their_own():
    person = Asker(Actor.HUMAN, "operator", "u1", session="s1")
    assert set(budgets(person, "ls", Rate())) == {"user:u1", "session:s1", "rule:ls:user:u1"}
    assert "token:t1" in budgets(Asker(Actor.TOKEN, "operator", "u1", token="t1"), "ls", Rate())


def test_many_tokens_of_one_person_have_no_more():
    for asker in (Asker(Actor.TOKEN, "operator", "u1", token="t1"), Asker(Actor.AI, "operator", "u1")):
        assert "user:u1" in budgets(asker, "ls", Rate())


STRICT = POLICY.replace("per_minute = 600, per_day = 10000", "per_minute = 3, per_day = 5")


async def test_too_many_says_when_to_come_back(broker):
    async with room_in(broker, STRICT) as room:
        for _ in range(3):
            await room.propose("true", wait=5)
        async with room.front.ask(
            "POST", "/api/commands", room.cookies["operator"], json={"argv": ["true"]}
        ) as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"], response.headers["Retry-After"]) == (429, "rate_minute", "20")
            assert error["hint"] == "Try again in 20 s."
        assert (await room.propose("echo", "another", wait=5))["state"] == "done"
        assert (await room.propose("true", who="admin", wait=5))["state"] == "done"
        room.front.clock.advance(20)
        assert (await room.propose("true", wait=5))["state"] == "done"


async def test_budgets_survive_a_restart_and_a_clock_that_jumps(broker):
    clock = ManualClock()
    async with room_in(broker, STRICT, clock) as room:
        for _ in range(3):
            await room.propose("true", wait=5)
    for jump in (365 * DAY, -730 * DAY):
        clock.wall += jump
        async with room_in(broker, STRICT, clock) as room:
            refused = await room.ask("POST", "/api/commands", status=429, json={"argv": ["true"]})
            assert refused["error"]["code"] == "rate_minute"
    clock.advance(60)
    async with room_in(broker, STRICT, clock) as room:
        await room.propose("true", wait=5)
        await room.propose("true", wait=5)
        refused = await room.ask("POST", "/api/commands", status=429, json={"argv": ["true"]})
        assert refused["error"]["code"] == "rate_day"


async def test_runs_at_once_are_bounded_by_rule(broker):
    async with room_in(broker, STRICT) as room:
        room.front.policy = load(POLICY.replace("parallel = 12", "parallel = 2"))
        runs = [await room.propose("sleep", "30") for _ in range(2)]
        refused = await room.ask("POST", "/api/commands", status=429, json={"argv": ["sleep", "30"]})
        assert refused["error"]["code"] == "rate_parallel"
        assert (await room.propose("sleep", "30", who="admin"))["state"] == "running"
        for run in runs:
            await room.ask("POST", f"/api/commands/{run['id']}/cancel", status=200)
        assert (await room.propose("sleep", "0", wait=10))["state"] == "done"


def asks(person: str, number: int) -> Asker:
    return Asker(Actor.TOKEN, "operator", person, token=f"tok_{number}")


async def test_many_tokens_of_one_person_fill_no_inbox(room):
    """AI-6: what acts in a person's name has one bound; the person and everybody else keep their room."""
    person, other = [(await room.front.member(role)).id for role in ("operator", "admin")]

    async def ask(asker: Asker, number: int) -> str:
        try:
            return (await room.front.commands.propose(asker, Proposal(stages=(("sh", "-c", f"echo {number}"),)))).state
        except LimitReached as limit:
            return limit.code

    answers = await asyncio.gather(*(ask(asks(person, number), number) for number in range(40)))
    assert sorted(answers) == ["rate_in_name"] * (40 - MOST_IN_NAME) + ["waiting"] * MOST_IN_NAME
    assert await ask(Asker(Actor.AI, "operator", person, session="c"), 50) == "rate_in_name"
    room.front.clock.boot += 299
    with pytest.raises(LimitReached) as refused:
        await room.front.commands.propose(asks(person, 1), Proposal(stages=(("sh", "-c", "true"),)))
    assert refused.value.retry_after == pytest.approx(1, abs=0.5)
    assert await ask(asks(other, 99), 51) == "waiting"
    mine = [await ask(Asker(Actor.HUMAN, "operator", person, session="s"), number) for number in range(MOST_PENDING)]
    assert mine == ["waiting"] * MOST_PENDING
    assert room.front.commands.approvals.pending == MOST_IN_NAME + 1 + MOST_PENDING


async def test_one_asker_at_once_has_no_more_than_one_after_the_other(room):
    asker = Asker(Actor.HUMAN, "operator", (await room.front.member("operator")).id, session="s")
    asked = (room.front.commands.propose(asker, Proposal(stages=(("sh", "-c", f"echo {n}"),))) for n in range(30))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(one, LimitReached) for one in answers) == 30 - MOST_PENDING
    assert room.front.commands.approvals.pending == MOST_PENDING


async def test_a_denial_holds_for_every_token_of_a_person(room):
    """AI-6: asking again by another token is the same question; by themselves the person may ask, and others' tokens too."""
    person, other = [(await room.front.member(role)).id for role in ("operator", "admin")]
    commands, proposal = room.front.commands, Proposal(stages=(("sh", "-c", "true"),))
    by_themselves = Asker(Actor.HUMAN, "operator", person, session="s")
    asked = await commands.propose(asks(person, 1), proposal)
    await commands.deny(by_themselves, asked.id)
    for asker in (asks(person, 1), asks(person, 2), Asker(Actor.AI, "operator", person, session="c")):
        assert (await commands.propose(asker, proposal)).reason.key == "command.refused.muted"
    for asker in (by_themselves, asks(other, 3)):
        assert (await commands.propose(asker, proposal)).state == "waiting"


async def test_a_question_is_put_again_only_where_its_card_says_less_than_it_must(room):
    """AI-3: asked after foreign words were read, it gets a card that says so, and who asks next may share that one."""
    person = (await room.front.member("operator")).id
    proposal = Proposal(stages=(("sh", "-c", "true"),))

    async def ask(tainted: bool) -> Run:
        asker = Asker(Actor.AI, "operator", person, session="c", tainted=tainted)
        return await room.front.commands.propose(asker, proposal)

    clean = await ask(tainted=False)
    assert (await ask(tainted=False)).id == clean.id
    warned = await ask(tainted=True)
    assert (warned.state, warned.asker.tainted, warned.hash) == ("waiting", True, clean.hash)
    assert warned.id != clean.id
    assert (await ask(tainted=True)).id == warned.id
    decider = Asker(Actor.HUMAN, "operator", person, session="s")
    await room.front.commands.cancel(decider, clean.id)
    assert (await ask(tainted=False)).id == warned.id
