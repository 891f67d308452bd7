"""Images from a file: what is in it is checked before the engine sees it."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from appliance.broker import bundle
from appliance.broker.bundle import Engine
from appliance.broker.images import Held, Ledger
from appliance.errors import Invalid


def write(file: Path, manifest: object, images: bytes) -> Path:
    with tarfile.open(file, "w:") as tar:
        for name, data in (("croft.json", json.dumps(manifest).encode()), ("images.tar", images)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return file


@pytest.fixture
def api() -> Iterator[Engine]:
    with contextlib.closing(Engine()) as made:
        yield made


@pytest.fixture
def small(engine: docker.DockerClient) -> str:
    """The id of an image of one small layer."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        entry = tarfile.TarInfo("hello")
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"hello"))
    said = engine.api.import_image_from_data(stream.getvalue(), repository="croft-test/small", tag="one")
    return str(engine.images.get("croft-test/small:one").id) if "error" not in said else pytest.fail(said)


@pytest.fixture
def saved(engine: docker.DockerClient, small: str) -> Callable[[str], bytes]:
    return lambda name: b"".join(engine.images.get(name).save(named=False if name.startswith("sha256:") else name))


def test_what_was_saved_is_loaded_as_the_same_image(engine, api: Engine, small: str, tmp_path: Path) -> None:
    """DECIDED 22."""
    ledger = Ledger(tmp_path / "images.json")
    ledger.record("ai", Held(small, "example/ai", "1.0", ""))
    engine.images.get(small).tag("croft/ai", "pin")
    assert bundle.save(tmp_path / "b.tar", ledger, api) == ["ai"]
    engine.images.remove("croft/ai:pin")
    engine.images.remove("croft-test/small:one")
    fresh = Ledger(tmp_path / "fresh.json")
    assert bundle.load(tmp_path / "b.tar", fresh, api) == ["ai"]
    assert fresh.held()["ai"].id == engine.images.get("croft/ai:pin").id == small
    assert engine.images.get(small).tags == ["croft/ai:pin"]
    engine.images.remove("croft/ai:pin")


def test_a_bundle_that_is_not_what_it_says_is_not_loaded(
    engine, api: Engine, small: str, saved, tmp_path: Path
) -> None:
    """Names of other images, other images, other services: nothing of it reaches the engine."""
    row = {"id": small, "repository": "example/ai", "version": "1.0", "digest": ""}
    plain, named = saved(small), saved("croft-test/small:one")
    engine.images.remove("croft-test/small:one")
    other = row | {"id": "sha256:" + "0" * 64}
    for manifest, images in [
        ({"images": {"ai": row}}, named),
        ({"images": {"ai": other}}, plain),
        ({"images": {"other": row}}, plain),
        ({"images": {}}, plain),
        ({"images": {"ai": row | {"more": 1}}}, plain),
        ([], plain),
        ({"images": {"ai": row, "ide": other}}, plain),
    ]:
        with pytest.raises(Invalid):
            bundle.load(write(tmp_path / "bad.tar", manifest, images), Ledger(tmp_path / "l.json"), api)
    with pytest.raises(docker.errors.ImageNotFound):
        engine.images.get(small)
    assert not (tmp_path / "l.json").exists()
