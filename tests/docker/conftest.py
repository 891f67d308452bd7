"""A real engine, the three images under their pinned names, and a real broker that drives them.

`tests/docker/setup.sh up` must have run (tests/run does that). Fixtures for whoever tests on containers:

- `engine`: the Docker SDK on the engine itself, unfiltered; to look at what really is there.
- `images`: ide and proxy (and ai with `ai_image`) stand under croft/NAME:pin.
- `home`: an appliance's folder with accounts of its own, runtime docker, free ports; nothing started.
- `broker`: `home` with its broker running. `broker.client()` is the SDK over the filtered docker.sock.

Rule: containers, networks and tags of the project `croft` that a test made are gone after it; others are never touched,
and where a real Croft runs on this engine the tests refuse to start.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import docker
import docker.errors
import pytest
from docker.models.containers import Container
from support.accounts import throwaway_accounts
from support.appliance import free_port
from support.waiting import poll

from appliance.broker.client import call
from appliance.broker.protocol import Object, Reply
from appliance.settings import Paths

CHECKOUT = Path(__file__).resolve().parents[2]
SOCKET = "unix:///var/run/docker.sock"
PROJECT = {"label": "com.docker.compose.project=croft"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.docker)
            # The SDK leaves sockets of ended streams to the garbage collector, which may come by in any later test.
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="session")
def builder() -> ModuleType:
    """tests/docker/images/build.py."""
    spec = importlib.util.spec_from_file_location("croft_test_images", Path(__file__).parent / "images/build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """The engine, with nothing of a Croft on it."""
    with contextlib.closing(docker.DockerClient(SOCKET, timeout=600)) as client:
        try:
            client.ping()
        except (docker.errors.DockerException, OSError) as error:
            pytest.fail(f"no Docker engine answers; run tests/docker/setup.sh up first ({error})")
        if client.containers.list(all=True, filters=PROJECT):
            pytest.fail("a Croft runs on this engine; these tests would stop it")
        yield client


@pytest.fixture(scope="session")
def images(engine: docker.DockerClient, builder: ModuleType) -> Iterator[dict[str, str]]:
    """croft/ide:pin and croft/proxy:pin, by image id. Kept as croft-test/NAME:slim for the next time."""
    ids = {}
    for name in ("ide", "proxy"):
        image = engine.images.get(builder.build(engine, name))
        image.tag(f"croft/{name}", "pin")
        ids[name] = image.id
    yield ids
    _untag(engine, "ide", "proxy")


@pytest.fixture(scope="module")
def ai_image(engine: docker.DockerClient, builder: ModuleType) -> Iterator[str]:
    """croft/ai:pin: the real engine with a tiny random model behind it."""
    image = engine.images.get(builder.build(engine, "ai"))
    image.tag("croft/ai", "pin")
    yield image.id
    _untag(engine, "ai")


def _untag(engine: docker.DockerClient, *names: str) -> None:
    for name in names:
        with contextlib.suppress(docker.errors.ImageNotFound):
            engine.images.remove(f"croft/{name}:pin", noprune=True)


def remove_project(engine: docker.DockerClient) -> None:
    """Remove what Compose made for `croft`."""
    for container in engine.containers.list(all=True, filters=PROJECT, ignore_removed=True):
        with contextlib.suppress(docker.errors.NotFound):
            container.remove(force=True, v=True)
    for network in engine.networks.list(filters=PROJECT):
        network.remove()


@pytest.fixture(scope="session")
def accounts() -> Iterator[dict[str, str]]:
    """Accounts of the daemon, the workspace and the proxy, and the group the first and last share."""
    with throwaway_accounts("d") as made:
        yield made


class Home:
    """One appliance's folder in the docker runtime, and the broker that runs in it."""

    poll = staticmethod(poll)

    def __init__(self, folder: Path, accounts: dict[str, str]) -> None:
        self.folder = folder
        self.paths = Paths.under(folder)
        self.accounts = accounts
        self.https_port, self.http_port = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._clients: list[docker.DockerClient] = []
        self.paths.config.parent.mkdir(parents=True)
        self.configure()

    def configure(self, **lines: object) -> None:
        """Settings by dotted name with dots as ``__``, over ones that fit the tests."""
        rows: dict[str, object] = {f"users.{role}": name for role, name in self.accounts.items()}
        rows |= {"runtime": "docker", "proxy.https_port": self.https_port, "proxy.http_port": self.http_port}
        rows |= {key.replace("__", "."): value for key, value in lines.items()}
        self.paths.config.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in rows.items()))

    def uid(self, role: str) -> int:
        return pwd.getpwnam(self.accounts[role]).pw_uid

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-m", "appliance.broker", "--home", str(self.folder)], cwd=CHECKOUT
        )
        poll(self._answers, what="the broker")

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if self.process is not None and self.process.poll() is None:
            self.stop()

    def call(self, op: str, **arguments: object) -> Reply:
        return call(self.paths.socket("broker"), op, **arguments)

    def row(self, service: str) -> Object:
        return next(row for row in self.call("services").data["services"] if row["service"] == service)

    def up(self, service: str, seconds: float = 60.0, **limits: object) -> Object:
        """Start a service through the broker and wait until it runs; its row."""
        self.call("start", service=service, **limits)
        poll(lambda: self.row(service)["state"] != "starting", f"the end of starting {service}", seconds)
        row = self.row(service)
        assert row["state"] == "running", row
        return row

    def client(self) -> docker.DockerClient:
        """The SDK over docker.sock, as the daemon uses it."""
        made = docker.DockerClient(f"unix://{self.paths.socket('docker')}", timeout=60)
        self._clients.append(made)
        return made

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the broker ended with {self.process.returncode}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            return probe.connect_ex(str(self.paths.socket("broker"))) == 0


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else f'"{value}"'


@contextlib.contextmanager
def _home(engine: docker.DockerClient, accounts: dict[str, str]) -> Iterator[Home]:
    folder = Path(tempfile.mkdtemp(prefix="croft-d-", dir="/tmp"))
    folder.chmod(0o755)
    made = Home(folder, accounts)
    yield made
    made.close()
    remove_project(engine)
    subprocess.run(["nft", "delete", "table", "inet", "croft_containers"], capture_output=True, check=False)
    shutil.rmtree(folder)


@pytest.fixture
def home(engine: docker.DockerClient, accounts: dict[str, str]) -> Iterator[Home]:
    """A folder, configured but not started; whatever is started in it is stopped and removed."""
    with _home(engine, accounts) as made:
        yield made


@pytest.fixture
def broker(home: Home, images: dict[str, str]) -> Home:
    """A running broker with ide and proxy images in place."""
    home.start()
    return home


@pytest.fixture(scope="module")
def module_broker(engine: docker.DockerClient, accounts: dict[str, str], images: dict[str, str]) -> Iterator[Home]:
    """As `broker`, one for all tests of a file. Not to be mixed with `home` in one file: there is one project."""
    with _home(engine, accounts) as made:
        made.start()
        yield made


@pytest.fixture
def stranger(engine: docker.DockerClient, builder: ModuleType) -> Iterator[Container]:
    """A running container that is none of Croft's business."""
    made = engine.containers.run(
        builder.build(engine, "base"),
        ["sleep", "600"],
        detach=True,
        init=True,
        name=f"stranger-{os.getpid()}",
        environment={"SECRET": "not-for-croft"},
    )
    yield made
    made.remove(force=True)
