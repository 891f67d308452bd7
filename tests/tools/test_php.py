"""PHP out of the distribution's packages, without root: the real one, and small signed archives for what goes wrong."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.appliance import free_port
from support.archives import Archive
from support.toolchains import helper
from support.waiting import poll

from appliance.host import tools
from appliance.host.tools import FOLDER

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    made = Archive(tmp_path_factory.mktemp("packages"))
    yield made
    made.close()


def unpack(home: Path, *, words: list[str] | None = None, **env: str) -> dict[str, Any]:
    """The last word of what fetches and unpacks."""
    command = words or tools.unpacking("php", "8")
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin", **env}
    done = subprocess.run(command, env=env, capture_output=True, check=False, timeout=150)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def add(home: Path, **env: str) -> dict[str, Any]:
    """Both halves, as the toolbox has them done."""
    said = unpack(home, **env)
    return said if said["event"] == "failed" else helper(home, "add", "php", "8")[-1]


def use(home: Path, program: str, *words: str, path: str = "/usr/bin:/bin") -> str:
    env = {"HOME": str(home), "PATH": f"{home / FOLDER / 'bin'}:{path}"}
    return subprocess.run([program, *words], env=env, check=True, capture_output=True, text=True, cwd=home).stdout


def left(home: Path) -> set[str]:
    return {path.name for path in (home / FOLDER).iterdir()} - {".lock"}


def test_the_distributions_php_runs_scripts_composer_and_a_server(tmp_path: Path) -> None:
    """SUP-1: signed by the distribution, in the home, with nothing of root's."""
    said = add(tmp_path)
    assert said["event"] == "done", said
    [row] = said["tools"]
    assert row["programs"] == ["composer", "php"]
    assert use(tmp_path, "php", "-v").startswith(f"PHP {row['version'].split('-')[0]} (cli)")
    modules = use(tmp_path, "php8", "-m").split()
    assert {"bcmath", "curl", "dom", "intl", "mbstring", "openssl", "pdo_sqlite", "sqlite3", "xml", "zip"} <= set(
        modules
    )
    (tmp_path / "sum.php").write_text("<?php echo json_encode(['sum' => 6 * 7, 'ini' => php_ini_loaded_file()]);")
    found = json.loads(use(tmp_path, "php", "sum.php"))
    assert found == {"sum": 42, "ini": str(tmp_path / FOLDER / "php/8/croft/php.ini")}
    assert use(tmp_path, "composer", "--no-ansi", "--version").startswith("Composer version 2.")
    port = free_port()
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    words = [str(tmp_path / FOLDER / "bin/php"), "-S", f"127.0.0.1:{port}", "-t", str(tmp_path)]
    with subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            answer = poll(lambda: fetched(port, "/sum.php"), "the server of PHP")
        finally:
            server.terminate()
    assert json.loads(answer)["sum"] == 42
    assert helper(tmp_path, "remove", "php", "8")[-1]["tools"] == []
    assert left(tmp_path) == {"bin"}
    assert list((tmp_path / FOLDER / "bin").iterdir()) == []


def fetched(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    except OSError:
        return b""
    finally:
        connection.close()


def test_a_newer_version_takes_the_place_of_the_old_one(tmp_path: Path, archive: Archive) -> None:
    archive.offer("8.4.1-1")
    assert add(tmp_path, **archive.env)["tools"][0]["version"] == "8.4.1-1"
    inode = (tmp_path / FOLDER / "php/8").stat().st_ino
    assert add(tmp_path, **archive.env)["tools"][0]["version"] == "8.4.1-1"
    assert (tmp_path / FOLDER / "php/8").stat().st_ino == inode, "nothing new, so nothing was touched"
    archive.offer("8.4.2-1")
    assert add(tmp_path, **archive.env)["tools"][0]["version"] == "8.4.2-1"
    assert use(tmp_path, "php") == "PHP 8.4.2-1\n"
    assert left(tmp_path) == {"bin", "php"}
    assert not (archive.folder.parent / "started").exists(), "no script of a package is started"


def test_a_failed_update_leaves_the_old_one_in_its_place(tmp_path: Path, archive: Archive) -> None:
    archive.offer("8.4.1-1")
    assert add(tmp_path, **archive.env)["event"] == "done"
    archive.offer("9.0.1-1")
    assert add(tmp_path, **archive.env)["code"] == "absent", "it is not PHP 8 any more"
    assert use(tmp_path, "php8") == "PHP 8.4.1-1\n"
    assert left(tmp_path) == {"bin", "php"}


def test_what_is_not_signed_is_not_taken(tmp_path: Path, archive: Archive) -> None:
    """SUP-1: not even where the system's settings would let it pass."""
    archive.offer("8.4.1-1", signed=False)
    assert add(tmp_path, **archive.env)["code"] == "altered"
    assert left(tmp_path) == set()


def test_an_altered_package_is_not_unpacked(tmp_path: Path, archive: Archive) -> None:
    """SUP-1: other bytes of the same length under a signed name."""
    archive.offer("8.4.1-1")
    package = next(archive.folder.glob("composer_*.deb"))
    content = bytearray(package.read_bytes())
    content[-1] ^= 1
    package.write_bytes(content)
    assert add(tmp_path, **archive.env)["code"] == "altered"
    assert left(tmp_path) == set()


def test_an_unreachable_source_is_said(tmp_path: Path, archive: Archive) -> None:
    archive.lead(free_port())
    try:
        said = unpack(tmp_path, **archive.env)
    finally:
        archive.lead()
    assert said["code"] == "unreachable", said
    assert left(tmp_path) == set()


def test_too_little_room_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    words = tools.unpacking("php", "8")
    words[4] = str(1 << 60)
    assert unpack(tmp_path, words=words)["code"] == "disk_full"
    assert left(tmp_path) == set()


def test_a_system_without_apt_is_told_so(tmp_path: Path) -> None:
    for program in ("mkdir", "tr", "tail"):
        (tmp_path / program).symlink_to(shutil.which(program) or "")
    assert unpack(tmp_path, PATH=str(tmp_path))["code"] == "no_apt"


def test_what_the_system_has_already_is_not_doubled(tmp_path: Path, archive: Archive) -> None:
    archive.offer("8.4.1-1")
    words = [*tools.unpacking("php", "8")[:6], "dpkg"]
    assert unpack(tmp_path, words=words, **archive.env)["code"] == "present"
    assert left(tmp_path) == set()


def test_one_at_a_time(tmp_path: Path) -> None:
    with tools.Toolchains(tmp_path)._alone():
        assert unpack(tmp_path)["code"] == "busy"


def test_it_ends_and_leaves_nothing_when_nobody_reads(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    words = tools.unpacking("php", "8")
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as fetching:
        assert fetching.stdout
        assert b'"progress"' in fetching.stdout.readline()
        fetching.stdout.close()
        assert fetching.wait(20) == 1
    assert left(tmp_path) == set()
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if str(tmp_path) in cmdline(pid)]


def cmdline(pid: Path) -> str:
    try:
        return (pid / "cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def test_it_says_when_the_system_under_it_is_another_one(tmp_path: Path, archive: Archive) -> None:
    archive.offer("8.4.1-1")
    add(tmp_path, **archive.env)
    launcher = tmp_path / FOLDER / "php/8/croft/php"
    text = launcher.read_text()
    system = (tmp_path / FOLDER / "php/8/.system").read_text()
    launcher.write_text(text.replace(f"'{system}'", "'debian 7'"))
    done = subprocess.run([launcher], capture_output=True, text=True, check=False)
    assert done.returncode == 126
    assert "Install it again: croft tools add php" in done.stderr
