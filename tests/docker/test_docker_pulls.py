"""Images from a real registry: progress, a changed tag, a cut connection, a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from appliance.broker.client import BrokerClient

CHECKOUT = Path(__file__).resolve().parents[2]
LAYER = 4 << 20


class Wire:
    """A TCP relay in front of the registry that can be cut after a number of bytes."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.left: int | None = None
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if counted and self.left is not None:
                    data, self.left = data[: self.left], max(0, self.left - len(data))
                    if not data:
                        break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        if not counted:
            return
        for one in (source, target):
            one.close()


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """Debian's docker-registry, reached through a Wire."""
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "storage": {"filesystem": {"rootdirectory": str(folder)}},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    program = shutil.which("docker-registry") or pytest.fail("docker-registry is missing; run tests/docker/setup.sh up")
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log) as process,
    ):
        made = Wire(port)
        yield made
        made.close()
        process.terminate()


class Pulling:
    """A broker whose `ai` image comes from the registry, and what it told."""

    def __init__(self, home: Any, engine: docker.DockerClient, wire: Wire) -> None:
        self.home = home
        self.engine = engine
        self.wire = wire
        self.repository = f"127.0.0.1:{wire.port}/croft-test/pulled"
        self.events: list[dict[str, Any]] = []
        self._client: BrokerClient | None = None
        files = home.paths.programs / "compose"
        files.mkdir(parents=True)
        shutil.copy(CHECKOUT / "compose/compose.yaml", files)
        self.pins = files / "pins.toml"

    def publish(self, version: str, *, salt: bytes) -> str:
        """Push an image with two random layers under ``version``; its id. The engine then forgets it."""
        tag = f"{self.repository}:{version}"
        for step in (b"a", b"b"):
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as tar:
                entry = tarfile.TarInfo("blob")
                entry.size = LAYER
                tar.addfile(entry, io.BytesIO(salt + step + os.urandom(LAYER)))
                first, second = b'FROM scratch\nADD blob /a\nCMD ["/none"]\n', f"FROM {tag}\nADD blob /b\n".encode()
                dockerfile = first if step == b"a" else second
                entry = tarfile.TarInfo("Dockerfile")
                entry.size = len(dockerfile)
                tar.addfile(entry, io.BytesIO(dockerfile))
            stream.seek(0)
            image, _ = self.engine.images.build(fileobj=stream, custom_context=True, tag=tag, rm=True, nocache=True)
        pushed = self.engine.images.push(self.repository, version)
        assert '"error"' not in pushed, pushed
        self.forget()
        return str(image.id)

    def forget(self) -> None:
        """Remove what is not held as croft/ai:pin, so that a pull has something to do."""
        for image in self.engine.images.list(name=self.repository):
            for name in image.tags:
                if name.startswith(self.repository):
                    self.engine.images.remove(name)

    def pin(self, version: str, digest: str = "", size: int = 1 << 20) -> None:
        text = (CHECKOUT / "compose/pins.toml").read_text()
        rows = {
            "repository": f'"{self.repository}"',
            "version": f'"{version}"',
            "floor": '"1"',
            "digest": f'"{digest}"',
            "bytes": str(size),
        }
        mine = "[ai]\n" + "".join(f"{key} = {value}\n" for key, value in rows.items())
        self.pins.write_text(re.sub(r"\[ai\][^\[]*", mine, text))

    async def pull(self) -> dict[str, Any]:
        """Restart the broker on the present pins and pull; the `done` event."""
        await self.close()
        if self.home.process is not None and self.home.process.poll() is None:
            await asyncio.to_thread(self.home.stop)
        await asyncio.to_thread(self.home.start)
        self._client = BrokerClient(self.home.paths.socket("broker"))
        self.events = []
        ended: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def hear(event: dict[str, Any]) -> None:
            self.events.append(event)
            if event.get("event") == "done" and not ended.done():
                ended.set_result(event)

        self._client.on_event(hear)
        await self._client.connect()
        await self._client.call("image-pull", service="ai")
        async with asyncio.timeout(100):
            return await ended

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    def status(self) -> dict[str, Any]:
        return self.home.call("image-status", service="ai").data


