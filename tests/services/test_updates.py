"""Updating a service: what runs goes on until the other version is there (R6)."""

from __future__ import annotations

import pytest

from appliance.errors import Conflict
from appliance.services.model import Supply


async def running(world, service: str) -> str:
    """Have it run; its run."""
    world.services.wake(service)
    await world.until(lambda: world.services.is_ready(service), step=0.3)
    return world.runtime.rows[service].run_id


def pulls(world) -> int:
    return len([1 for what, *_ in world.runtime.done if what == "pull"])


def problems(world) -> list[str]:
    return [one.code for one in world.services.problems()]


async def test_what_runs_goes_on_while_the_other_version_is_fetched_and_then_gives_way(world) -> None:
    run = await running(world, "ide")
    world.runtime.supplies = Supply.FETCH
    world.runtime.may_end.clear()
    assert await world.services.update("ide", "owner") is Supply.FETCH
    await world.until(lambda: pulls(world) == 1)
    assert world.runtime.rows["ide"].run_id == run
    assert world.services.serves("ide")
    assert world.services.view("ide").updating
    world.runtime.may_end.set()
    await world.until(lambda: world.services.is_ready("ide") and world.runtime.rows["ide"].run_id != run, step=0.3)
    assert not world.services.view("ide").updating
    assert pulls(world) == 1
    assert problems(world) == []


async def test_a_registry_that_is_down_changes_nothing_and_is_asked_again(world) -> None:
    run = await running(world, "ide")
    world.runtime.supplies, world.runtime.registry_down = Supply.FETCH, True
    await world.services.update("ide", "owner")
    await world.until(lambda: "update_failed" in problems(world), step=0.3)
    found = next(one for one in world.services.problems() if one.code == "update_failed")
    assert found.params == {"cause": "cannot pull: the registry is down"}
    assert world.runtime.rows["ide"].run_id == run
    assert world.services.serves("ide")
    world.runtime.registry_down = False
    await world.until(lambda: world.runtime.rows["ide"].run_id not in (run, None), step=1.0)
    await world.until(lambda: problems(world) == [], step=1.0)


async def test_it_is_given_up_after_five_tries_and_the_problem_stays(world) -> None:
    run = await running(world, "ide")
    world.runtime.supplies, world.runtime.registry_down = Supply.FETCH, True
    await world.services.update("ide", "owner")
    await world.until(lambda: pulls(world) == 5, step=1.0)
    await world.pass_time(120)
    assert pulls(world) == 5
    assert not world.services.view("ide").updating
    assert world.runtime.rows["ide"].run_id == run
    assert "update_failed" in problems(world)


async def test_a_sleeping_service_is_fetched_and_sleeps_on(world) -> None:
    await world.until(lambda: world.state("ide") == "stopped")
    world.runtime.supplies = Supply.FETCH
    await world.services.update("ide", "owner")
    await world.until(lambda: pulls(world) == 1 and not world.services.view("ide").updating, step=0.3)
    assert world.runtime.starts("ide") == []


async def test_stopping_it_ends_the_update(world) -> None:
    await running(world, "ide")
    world.runtime.supplies, world.runtime.registry_down = Supply.FETCH, True
    await world.services.update("ide", "owner")
    await world.until(lambda: pulls(world) == 1, step=0.3)
    await world.services.stop("ide", "owner")
    await world.until(lambda: world.state("ide") == "stopped", step=0.3)
    await world.pass_time(60)
    assert world.state("ide") == "stopped"


@pytest.mark.parametrize(("supply", "anew"), [("current", False), ("held", True), ("installer", True)])
async def test_without_fetching_it_is_started_anew_or_left_alone(world, supply: str, anew: bool) -> None:
    run = await running(world, "ide")
    world.runtime.supplies = Supply(supply)
    assert await world.services.update("ide", "owner") == supply
    if anew:
        await world.until(lambda: world.runtime.rows["ide"].run_id != run, step=0.3)
    await world.pass_time(10)
    assert (world.runtime.rows["ide"].run_id != run) is anew
    assert pulls(world) == 0


async def test_what_is_not_installed_cannot_be_updated(world) -> None:
    await world.until(lambda: world.services.is_ready("proxy"), step=0.3)
    with pytest.raises(Conflict, match="not installed"):
        await world.services.update("ai", "owner")
