"""Service `ai` in its container: reached by the daemon alone, with a key, and without a way out but while it fetches a model."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import docker
import pytest
from docker.models.containers import Container
from support.engine import engine_room
from support.waiting import until

from appliance.assembly_engine import build_workshop, place_of
from appliance.assistant.engine import EngineState
from appliance.assistant.engine_http import idle_backend
from appliance.broker.client import BrokerError
from appliance.settings import load


@pytest.fixture(scope="module")
def broker(module_broker, ai_image: str) -> Any:
    module_broker.up("ai")
    module_broker.poll(lambda: ask(module_broker, "GET", "/readyz", key="")[0] == 200, "the engine", 60)
    return module_broker


def ask(broker, method: str, path: str, body: object = None, key: str | None = None) -> tuple[int, object]:
    where = broker.call("engine").data
    link = http.client.HTTPConnection(where["address"], where["port"], timeout=20)
    try:
        headers = {"Authorization": f"Bearer {where['key'] if key is None else key}"}
        link.request(method, path, json.dumps(body) if body else None, headers)
        answer = link.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    except OSError:
        return 0, None
    finally:
        link.close()


@pytest.fixture(scope="module")
def outside() -> Iterator[str]:
    """An address in a network beside this machine, where nothing listens: a packet that gets there is refused."""
    name = f"ca{os.getpid() % 100000}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        run("ip", "addr", "add", "203.0.113.5/30", "dev", f"{name}a")
        run("ip", "link", "set", f"{name}a", "up")
        run("ip", "netns", "exec", name, "ip", "addr", "add", "203.0.113.6/30", "dev", f"{name}b")
        run("ip", "netns", "exec", name, "ip", "link", "set", f"{name}b", "up")
        yield "203.0.113.6"
    finally:
        run("ip", "netns", "del", name)


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def gets_to(container: Container, address: str) -> bool:
    """Whether a packet of the container gets there: it is refused then."""
    code = f"import socket; socket.create_connection(({address!r}, 9), 1)"
    return b"refused" in container.exec_run(["python3", "-c", code]).output


def test_it_runs_as_an_account_of_its_own_and_only_the_key_opens_it(broker, engine) -> None:
    """NET-3, AI-10"""
    live = engine.containers.get("croft-ai").attrs
    assert live["Config"]["User"].split(":")[0] == str(broker.uid("ai"))
    assert [mount["Destination"] for mount in live["Mounts"]] == ["/models"]
    question = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    assert ask(broker, "POST", "/v1/chat/completions", question)[0] == 200
    for path in ("/v1/models", "/backend/monitor?model=tiny", "/models/jobs/1"):
        assert ask(broker, "GET", path, key="wrong")[0] == 401


def test_it_has_no_way_out_but_while_it_fetches_a_model(broker, engine, outside: str) -> None:
    """NET-2, NET-3: and then to the internet, not to this machine."""
    container = engine.containers.get("croft-ai")
    assert networks(engine) == {"croft_ai"}
    assert not gets_to(container, outside)
    broker.call("engine-egress", seconds=60)
    broker.poll(lambda: networks(engine) == {"croft_ai", "croft_fetch"}, "it is on the network")
    broker.poll(lambda: gets_to(container, outside), "it gets out")
    gateway = engine.networks.get("croft_fetch").attrs["IPAM"]["Config"][0]["Gateway"]
    assert not gets_to(container, gateway)
    broker.call("engine-egress", seconds=0)
    broker.poll(lambda: networks(engine) == {"croft_ai"}, "it is off again")
    assert not gets_to(container, outside)
    assert ask(broker, "GET", "/readyz")[0] == 200


def test_the_way_out_closes_by_itself(broker, engine) -> None:
    """NET-3: whatever becomes of the daemon."""
    broker.call("engine-egress", seconds=2)
    broker.poll(lambda: "croft_fetch" in networks(engine), "it is on the network")
    broker.poll(lambda: networks(engine) == {"croft_ai"}, "its time is over", 15)


def test_a_broker_that_was_killed_leaves_no_way_out(broker, engine) -> None:
    broker.call("engine-egress", seconds=600)
    broker.poll(lambda: "croft_fetch" in networks(engine), "it is on the network")
    broker.kill()
    broker.start()
    broker.poll(lambda: networks(engine) == {"croft_ai"}, "the next broker takes it off")


@pytest.mark.parametrize("seconds", [-1, 601, "60", None, 1.5])
def test_the_way_out_is_bounded(broker, seconds: object) -> None:
    with pytest.raises(BrokerError):
        broker.call("engine-egress", seconds=seconds)


async def test_a_model_is_fetched_through_the_real_job_with_a_way_out_that_ends(broker, engine) -> None:
    """NET-3: what the daemon does, over the real broker."""
    workshop = build_workshop(load(broker.paths), Ready())
    async with workshop.open(fetching=True) as place:
        await until(lambda: "croft_fetch" in networks(engine), "it is on the network")
        headers = {"Authorization": f"Bearer {place.key}"}
        async with aiohttp.ClientSession(place.base.removesuffix("v1"), headers=headers) as client:
            wanted = {"id": "llama-3.2-3b-instruct:q4_k_m", "variant": "llama-3.2-3b-instruct:q4_k_m"}
            async with client.post("models/apply", json=wanted) as answer:
                number = (await answer.json())["uuid"]
            job: dict[str, Any] = {}
            while not job.get("processed"):
                async with client.get(f"models/jobs/{number}") as answer:
                    job = await answer.json()
                await asyncio.sleep(0.05)
        assert (job["error"], job["current_bytes"]) == (None, job["total_bytes"])
    await until(lambda: networks(engine) == {"croft_ai"}, "it is off again")
    assert (broker.paths.state / "models/llama-3.2-3b-instruct-q4_k_m.gguf").stat().st_size == job["total_bytes"]


async def test_the_engine_says_whether_it_works_on_anything(broker) -> None:
    """AI-13"""
    place = await place_of(load(broker.paths), docker=True)()
    assert await idle_backend(place, "tiny")
    question = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4000}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {place.key}"}) as client:
        async with client.post(f"{place.base}/chat/completions", json=question | {"stream": True, "ignore_eos": True}):
            assert not await idle_backend(place, "tiny")
        begun = time.monotonic()
        while not await idle_backend(place, "tiny"):
            assert time.monotonic() - begun < 2


async def test_the_first_question_starts_the_container_and_it_rests_afterwards(broker) -> None:
    """As in the process runtime, with the key that only the broker and the daemon have."""
    async with engine_room(broker, "docker") as room:
        await room.services.stop("ai", "test")
        await until(lambda: room.engine.status().state is EngineState.NONE, "the engine is stopped")
        room.choose()
        await room.services.start("ai", "test")
        async with room.engine.hold("a question", wait=60) as upstream:
            assert (upstream.socket, upstream.base.endswith(":8080/v1"), upstream.remote) == (None, True, False)
            question = {"model": upstream.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
            async with (
                aiohttp.ClientSession(headers={"Authorization": f"Bearer {upstream.key}"}) as client,
                client.post(f"{upstream.base}/chat/completions", json=question) as answer,
            ):
                assert answer.status == 200
        assert await room.engine.idle()
        room.clock.forward(3600)
        room.services.look()
        await until(lambda: room.engine.status().state is EngineState.ASLEEP, "it rests", 30)


class Ready:
    """The service's supervisor, which has no work here: the broker's own fixture started it."""

    async def ready(self, name: str, seconds: float) -> None:
        assert name == "ai"

    def socket_opened(self, name: str) -> None: ...
    def socket_closed(self, name: str) -> None: ...


def networks(engine: docker.DockerClient) -> set[str]:
    return set(engine.containers.get("croft-ai").attrs["NetworkSettings"]["Networks"])
