"""The test images in a file, as `--images` takes it.

Rule: the engine that builds them is only read from: no name of a real Croft is given or taken there, since other tests
use those at the same time.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import docker
from machine import CACHE, ROOT

from appliance.broker import bundle
from appliance.broker.images import Held, Ledger, read_pins

_SERVICES = ("ide", "proxy")


class _TestImages(bundle.Engine):
    """The engine, with croft-test/NAME:slim where `save` looks for croft/NAME:pin."""

    def image(self, name: str) -> dict[str, Any]:
        if name.startswith("croft/"):
            name = name.replace("croft/", "croft-test/").replace(":pin", ":slim")
        return super().image(name)


def image_bundle() -> Path:
    """A bundle of the IDE and the proxy under the pinned versions, written by `bundle save`'s own code."""
    builder = _builder()
    with contextlib.closing(docker.DockerClient("unix:///var/run/docker.sock", timeout=600)) as engine:
        ids = {name: str(engine.images.get(builder.build(engine, name)).id) for name in _SERVICES}
    made = CACHE / f"images-{'-'.join(ids[name][7:19] for name in _SERVICES)}.tar"
    with (CACHE / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            for old in CACHE.glob("images-*.tar"):
                old.unlink()
            _write(made, ids)
    return made


def _write(made: Path, ids: dict[str, str]) -> None:
    pins = read_pins(ROOT / "compose/pins.toml")
    part = made.with_suffix(".part")
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(_TestImages()) as engine:
        ledger = Ledger(Path(folder, "images.json"))
        for name, number in ids.items():
            ledger.record(name, Held(number, pins[name].repository, pins[name].version, ""))
        assert bundle.save(part, ledger, engine) == sorted(ids)
    part.replace(made)


def _builder() -> ModuleType:
    """tests/docker/images/build.py."""
    spec = importlib.util.spec_from_file_location("croft_test_images", ROOT / "tests/docker/images/build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
