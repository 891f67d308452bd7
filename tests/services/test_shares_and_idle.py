"""What each service may use (SYS-5), and when the IDE is idle (DECIDED 14)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.services.idle import Use, judge
from appliance.services.limits import Machine, measure, shares


@given(
    st.integers(960, 1 << 20),
    st.integers(1, 64),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1 << 21),
    st.integers(0, 1 << 20),
)
def test_the_limits_together_leave_room_for_the_daemon_and_sshd(memory, cpus, docker, ai, wish, model) -> None:
    """SYS-5: at least 256 MiB and a tenth of the processors."""
    given_out = shares(Machine(memory, cpus), docker=docker, ai=ai, ide_memory_mb=wish, model_mb=model)
    running = [given_out[name] for name in ("proxy", "ide", *(["ai"] if ai else []))]
    least = 64 if ai and wish else 0  # an owner who gives all to the IDE leaves the engine the least there is
    assert sum(limit.memory_mb for limit in running) <= memory - 256 + least
    assert all(limit.memory_mb >= 64 for limit in running if not wish)
    assert all(0 < limit.cpus <= cpus * 0.9 + 0.01 for limit in running)


@pytest.mark.parametrize(
    ("memory", "docker", "ai", "ide"),
    [
        (1000, False, False, 616),
        (1990, False, False, 1606),
        (1990, True, True, 494),
        (3950, True, True, 1180),
        (7900, True, False, 7087),
    ],
)
def test_the_ide_s_share(memory, docker, ai, ide) -> None:
    assert shares(Machine(memory, 2), docker=docker, ai=ai)["ide"].memory_mb == ide


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
    given_out = shares(Machine(memory, 2), docker=True, ai=True, model_mb=model)
    assert (given_out["ide"].memory_mb, given_out["ai"].memory_mb) == (ide, ai)


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


@pytest.mark.parametrize(
    ("use", "minutes", "idle", "because"),
    [
        (Use(0, 0.0), 30, True, None),
        (Use(0, 0.0), 0, False, "ide.awake.always"),
        (Use(1, 0.0), 30, False, "ide.awake.window"),
        (Use(0, 9_000.0), 30, False, "ide.awake.recent"),
        (Use(0, 0.0, active_runs=1), 30, False, "ide.awake.run"),
        (Use(0, 0.0, terminals=1), 30, False, "ide.awake.terminal"),
        (Use(0, 0.0, terminals=None), 30, False, "ide.awake.unknown"),
    ],
)
def test_idle(use, minutes, idle, because) -> None:
    verdict = judge(use, 10_000.0, minutes)
    assert verdict.idle is idle
    assert (verdict.because.key if verdict.because else None) == because
    assert verdict.look_again is None or verdict.look_again > 10_000
