"""What the container leaves in the home for the helper, which works on the host: nothing of it is started or followed."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest
from support.toolchains import Source, helper
from support.wheels import WHEEL, Index

from appliance.host.tools import FOLDER, PARTS, UNPACKED, Failed, Toolchains

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a Python in each place where uv would look for one; started, they leave a file ``started``."""
    made = tmp_path / "home"
    version = ".".join(map(str, sys.version_info[:3]))
    managed = f".local/share/uv/python/cpython-{version}-linux-{os.uname().machine}-gnu/bin"
    for folder in (".venv/bin", managed, f"{FOLDER}/.venv/bin"):
        for name in ("python", "python3", f"python3.{sys.version_info[1]}"):
            program = made / folder / name
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(f'#!/bin/sh\necho "$0" >>{tmp_path}/started\nexec {sys.executable} "$@"\n')
            program.chmod(0o755)
    for venv in (made / ".venv", made / FOLDER / ".venv"):
        (venv / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {version}\n")
    (made / ".python-version").write_text("3.13\n")
    return made


def test_no_python_of_the_home_is_started_for_a_wheel(
    home: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SYS-2: uv would start one to see what it is, outside the container."""
    monkeypatch.chdir(home)  # as the broker starts the helper
    assert index.add(home)["event"] == "done"
    assert not (home.parent / "started").exists()


def test_no_python_of_the_home_is_started_for_a_python(
    home: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    source.offer()
    assert helper(home, "add", "python", "3.13", **source.env)[-1]["event"] == "done"
    assert not (home.parent / "started").exists()


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder of the workspace's account on the machine, which the container does not see."""
    made = tmp_path / "host"
    made.mkdir()
    (made / "kept").write_text("only on the host")
    return made


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """What distribution.sh leaves, as small as it can be taken over."""
    made = tmp_path / FOLDER / UNPACKED
    for path, text in {
        ".packages": "php8.4-cli_8.4.1_amd64.deb\n",
        ".system": "debian 13",
        "usr/lib/php/20240924/pdo.so": "",
        "usr/lib/php/8.4/php.ini-production.cli": "memory_limit = -1\n",
        "usr/share/php8.4-common/common/pdo.ini": "extension=pdo.so\n",
    }.items():
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        (made / path).write_text(text)
    return made


def led(path: Path, target: Path) -> None:
    """A link in place of what is there."""
    if path.is_dir():
        path.rename(path.with_name(f"{path.name}-moved"))
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else "a folder" for path in folder.rglob("*")
    }


def test_what_was_unpacked_is_taken_over(tmp_path: Path, unpacked: Path) -> None:
    [row] = helper(tmp_path, "add", "php", "8")[-1]["tools"]
    assert row["version"] == "8.4.1"


@pytest.mark.parametrize(
    "link",
    [
        "usr/lib/php/8.4/php.ini-production.cli",
        "usr/share/php8.4-common/common/pdo.ini",
        ".system",
        ".packages",
    ],
)
def test_no_file_of_the_host_is_read_for_the_home(tmp_path: Path, unpacked: Path, host: Path, link: str) -> None:
    """SYS-2."""
    secret = host / "secret"
    secret.write_text("php8.4-cli_8.4.1_amd64.deb\n; a key of the host\n")
    led(unpacked / link, secret)
    assert helper(tmp_path, "add", "php", "8")[-1]["event"] == "failed"
    assert not [path for path in (tmp_path / FOLDER).rglob("*") if path.is_file() and "a key" in path.read_text()]


@pytest.mark.parametrize(
    "link",
    [f"{FOLDER}/{UNPACKED}/{path}" for path in ("croft", "usr", "usr/share/php8.4-common/common", ".croft.json")]
    + [f"{FOLDER}/{path}" for path in ("", UNPACKED, "php", "php/8", "bin", ".bin", ".lock")]
    + [".local", ".local/share"],
)
def test_nothing_of_the_host_is_written_or_removed(tmp_path: Path, unpacked: Path, host: Path, link: str) -> None:
    """SYS-2: whatever the helper makes, renames or sweeps away, a link leads it nowhere."""
    path = tmp_path / link
    # Where a folder leads to, it looks as the one that was there.
    (host / ".packages").write_text((unpacked / ".packages").read_text())
    target = host / "kept" if path.name in (".lock", ".croft.json") else host
    led(path, target)
    before = content(host)
    helper(tmp_path, "add", "php", "8")
    with contextlib.suppress(OSError, Failed):
        Toolchains(tmp_path).remove("php", "8")
    assert content(host) == before


@pytest.mark.parametrize("link", [PARTS, f"{PARTS}/{WHEEL}", ".cache", ".fresh", ".old", "deno"])
def test_a_wheel_is_brought_into_the_home_alone(tmp_path: Path, index: Index, host: Path, link: str) -> None:
    """SYS-2: what lies beside a wheel that was begun is removed, but not in a folder of the host."""
    target = host / "kept" if link.endswith(WHEEL) else host
    led(tmp_path / FOLDER / link, target)
    before = content(host)
    index.add(tmp_path)
    assert content(host) == before
    assert index.add(tmp_path)["event"] == "done", "the link is gone"
    assert content(host) == before


@pytest.mark.parametrize(
    "mark",
    [
        "[]",
        "{}",
        "[" * 100_000,
        '{"version": "1.27.3"}',
        '{"version": ["1"], "bytes": 1}',
        '{"version": "<b>", "bytes": 1}',
        '{"version": "1", "bytes": 1e400}',
        '{"version": "1", "bytes": -1}',
        '{"version": "1", "bytes": 99999999999999999999}',
    ],
)
def test_a_mark_of_somebody_elses_counts_for_nothing(tmp_path: Path, mark: str) -> None:
    """And what is here can still be listed and changed."""
    place = tmp_path / FOLDER / "go/1.27"
    place.mkdir(parents=True)
    (place / ".croft.json").write_text(mark)
    assert helper(tmp_path, "list")[-1]["tools"] == []
    assert helper(tmp_path, "remove", "go", "1.27")[-1]["event"] == "done"
    assert not place.exists()


def test_a_mark_without_programs_links_nothing(tmp_path: Path) -> None:
    for place in ("go/1.27", "deno/2"):
        (tmp_path / FOLDER / place).mkdir(parents=True)
        (tmp_path / FOLDER / place / ".croft.json").write_text('{"version": "1", "bytes": true}')
    [row] = helper(tmp_path, "remove", "go", "1.27")[-1]["tools"]
    assert (row["name"], row["version"], row["bytes"]) == ("deno", "1", 1)
    assert list((tmp_path / FOLDER / "bin").iterdir()) == []
