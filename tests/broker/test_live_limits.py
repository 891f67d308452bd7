"""SYS-5 where it holds: the limits in the control groups of services that run, and what becomes of them when others start."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker import Home
from support.cage import holding, small_machine
from support.waiting import poll

from appliance.broker.cgroups import Group
from appliance.broker.client import BrokerError
from appliance.broker.containers import group
from appliance.broker.shares import SLACK_MB, Machine, plan

MEMORY_MB = 4000
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="limits need cgroups that only root can write")


@pytest.fixture
def caged(home: Home) -> Iterator[Home]:
    """A broker that takes the machine for one of 4 GB, with the real code-server."""
    where = os.environ.get("CROFT_TEST_IDE")
    assert where, "set CROFT_TEST_IDE to the folder that holds node/ and code/ (./tests/run makes one)"
    home.configure(paths__ide=where, proxy__http_port=21580, proxy__https_port=21543, proxy__tls="off")
    with small_machine(MEMORY_MB) as cage:
        home.start(inside=cage.enter)
        yield home
        home.stop()


def limits(home: Home) -> dict[str, int]:
    """MiB by service, as the kernel has them now; the rows of the broker say the same."""
    found = {}
    for row in home.call("services").data["services"]:
        if row["pid"]:
            limit = group(row["pid"]).memory_limit()
            assert limit == row["memory_limit"]
            found[row["service"]] = (limit or 0) >> 20
    return found


def wanted(model_mb: int | None) -> dict[str, int]:
    shares = plan(Machine(MEMORY_MB, 2), docker=False, model_mb=model_mb).shares
    return {name: share.memory_mb for name, share in shares.items()}


def test_a_service_starts_with_its_share(caged: Home) -> None:
    caged.call("start", service="ide")
    caged.call("start", service="proxy")
    assert limits(caged) == wanted(None)
    pid = caged.row("proxy")["pid"]
    quota = next(
        (Path(f"/sys/fs/cgroup/cpu{line.split(':')[2]}/cpu.cfs_quota_us").read_text().strip(), "max")[0]
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if line.split(":")[1] in ("cpu", "cpu,cpuacct")
    )
    assert int(quota) == int(len(os.sched_getaffinity(0)) * 90_000)


def test_a_running_editor_gives_way_to_the_first_model_and_gets_it_back(caged: Home) -> None:
    """Computed before: 2.4 GB over on this machine when the first model was chosen while the editor ran."""
    pid = caged.call("start", service="ide").data["pid"]
    assert limits(caged)["ide"] == wanted(None)["ide"]
    caged.call("share", model_mb=2309)
    assert limits(caged) == {"ide": wanted(2309)["ide"]}
    caged.call("share", model_mb=600)
    assert limits(caged) == {"ide": wanted(600)["ide"]}
    caged.call("share")
    assert limits(caged) == {"ide": wanted(None)["ide"]}
    assert caged.row("ide")["pid"] == pid


def test_what_somebody_works_on_is_never_ended_for_a_model(caged: Home) -> None:
    """The limit goes down as far as what is held allows; an engine that would need more does not start, and says so."""
    caged.call("start", service="ide")
    with holding(2000, caged.row("ide")["pid"]) as work:
        caged.call("share", model_mb=2309)
        assert 2000 < limits(caged)["ide"] < wanted(None)["ide"]
        with pytest.raises(BrokerError) as refused:
            caged.call("start", service="ai", model_mb=2309)
        assert refused.value.code == "no_room"
        assert caged.row("ai")["pid"] is None
        assert work.poll() is None
        kept = limits(caged)["ide"]
        caged.call("share", model_mb=600)
        assert limits(caged)["ide"] <= kept  # a smaller one fits in what is left: nothing has to be closed
        assert MEMORY_MB - 256 - 128 - limits(caged)["ide"] >= 600
    caged.call("share", model_mb=2309)
    assert limits(caged) == {"ide": wanted(2309)["ide"]}


def test_file_cache_is_given_back(caged: Home, tmp_path: Path) -> None:
    """What a program has read stands in its group too, and nobody misses it."""
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(1500 << 20)  # nothing is written anywhere: reading it fills the cache with zeroes
    caged.call("start", service="ide")
    ide = group(caged.row("ide")["pid"])
    read = f"echo 0 > {ide.join_paths()[0]}; exec cat {big} {big}"
    subprocess.run(["sh", "-c", read], check=True, stdout=subprocess.DEVNULL)
    assert _used_mb(ide) > 1500 > wanted(2309)["ide"]
    caged.call("share", model_mb=2309)
    assert limits(caged) == {"ide": wanted(2309)["ide"]}
    assert _used_mb(ide) <= wanted(2309)["ide"]


def _used_mb(ide: Group) -> int:
    folder, name = (
        (ide.folders["unified"], "memory.current") if ide.unified else (ide.folders["memory"], "memory.usage_in_bytes")
    )
    return int((folder / name).read_text()) >> 20


def test_the_slack_lets_an_editor_go_on_at_its_limit(caged: Home) -> None:
    caged.call("start", service="ide")
    with holding(1800, caged.row("ide")["pid"]) as work:
        caged.call("share", model_mb=2309)
        ide = group(caged.row("ide")["pid"])
        assert (ide.memory_limit() or 0) - (ide.memory_held() or 0) >= (SLACK_MB - 16) << 20
        poll(lambda: work.poll() is None, "the work goes on", 2)


def test_who_asks_cannot_name_a_number(caged: Home) -> None:
    """SYS-2: whatever the daemon claims of a model, no service gets more than its part of the machine."""
    caged.call("start", service="ide", model_mb=1 << 20)
    assert limits(caged) == {"ide": wanted(1 << 20)["ide"]}
    assert sum(wanted(1 << 20).values()) <= MEMORY_MB - 256
    for more in ({"memory_mb": 4000}, {"cpus": 2}, {"service": "ide"}, {"model_mb": 1 << 21}):
        with pytest.raises(BrokerError):
            caged.call("share", **more)