@pytest.fixture
async def pulling(home, engine: docker.DockerClient, wire: Wire) -> AsyncIterator[Pulling]:
    made = Pulling(home, engine, wire)
    wire.left = None
    yield made
    await made.close()
    made.forget()
    with contextlib.suppress(docker.errors.ImageNotFound):
        engine.images.remove("croft/ai:pin", force=True)


async def test_a_pull_tells_its_bytes_and_holds_the_digest_it_saw(pulling: Pulling) -> None:
    """Issue 2: byte progress; DECIDED 22: the digest of the first pull is recorded."""
    image = pulling.publish("1.0", salt=b"one")
    pulling.pin("1.0")
    assert (await pulling.pull())["error"] is None
    steps = [event for event in pulling.events if event["event"] == "progress"]
    assert {event["phase"] for event in steps} <= {"pulling", "extracting"}
    assert steps[-1]["total"] > LAYER
    assert all(event["current"] <= event["total"] for event in steps)
    pulls = [event["current"] for event in steps]
    assert pulls == sorted(pulls), "progress never goes back"
    status = pulling.status()
    assert status["image"] == image
    assert status["current"] is True
    assert re.fullmatch("sha256:[0-9a-f]{64}", status["digest"])
    record = pulling.home.paths.programs / "docker/images.json"
    assert (record.stat().st_uid, record.stat().st_mode & 0o022) == (0, 0)


async def test_a_changed_tag_has_no_effect(pulling: Pulling) -> None:
    """SUP-2."""
    image = pulling.publish("1.0", salt=b"one")
    pulling.pin("1.0")
    await pulling.pull()
    other = pulling.publish("1.0", salt=b"two")
    pulling.forget()
    assert other != image
    assert (await pulling.pull())["error"] is None
    assert pulling.status()["image"] == image


async def test_a_cut_pull_keeps_the_old_image_and_the_next_one_succeeds(pulling: Pulling) -> None:
    """R6."""
    old = pulling.publish("1.0", salt=b"one")
    pulling.pin("1.0")
    await pulling.pull()
    new = pulling.publish("2.0", salt=b"two")
    pulling.pin("2.0")
    pulling.wire.left = LAYER
    done = await pulling.pull()
    assert done["error"]["code"] == "pull_failed"
    assert done["error"]["message"].startswith("cannot pull ")
    status = pulling.status()
    assert (status["image"], status["held_version"], status["current"]) == (old, "1.0", False)
    pulling.wire.left = None
    assert (await pulling.pull())["error"] is None
    status = pulling.status()
    assert (status["image"], status["held_version"], status["current"]) == (new, "2.0", True)
    assert pulling.engine.images.get(old), "the one before is kept for a way back"


async def test_a_pinned_digest_is_the_only_thing_accepted(pulling: Pulling) -> None:
    """SUP-2: the registry has the tag, but not with that content."""
    pulling.publish("1.0", salt=b"one")
    pulling.pin("1.0", digest="sha256:" + "0" * 64)
    assert (await pulling.pull())["error"]["code"] == "pull_failed"
    assert pulling.status()["present"] is False


async def test_the_disk_is_looked_at_first(pulling: Pulling) -> None:
    """R6: nothing is asked of the registry when there is no room."""
    pulling.pin("1.0", size=1 << 50)
    before = pulling.wire.connections
    done = await pulling.pull()
    assert done["error"]["code"] == "disk_full"
    assert pulling.wire.connections == before


async def test_a_silent_registry_is_reported(pulling: Pulling) -> None:
    pulling.pin("9.9")
    assert (await pulling.pull())["error"]["code"] == "pull_failed"
