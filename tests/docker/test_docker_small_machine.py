"""The journey on the smallest machine, docker runtime: containers and Croft together in 2 GB."""

from __future__ import annotations

import docker
import pytest
from support.appliance import Appliance
from support.cage import small_machine_of_containers
from support.lifeline import live_in, sshd

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

PROJECT = {"label": "com.docker.compose.project=croft"}


def test_the_journey_fits_and_the_lifeline_holds(
    engine: docker.DockerClient, images: dict[str, str], accounts: dict[str, str]
) -> None:
    """SYS-5, R13: the engine's own memory is counted as used already."""
    with small_machine_of_containers() as cage, sshd(cage) as port:
        appliance = Appliance(accounts, runtime="docker", inside=cage.enter)
        try:
            live_in(cage, appliance.start(), port)
        finally:
            appliance.close()
            for container in engine.containers.list(all=True, filters=PROJECT):
                container.remove(force=True)
            for network in engine.networks.list(filters=PROJECT):
                network.remove()
