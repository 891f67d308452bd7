"""SYS-5 on real containers: the limits of those that run follow the choice of a model, and nobody's work is ended for it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from support.waiting import poll

from appliance.broker.client import BrokerError
from appliance.broker.containers import group
from appliance.broker.shares import IDE_ENOUGH_MB, measure, plan


def limit_of(engine: docker.DockerClient, service: str) -> int:
    """MiB as the kernel has it and the engine's own description says, which is written a moment before the kernel's."""

    def agreed() -> int | None:
        attrs = engine.containers.get(f"croft-{service}").attrs
        limit = group(attrs["State"]["Pid"]).memory_limit()
        return limit if limit == attrs["HostConfig"]["Memory"] else None

    limit: int = poll(agreed, "the engine and the kernel say the same limit", 5)
    return limit >> 20


def wanted(model_mb: int | None) -> dict[str, int]:
    shares = plan(measure(), docker=True, model_mb=model_mb).shares
    return {name: share.memory_mb for name, share in shares.items()}


def largest() -> int:
    """A model for which the editor gives way as far as it ever does."""
    return wanted(measure().memory_mb)["ai"]


@contextlib.contextmanager
def work_in_the_editor(engine: docker.DockerClient, megabytes: int) -> Iterator[Path]:
    """Somebody's program in the container that holds so much memory; the folder of its process."""
    editor = engine.containers.get("croft-ide")
    path = "/tmp/holds"
    code = f"const held = Buffer.alloc({megabytes} << 20, 1); require('fs').writeFileSync('{path}', ''); setInterval(() => held, 1000)"
    made = engine.api.exec_create(editor.id, ["/usr/lib/code-server/lib/node", "-e", code])
    engine.api.exec_start(made["Id"], detach=True)
    poll(lambda: editor.exec_run(["test", "-e", path]).exit_code == 0, "the program holds it", 20)
    pid = engine.api.exec_inspect(made["Id"])["Pid"]
    yield Path(f"/proc/{pid}")
    os.kill(pid, signal.SIGKILL)
    poll(lambda: not engine.api.exec_inspect(made["Id"])["Running"], "its end")


def settle(broker: Any, engine: docker.DockerClient, wanted_mb: int, **model: int) -> None:
    broker.call("share", **model)
    broker.poll(lambda: limit_of(engine, "ide") == wanted_mb, f"the editor's limit of {wanted_mb} MiB")


def test_a_running_editor_gives_way_and_gets_it_back(broker: Any, ai_image: str, engine: docker.DockerClient) -> None:
    broker.up("ide")
    run = broker.row("ide")["run_id"]
    assert limit_of(engine, "ide") == wanted(None)["ide"]
    settle(broker, engine, wanted(largest())["ide"], model_mb=largest())
    assert limit_of(engine, "ide") == IDE_ENOUGH_MB
    broker.up("ai", model_mb=largest())
    assert limit_of(engine, "ai") == wanted(largest())["ai"]
    assert limit_of(engine, "ide") + limit_of(engine, "ai") <= measure().memory_mb - 256 - wanted(None)["proxy"]
    # No model any more: nothing to give back while the engine runs, all of it once that has ended.
    broker.call("share")
    broker.call("stop", service="ai", grace=0)
    broker.poll(lambda: broker.row("ai")["pid"] is None, "the engine's end", 20)
    settle(broker, engine, wanted(None)["ide"])
    assert broker.row("ide")["run_id"] == run


def test_a_start_takes_from_the_editor_what_is_the_engines(
    broker: Any, ai_image: str, engine: docker.DockerClient
) -> None:
    """Nobody has to have asked for it before."""
    broker.up("ide")
    broker.up("ai", model_mb=largest())
    assert (limit_of(engine, "ide"), limit_of(engine, "ai")) == (IDE_ENOUGH_MB, wanted(largest())["ai"])


def test_what_somebody_works_on_is_never_ended_for_a_model(
    broker: Any, ai_image: str, engine: docker.DockerClient
) -> None:
    broker.up("ide")
    with work_in_the_editor(engine, 1200) as process:
        broker.call("start", service="ai", model_mb=largest())
        broker.poll(lambda: broker.row("ai")["state"] != "starting", "the refusal", 60)
        assert broker.row("ai")["pid"] is None
        assert 1200 < limit_of(engine, "ide") < wanted(None)["ide"]
        assert (process / "exe").exists()
    broker.up("ai", model_mb=largest())
    assert limit_of(engine, "ide") + limit_of(engine, "ai") <= measure().memory_mb - 256 - wanted(None)["proxy"]


def test_a_container_that_is_started_again_has_the_limit_of_then(
    broker: Any, images: dict[str, str], engine: docker.DockerClient
) -> None:
    broker.up("ide")
    settle(broker, engine, wanted(600)["ide"], model_mb=600)
    broker.call("stop", service="ide", grace=5)
    broker.poll(lambda: broker.row("ide")["pid"] is None, "the editor's end", 30)
    first = engine.containers.get("croft-ide").id
    broker.up("ide")
    assert limit_of(engine, "ide") == wanted(None)["ide"]
    assert engine.containers.get("croft-ide").id == first, "what it was made from is the same"


@pytest.mark.parametrize("more", [{"memory_mb": 4000}, {"service": "ide"}, {"model_mb": "all"}, {"model_mb": 1 << 21}])
def test_nobody_names_a_number(broker: Any, more: dict[str, object]) -> None:
    """SYS-2, DECIDED 5."""
    with pytest.raises(BrokerError):
        broker.call("share", **more)
