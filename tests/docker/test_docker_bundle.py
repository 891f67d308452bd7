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


def with_more(images: bytes, name: str, content: bytes) -> bytes:
    """The engine's archive with another member behind all others."""
    stream = io.BytesIO(images)
    with tarfile.open(fileobj=stream, mode="a") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize(
    "spelled", ["./manifest.json", "manifest.json", "x/../manifest.json", "/manifest.json", ".//manifest.json"]
)
def test_a_second_list_of_images_in_another_spelling_is_not_loaded(
    engine, api: Engine, small: str, saved, tmp_path: Path, spelled: str
) -> None:
    """SUP-2: the engine unpacks it over the first, and another image would be everybody's "debian:latest"."""
    plain = saved(small)
    engine.images.remove("croft-test/small:one")
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        rows = json.load(tar.extractfile("manifest.json"))
    second = json.dumps([rows[0] | {"RepoTags": ["croft-test/planted:latest"]}]).encode()
    row = {"id": small, "repository": "example/ai", "version": "1.0", "digest": ""}
    file = write(tmp_path / "bad.tar", {"images": {"ai": row}}, with_more(plain, spelled, second))
    try:
        with pytest.raises(Invalid):
            bundle.load(file, Ledger(tmp_path / "l.json"), api)
        with pytest.raises(docker.errors.ImageNotFound):
            engine.images.get("croft-test/planted:latest")
    finally:
        for name in ("croft-test/planted:latest", "croft/ai:pin"):
            with contextlib.suppress(docker.errors.ImageNotFound):
                engine.images.remove(name)


def test_an_index_that_names_images_is_not_loaded(tmp_path: Path) -> None:
    """SUP-2: engines that keep images as containerd does go by it."""
    row = {"id": "sha256:" + "a" * 64, "repository": "example/ai", "version": "1.0", "digest": ""}
    manifest = json.dumps([{"Config": f"blobs/sha256/{'a' * 64}", "RepoTags": None, "Layers": []}]).encode()
    index = {"manifests": [{"annotations": {"io.containerd.image.name": "docker.io/library/debian:latest"}}]}
    images = with_more(with_more(b"\0" * 1024, "manifest.json", manifest), "index.json", json.dumps(index).encode())
    file = write(tmp_path / "bad.tar", {"images": {"ai": row}}, images)
    with contextlib.closing(Engine(tmp_path / "no.sock")) as nobody, pytest.raises(Invalid, match="names"):
        bundle.load(file, Ledger(tmp_path / "l.json"), nobody)
