"""The docker runtime's broker half on a real engine: create, start, adopt, limit, survive."""

from __future__ import annotations

import docker
from docker.models.containers import Container


def ours(engine: docker.DockerClient) -> list[Container]:
    return engine.containers.list(all=True, filters={"label": "com.docker.compose.project=croft"})


def test_the_ide_starts_answers_on_its_socket_and_stops(broker, engine) -> None:
    row = broker.up("ide", memory_mb=768, cpus=1.5)
    assert row["pid"] > 0
    assert [one.name for one in ours(engine)] == ["croft-ide"]
