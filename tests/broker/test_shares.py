"""What each service may use (SYS-5): at its start, and while others start beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from appliance.broker.shares import (
    LEAST_MB,
    SLACK_MB,
    Machine,
    NoRoom,
    Plan,
    Use,
    given,
    lowered,
    measure,
    plan,
    raised,
)

NEEDS = st.none() | st.integers(0, 1 << 20)


@for_all(st.integers(960, 1 << 20), st.integers(1, 64), st.booleans(), st.integers(0, 1 << 21), NEEDS)
def test_the_limits_together_leave_room_for_the_daemon_and_sshd(memory, cpus, docker, wish, model) -> None:
    """SYS-5: at least 256 MiB and a tenth of the processors."""
    shares = plan(Machine(memory, cpus), docker=docker, ide_memory_mb=wish, model_mb=model).shares
    least = (
        LEAST_MB if "ai" in shares and wish else 0
    )  # an owner who gives all to the IDE leaves the engine the least there is
    assert sum(share.memory_mb for share in shares.values()) <= memory - 256 + least
    assert all(share.memory_mb >= LEAST_MB for share in shares.values() if not wish)
    assert all(0 < share.cpus <= cpus * 0.9 + 0.01 for share in shares.values())


@pytest.mark.parametrize(
    ("memory", "docker", "model", "ide"),
    [
        (1000, False, None, 616),
        (1990, False, None, 1606),
        (1990, True, 0, 494),
        (3950, True, 0, 1180),
        (7900, True, None, 7087),
    ],
)
def test_the_ide_s_share(memory, docker, model, ide) -> None:
    assert plan(Machine(memory, 2), docker=docker, model_mb=model).shares["ide"].memory_mb == ide


@pytest.mark.parametrize(
    ("memory", "model", "ide", "ai"),
    [
        (3891, 0, 1160, 2155),
        (3891, 1200, 1160, 2155),  # it fits as it is
        (3891, 2309, 1006, 2309),
        (3891, 3000, 800, 2515),  # no model makes the editor smaller than that
        (1990, 3000, 494, 920),
    ],
)
def test_the_ide_gives_way_to_the_model_down_to_what_is_enough(memory: int, model: int, ide: int, ai: int) -> None:
    shares = plan(Machine(memory, 2), docker=True, model_mb=model).shares
    assert (shares["ide"].memory_mb, shares["ai"].memory_mb) == (ide, ai)


def settle(plan: Plan, running: dict[str, Use]) -> None:
    """As a backend does it where the kernel takes every limit."""
    for name, limit in lowered(plan, running).items():
        running[name] = running[name]._replace(limit_mb=limit)
    for name, limit in raised(plan, running).items():
        running[name] = running[name]._replace(limit_mb=limit)


Step = tuple[str, int | None, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["ide", "ai", "end ide", "end ai", "share"]), NEEDS, st.integers(0, 1 << 17))
)


@for_all(st.integers(1800, 1 << 16), st.booleans(), STEPS)
def test_whatever_comes_after_what_the_limits_stay_within_the_machine(
    memory: int, docker: bool, steps: list[Step]
) -> None:
    """SYS-5: models chosen, changed and taken away while editor and engine come and go, and while they hold as much as they may."""
    running: dict[str, Use] = {}
    for what, model, held in steps:
        now = plan(Machine(memory, 2), docker=docker, model_mb=0 if what == "ai" and model is None else model)
        if what.startswith("end"):
            running.pop(what.removeprefix("end "), None)
            continue
        running = {name: Use(use.limit_mb, min(held, use.limit_mb)) for name, use in running.items()}
        settle(now, running)
        if what in now.shares and what not in running:
            try:
                running[what] = Use(given(now, what, running).memory_mb, 0)
            except NoRoom:
                assert what == "ai"
        assert all(use.held_mb <= use.limit_mb for use in running.values()), "no limit below what is held"
        assert sum(use.limit_mb for use in running.values()) <= memory - 256 - now.shares["proxy"].memory_mb


def four_gigabytes(model_mb: int | None) -> Plan:
    return plan(Machine(3891, 2), docker=False, model_mb=model_mb)


def test_an_editor_that_was_started_without_a_model_gives_way_to_the_first() -> None:
    running = {"ide": Use(four_gigabytes(None).shares["ide"].memory_mb, 500)}
    assert running["ide"].limit_mb == 3507
    settle(four_gigabytes(2309), running)
    assert running["ide"].limit_mb == 1198
    assert given(four_gigabytes(2309), "ai", running).memory_mb == 2309


def test_an_editor_gives_what_it_can_and_the_engine_starts_if_its_model_fits_in_that() -> None:
    running = {"ide": Use(3507, 1500)}
    settle(four_gigabytes(1200), running)
    assert running["ide"].limit_mb == 1500 + SLACK_MB
    assert given(four_gigabytes(1200), "ai", running).memory_mb == 3507 - 1500 - SLACK_MB


def test_an_engine_whose_model_would_not_fit_in_what_is_left_does_not_start() -> None:
    running = {"ide": Use(3507, 1500)}
    settle(four_gigabytes(2309), running)
    with pytest.raises(NoRoom):
        given(four_gigabytes(2309), "ai", running)
    running["ide"] = Use(1564, 900)  # windows were closed
    settle(four_gigabytes(2309), running)
    assert given(four_gigabytes(2309), "ai", running).memory_mb == 2309


def test_the_editor_gets_back_what_the_engine_had_only_when_that_has_ended() -> None:
    running = {"ide": Use(1227, 700), "ai": Use(2280, 2000)}
    settle(four_gigabytes(None), running)
    assert running["ide"].limit_mb == 1227
    del running["ai"]
    settle(four_gigabytes(None), running)
    assert running["ide"].limit_mb == 3507


def machine_files(folder: Path, cgroup: str, **limits: str) -> tuple[Path, Path]:
    proc, cgroups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:       8388608 kB\nMemFree: 1 kB\n")
    (proc / "self/cgroup").write_text(cgroup)
    for name, value in limits.items():
        path = cgroups / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")
    return proc, cgroups


@pytest.mark.parametrize(
    ("cgroup", "limits", "memory"),
    [
        ("0::/\n", {}, 8192),
        ("0::/\n", {"memory_dot_max": "2147483648"}, 2048),
        ("0::/cage/inner\n", {"cage__memory_dot_max": "1073741824", "cage__inner__memory_dot_max": "max"}, 1024),
        ("0::/system.slice/croft.service\n", {"system.slice__croft.service__memory_dot_max": "268435456"}, 8192),
        (
            "7:cpu:/x\n4:memory:/cage\n",
            {
                "memory__cage__memory_dot_limit_in_bytes": "2147483648",
                "memory__memory_dot_limit_in_bytes": "9223372036854771712",
            },
            2048,
        ),
    ],
)
def test_the_machine_is_what_its_cage_leaves_of_it(tmp_path, cgroup, limits, memory) -> None:
    proc, cgroups = machine_files(tmp_path, cgroup, **limits)
    assert measure(proc, cgroups).memory_mb == memory


def test_this_machine_can_be_measured() -> None:
    found = measure()
    assert found.memory_mb > 100
    assert found.cpus >= 1
