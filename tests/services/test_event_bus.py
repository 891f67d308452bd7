"""The event bus: nothing is missed without being told, nobody is waited for, and ids only grow."""

from __future__ import annotations

import asyncio

from appliance.clock import ManualClock
from appliance.events import LOST, EventBus


async def take(events, count: int) -> list:
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(count)]


async def test_readers_get_what_they_asked_for_in_order() -> None:
    bus = EventBus(ManualClock())
    async with bus.subscribe(["a", "b"]) as events:
        for number in range(3):
            bus.publish("a", {"n": number})
            bus.publish("c", {"n": number})
        bus.publish("b", {})
        found = await take(events, 4)
    assert [event.topic for event in found] == ["a", "a", "a", "b"]
    assert [event.id for event in found] == sorted(event.id for event in found)


async def test_a_reader_that_comes_back_gets_what_it_missed() -> None:
    bus = EventBus(ManualClock())
    seen = bus.publish("a", {"n": 1})
    bus.publish("a", {"n": 2})
    async with bus.subscribe(["a"], after=seen.id) as events:
        assert [event.data["n"] for event in await take(events, 1)] == [2]


async def test_what_is_gone_is_said_to_be_lost() -> None:
    bus = EventBus(ManualClock(), kept=3)
    first = bus.publish("a", {"n": 0})
    for number in range(1, 6):
        bus.publish("a", {"n": number})
    async with bus.subscribe(["a"], after=first.id) as events:
        found = await take(events, 4)
    assert [event.topic for event in found] == [LOST, "a", "a", "a"]
    assert [event.id for event in found] == sorted(event.id for event in found)


async def test_a_reader_from_before_a_restart_is_told_that_it_missed_something() -> None:
    clock = ManualClock()
    before = EventBus(clock).publish("a", {})
    clock.advance(5)
    bus = EventBus(clock)
    async with bus.subscribe(["a"], after=before.id) as events:
        assert [event.topic for event in await take(events, 1)] == [LOST]
        later = bus.publish("a", {})
        assert await take(events, 1) == [later]
    assert later.id > before.id


async def test_an_id_from_the_future_means_lost_too() -> None:
    """R9: the clock may have been set back between two starts."""
    bus = EventBus(ManualClock())
    bus.publish("a", {})
    async with bus.subscribe(["a"], after=bus.last_id + 10_000_000) as events:
        assert [event.topic for event in await take(events, 2)] == [LOST, "a"]


async def test_nothing_is_lost_when_nothing_happened() -> None:
    bus = EventBus(ManualClock())
    async with bus.subscribe(["a"], after=bus.last_id) as events:
        event = bus.publish("a", {})
        assert await take(events, 1) == [event]


async def test_a_slow_reader_gets_one_lost_event_and_goes_on_and_nobody_waits() -> None:
    bus = EventBus(ManualClock(), waiting=10)
    async with bus.subscribe(["a"]) as slow, bus.subscribe(["a"]) as quick:
        got = 0
        for number in range(25):
            bus.publish("a", {"n": number})
            got += len(await take(quick, 1))
        assert got == 25
        found = await take(slow, 5)
        assert [event.topic for event in found] == [LOST, "a", "a", "a", "a"]
        assert found[-1].data == {"n": 24}
        assert [event.id for event in found] == sorted(event.id for event in found)
        bus.publish("a", {"n": "more"})
        assert (await take(slow, 1))[0].data == {"n": "more"}


async def test_closing_ends_the_readers_it_fits_and_no_other() -> None:
    bus = EventBus(ManualClock())
    async with bus.subscribe(["a"], tag="revoked") as ended, bus.subscribe(["a"], tag="other") as goes_on:
        waiting = asyncio.create_task(anext(ended, None))
        await asyncio.sleep(0)
        assert bus.close(lambda tag: tag == "revoked") == 1
        bus.publish("a", {})
        assert await asyncio.wait_for(waiting, 5) is None
        assert len(await take(goes_on, 1)) == 1


async def test_a_reader_that_left_is_forgotten() -> None:
    bus = EventBus(ManualClock())
    async with bus.subscribe(["a"]):
        assert bus.watched("a")
        assert not bus.watched("b")
    assert not bus.watched("a")
