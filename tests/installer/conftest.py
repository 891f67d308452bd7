"""The machines that the installer's system tests share: making one takes longer than any test on it."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from image_bundle import image_bundle
from machine import CACHE, Booted, Machine, translated


@contextmanager
def _running(machine: Booted) -> Iterator[Booted]:
    with translated(machine.network):
        try:
            machine.boot()
            yield machine
        finally:
            machine.stop()


@pytest.fixture(scope="session")
def machines() -> Iterator[Path]:
    """A folder for disposable systems, on the disk of the cache so that copies are cheap."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="machines-", dir=CACHE))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def bookworm(machines: Path) -> Machine:
    """Debian 12 without systemd as PID 1, on the host's network."""
    return Machine("bookworm", machines / "bookworm")


@pytest.fixture(scope="session")
def trixie(machines: Path) -> Iterator[Booted]:
    """Debian 13 booted with systemd, on a network of its own."""
    with _running(Booted("trixie", machines / "trixie")) as machine:
        yield machine


@pytest.fixture(scope="module")
def named(machines: Path) -> Iterator[Booted]:
    """Another one, which may use swap. Under a name that an authority of certificates can look at from the host."""
    with _running(Booted("trixie", machines / "named", "10.88.78", "swapon swapoff")) as machine:
        yield machine


@pytest.fixture(scope="session")
def harbour(machines: Path) -> Iterator[Booted]:
    """Another one, for the docker runtime: with the test images at /images.tar."""
    machine = Booted("trixie", machines / "harbour", "10.88.77")
    shutil.copy(image_bundle(), machine.tree / "images.tar")
    with _running(machine):
        yield machine
