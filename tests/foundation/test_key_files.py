"""Key files: owner-only under any umask, replaced whole or not at all, and never taken for something they are not."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import keys
from appliance.errors import CroftError


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    """SEC-1."""
    keys.write_private(tmp_path / "keys/a.key", b"secret")
    assert (mode(tmp_path / "keys"), mode(tmp_path / "keys/a.key")) == (0o700, 0o600)
    keys.ed25519(tmp_path / "keys/b.key")
    keys.instance_id(tmp_path / "keys/c")
    assert {mode(path) for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_replacing_is_atomic_and_leaves_no_scraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SEC-1, R11: old or new, never half."""
    path = tmp_path / "keys/a"
    keys.write_private(path, b"old")

    def fails(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space"):
        keys.write_private(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
    keys.write_private(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/a").symlink_to(tmp_path / "target")
    keys.write_private(tmp_path / "keys/a", b"secret")
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert not (tmp_path / "keys/a").is_symlink()


def test_keys_are_made_once(tmp_path: Path) -> None:
    first, name = keys.ed25519(tmp_path / "k/a"), keys.instance_id(tmp_path / "k/b")
    assert keys.ed25519(tmp_path / "k/a").private_bytes_raw() == first.private_bytes_raw()
    assert keys.instance_id(tmp_path / "k/b") == name
    assert keys.instance_id(tmp_path / "k/c") != name


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 31, b"x" * 33, b"\xff" * 64])
def test_a_damaged_key_is_said_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    for make in (keys.ed25519, keys.instance_id):
        path = tmp_path / "a.key"
        path.write_bytes(content)
        with pytest.raises(CroftError, match=r"a\.key: it is damaged"):
            make(path)
        assert path.read_bytes() == content
