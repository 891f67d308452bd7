"""PHP in the docker runtime: fetched from within the IDE's container, from its own distribution, and used there."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import pytest

from appliance.host.tools import FOLDER, unpacking

pytestmark = pytest.mark.timeout(300)


def said(broker: Any, *argv: str, **more: Any) -> str:
    """What a run in the workspace writes."""
    reply = broker.call("spawn", argv=list(argv), **more)
    pidfd, out, errors = reply.fds
    for fd in (pidfd, errors):
        os.close(fd)
    with os.fdopen(out) as text:
        return text.read()


def test_php_is_installed_without_root_and_outlives_its_container(broker: Any, engine: Any) -> None:
    """SYS-2, SUP-1: the libraries are those of the container, whatever the machine is."""
    broker.up("ide")
    lines = said(broker, *unpacking("php", "8"), limits={"seconds": 200}).splitlines()
    assert json.loads(lines[-1])["event"] == "done", lines[-1]
    channel = socket.socket(fileno=broker.call("tools", action="add", name="php", series="8").fds[0])
    with channel, channel.makefile() as words:
        found = json.loads(list(words)[-1])
    assert found["event"] == "done", found
    print(found["tools"])
    broker.call("stop", service="ide", grace=0)
    broker.poll(lambda: broker.row("ide")["state"] in ("stopped", "failed"), "the end of the IDE")
    engine.containers.get("croft-ide").remove(force=True)
    broker.up("ide")
    php = str(broker.paths.ide_home / FOLDER / "bin/php")
    text = "echo 6 * 7, ' ', mb_strtoupper('é'), ' ', (new NumberFormatter('ar', 1))->format(7), ' ', posix_getuid();"
    assert said(broker, php, "-r", text) == f"42 É ٧ {broker.uid('workspace')}"
    container = engine.containers.get("croft-ide")
    terminal = container.exec_run(["sh", "-c", "php --version; composer --no-ansi --version"])
    assert f"PHP {found['tools'][0]['version'].split('-')[0]} (cli)".encode() in terminal.output, (
        "as a terminal finds it"
    )
    assert b"Composer version 2." in terminal.output
