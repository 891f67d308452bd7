"""The `ai` container: a real engine that answers this machine alone, and reaches nobody."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import Any

import docker
import pytest

from appliance.broker.shares import measure, plan


@pytest.fixture
def ai(broker, ai_image: str, engine: docker.DockerClient) -> dict[str, Any]:
    """A running engine: its address on the bridge and its key, as the daemon finds them through the filtered socket."""
    broker.up("ai")
    seen = broker.client().containers.get("croft-ai").attrs
    network = next(iter(seen["NetworkSettings"]["Networks"].values()))
    key = next(one for one in seen["Config"]["Env"] if one.startswith("LOCALAI_API_KEY=")).partition("=")[2]
    found = {"address": network["IPAddress"], "key": key, "attrs": seen}
    broker.poll(lambda: ask(found, "/readyz")[0] == 200, "the engine", 60)
    return found


def ask(ai: dict[str, Any], path: str, body: object = None, *, key: str = "") -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    with contextlib.closing(http.client.HTTPConnection(ai["address"], 8080, timeout=60)) as link:
        try:
            link.request("POST" if data else "GET", path, data, headers)
            answer = link.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""


def test_the_engine_answers_with_its_key_and_reaches_nobody(ai, broker, engine: docker.DockerClient) -> None:
    """NET-2, NET-3: internal network, key, no egress; the workspace cannot reach it."""
    assert ask(ai, "/v1/models")[0] == 401
    status, text = ask(
        ai,
        "/v1/chat/completions",
        key=ai["key"],
        body={"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4},
    )
    assert status == 200
    assert json.loads(text)["choices"]
    host = ai["attrs"]["HostConfig"]
    assert host["Memory"] == plan(measure(), docker=True, model_mb=0).shares["ai"].memory_mb << 20
    assert host["CapDrop"] == ["ALL"]
    assert host["ReadonlyRootfs"] is True
    assert not host["PortBindings"]
    assert engine.networks.list(filters={"name": "croft_ai"})[0].attrs["Internal"] is True
    code = "import socket; s = socket.socket(); s.settimeout(1); s.connect(({!r}, {}))"
    gateway = next(iter(ai["attrs"]["NetworkSettings"]["Networks"].values()))["Gateway"]
    for address, port in ((gateway, 22), ("203.0.113.9", 443), ("169.254.169.254", 80)):
        tried = engine.containers.get("croft-ai").exec_run(["python3", "-c", code.format(address, port)])
        assert tried.exit_code != 0
        assert b"refused" not in tried.output, "it did not even get there"
    broker.up("ide")
    tried = engine.containers.get("croft-ide").exec_run(["python3", "-c", code.format(ai["address"], 8080)])
    assert tried.exit_code != 0
