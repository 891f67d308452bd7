"""A rehearsal in the docker runtime: inside the IDE's container, in a view of its own, with the same result to merge."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.rehearsals import merge, picture, rehearse


@pytest.fixture
def workspace(broker) -> Iterator[Path]:
    broker.up("ide")
    folder = broker.paths.workspace
    before = set(folder.iterdir())
    yield folder
    for path in set(folder.iterdir()) - before:
        path.unlink()


def test_a_rehearsal_runs_in_the_container_and_changes_nothing_until_it_is_merged(broker, workspace: Path) -> None:
    """DECIDED 3, 25: the container's programs, no network, no process of the IDE in sight."""
    before = picture(workspace)
    script = "cat /proc/sys/kernel/hostname; echo new > fresh; echo x > ~/mark; ls -d /proc/[0-9]* | wc -l; ls -A /run | wc -l"
    result = rehearse(broker, script)
    name, processes, sockets = result.output.split()
    assert name != socket.gethostname()
    assert int(processes) <= 5
    assert sockets == "0"
    assert picture(workspace) == before
    assert result.changes == {"fresh": ("", "file")}
    assert merge(broker, result)["conflicts"] == []
    assert (workspace / "fresh").read_text() == "new\n"
    assert merge(broker, result, "before")["conflicts"] == []
    assert picture(workspace) == before
