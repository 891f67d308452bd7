"""Distribution packages in the IDE's image: really built, run, kept through an update, and taken out again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import docker
import pytest

from appliance.broker.client import BrokerError
from appliance.broker.images import Held, Ledger
from appliance.broker.packages import BASE

pytestmark = pytest.mark.timeout(300)


def status(broker: Any) -> dict[str, Any]:
    return dict(broker.call("image-status", service="ide").data)


def built(broker: Any, *packages: str) -> dict[str, Any]:
    """Ask for these packages and wait for the end."""
    broker.call("image-packages", **({"packages": list(packages)} if packages else {}))
    broker.poll(lambda: not status(broker)["building"], "the end of the build", 240)
    return status(broker)


@pytest.fixture
def held(broker: Any, engine: docker.DockerClient, images: dict[str, str]) -> Iterator[Ledger]:
    """The IDE's image is on record, as after a pull."""
    ledger = Ledger(broker.paths.programs / "docker/images.json")
    ledger.record("ide", Held(images["ide"], "croft-test/ide", "slim", ""))
    yield ledger
    engine.images.get(images["ide"]).tag("croft/ide", "pin")
    for image in engine.images.list(name="croft/ide"):
        if BASE in image.tags:
            engine.images.remove(BASE, noprune=True)


def test_packages_are_built_in_run_and_taken_out_again(
    broker: Any, engine: docker.DockerClient, images: dict[str, str], held: Ledger
) -> None:
    """SYS-2, SUP-2: on top of the image that is held, recorded by id, back without the network."""
    assert built(broker, "hello")["build_problem"] == ""
    made = held.held()["ide"].id
    assert made != images["ide"]
    assert engine.images.get("croft/ide:pin").id == made
    assert status(broker)["packages"] == ["hello"]
    broker.up("ide")
    container = engine.containers.get("croft-ide")
    assert container.image.id == made
    assert container.exec_run(["/usr/bin/hello"]).output == b"Hello, world!\n"
    assert container.exec_run(["id", "-u"]).output == f"{broker.uid('workspace')}\n".encode()
    broker.call("stop", service="ide", grace=0)
    broker.poll(lambda: broker.row("ide")["state"] in ("stopped", "failed"), "the end of the IDE")

    assert built(broker)["packages"] == []
    assert held.held()["ide"].id == images["ide"]
    broker.up("ide")
    assert engine.containers.get("croft-ide").image.id == images["ide"]


def test_a_package_there_is_not_leaves_everything_as_it_was(broker: Any, images: dict[str, str], held: Ledger) -> None:
    found = built(broker, "no-such-package-of-anybody")
    assert "cannot add the packages" in found["build_problem"]
    assert found["packages"] == []
    assert held.held()["ide"].id == images["ide"]


@pytest.mark.parametrize(
    "names",
    [
        ["hello; id"],
        ["hello\nRUN id"],
        ["-y"],
        ["hello-"],
        ["Hello"],
        ["$(id)"],
        ["./x.deb"],
        ["a/b"],
        ["h"],
        ["hello=1"],
        [""],
        ["x" * 65],
        ["hello"] * 65,
        [],
    ],
)
def test_only_names_of_packages_are_taken(broker: Any, names: list[str]) -> None:
    """SYS-2: nothing else reaches the build."""
    with pytest.raises(BrokerError) as refused:
        broker.call("image-packages", packages=names)
    assert refused.value.code == "invalid"
