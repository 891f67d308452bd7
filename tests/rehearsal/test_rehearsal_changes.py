"""What a rehearsal finds out, and merging it forwards and backwards, by a real broker as root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker import ROOT, Home
from support.rehearsals import Result, merge, picture, rehearse

from appliance.broker.rehearsal_helper import Helper

pytestmark = pytest.mark.skipif(not ROOT, reason="needs root, as CI has it")

EVERYTHING = """
echo three >> readme; echo new > fresh; mkdir -p made/deeper; echo x > made/deeper/y; rm src/deep/leaf; rmdir src/deep
mv src/code.py src/renamed.py; ln -s readme shortcut; chmod 755 old/a; rm -r old/b; touch src
rm -r old; mkdir old; echo again > old/c; chmod 700 src
"""


def test_every_kind_of_change_is_named_and_nothing_real_happens(broker: Home) -> None:
    before = picture(broker.paths.workspace)
    result = rehearse(broker, EVERYTHING)
    assert picture(broker.paths.workspace) == before
    assert result.changes == {
        "readme": ("file", "file"),
        "fresh": ("", "file"),
        "made": ("", "folder"),
        "made/deeper": ("", "folder"),
        "made/deeper/y": ("", "file"),
        "src": ("folder", "folder"),
        "src/deep": ("folder", ""),
        "src/deep/leaf": ("file", ""),
        "src/code.py": ("file", ""),
        "src/renamed.py": ("", "file"),
        "shortcut": ("", "link"),
        "old/a": ("file", ""),
        "old/b": ("file", ""),
        "old/c": ("", "file"),
    }
    assert result.listed["problems"] == []
    assert result.listed["cause"] == ""


def test_merging_gives_what_the_run_alone_would_have_given_and_back_again(broker: Home) -> None:
    before = picture(broker.paths.workspace)
    result = rehearse(broker, EVERYTHING)
    twin = broker.folder / "twin"
    shutil.copytree(broker.paths.workspace, twin, symlinks=True)
    subprocess.run(["/bin/sh", "-c", f"umask 022; {EVERYTHING}"], cwd=twin, check=True)
    assert merge(broker, result) == {"id": 1, "conflicts": [], "torn": []}
    assert picture(broker.paths.workspace) == picture(twin)
    owner = broker.paths.workspace.stat().st_uid
    assert {path.lstat().st_uid for path in broker.paths.workspace.rglob("*")} == {owner}
    assert merge(broker, result, "before") == {"id": 1, "conflicts": [], "torn": []}
    assert picture(broker.paths.workspace) == before


def test_what_was_only_touched_is_no_change(broker: Home) -> None:
    assert rehearse(broker, "touch readme; cp readme x; mv x readme; chmod 600 old/a; chmod 644 old/a").changes == {}


def test_a_file_may_become_a_folder_and_a_folder_a_link(broker: Home) -> None:
    before = picture(broker.paths.workspace)
    result = rehearse(broker, "rm readme; mkdir readme; echo x > readme/y; rm -r src; ln -s old src")
    assert result.changes["readme"] == ("file", "folder")
    assert result.changes["src"] == ("folder", "link")
    assert merge(broker, result)["conflicts"] == []
    assert (broker.paths.workspace / "readme/y").read_text() == "x\n"
    assert (broker.paths.workspace / "src").readlink() == Path("old")
    assert merge(broker, result, "before")["conflicts"] == []
    assert picture(broker.paths.workspace) == before


@pytest.mark.parametrize(
    ("path", "script"),
    [
        ("readme", "echo more >> readme"),
        ("readme", "rm readme"),
        ("readme", "cp -p readme x; mv x readme"),
        ("fresh", "echo mine > fresh"),
        ("old", "echo mine > old/mine"),
        ("src/code.py", "rm -r src; ln -s /etc src"),
    ],
)
def test_what_somebody_changed_meanwhile_is_a_conflict_and_nothing_is_merged(
    broker: Home, path: str, script: str
) -> None:
    result = rehearse(broker, "echo x >> readme; echo new > fresh; rm -r old; echo y >> src/code.py")
    workspace = broker.paths.workspace
    subprocess.run(["/bin/sh", "-c", script], cwd=workspace, check=True)
    before = picture(workspace)
    assert path in merge(broker, result)["conflicts"]
    assert picture(workspace) == before


def test_a_change_while_it_ran_is_named(broker: Home) -> None:
    script = "echo x >> readme; echo go > fresh; sleep 1"

    def meddle() -> None:
        broker.workspace_file("readme", "mine\n", 0o644)

    timer = threading.Timer(0.5, meddle)
    timer.start()
    result = rehearse(broker, script)
    timer.join()
    assert {row["path"]: row["stale"] for row in result.listed["changes"]} == {"readme": True, "fresh": False}


def test_undo_refuses_what_was_changed_after_it_was_applied(broker: Home) -> None:
    result = rehearse(broker, "echo x >> readme; echo new > fresh")
    merge(broker, result)
    broker.workspace_file("fresh", "work of a person\n", 0o644)
    before = picture(broker.paths.workspace)
    assert merge(broker, result, "before")["conflicts"] == ["fresh"]
    assert picture(broker.paths.workspace) == before


@pytest.mark.parametrize("towards", ["after", "before"])
@pytest.mark.parametrize("steps", [1, 5, 9, 14, 19, 24, 29, 35])
def test_a_merge_killed_at_any_moment_can_be_finished_or_taken_back(broker: Home, steps: int, towards: str) -> None:
    """R1: kill -9 between any two steps leaves what merging again understands, whichever way."""
    before = picture(broker.paths.workspace)
    result = rehearse(broker, EVERYTHING)
    _merge_until(broker, result, steps)
    half = picture(broker.paths.workspace)
    assert half != before
    assert merge(broker, result, towards) == {"id": 1, "conflicts": [], "torn": []}
    if towards == "after":
        assert (broker.paths.workspace / "fresh").read_text() == "new\n"
        assert merge(broker, result, "before")["conflicts"] == []
    assert picture(broker.paths.workspace) == before


def _merge_until(broker: Home, result: Result, steps: int) -> None:
    """Merge in a process that kills itself after so many calls that change something."""
    pid = os.fork()
    if pid == 0:
        try:
            _die_after(steps)
            uid = broker.paths.workspace.stat().st_uid
            fd = os.open(result.parcel, os.O_RDONLY)
            os.setresuid(uid, uid, uid)
            root = os.open(broker.paths.workspace, os.O_RDONLY | os.O_DIRECTORY)
            Helper(root, 0, []).merge([fd], result.run, "after", result.at, result.length)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def _die_after(steps: int) -> None:
    left = [steps]
    names = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.chmod", "os.utime"}

    def hook(event: str, arguments: object) -> None:
        if event in names:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@pytest.mark.parametrize(
    "script", ["mkfifo pipe", "cp /bin/true tool; chmod 4755 tool", "printf x > \"$(printf 'a\\377')\""]
)
def test_what_cannot_be_carried_over_is_a_problem_not_a_change(broker: Home, script: str) -> None:
    result = rehearse(broker, f"echo x > fresh; {script}")
    assert set(result.changes) == {"fresh"}
    assert len(result.listed["problems"]) == 1


@pytest.fixture
def disk(broker: Home) -> Iterator[Path]:
    """A disk of the owner's at ``data`` in the workspace, with a file on it."""
    place = broker.paths.workspace / "data"
    place.mkdir()
    broker.give(place)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", place], check=True)
    broker.give(place)
    broker.workspace_file("data/precious", "precious\n", 0o644)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_what_is_mounted_in_the_workspace_is_no_folder_that_a_run_emptied(broker: Home, disk: Path) -> None:
    """R11: a view shows what lies beneath the disk, so that all files on it would count as deleted."""
    result = rehearse(broker, "echo x > fresh; echo x > data/made")
    assert set(result.changes) == {"fresh"}
    assert result.listed["problems"] == [{"path": "data", "cause": "special"}]
    assert (disk / "precious").read_text() == "precious\n"


def test_a_disk_that_was_mounted_since_is_not_merged_into(broker: Home) -> None:
    """R11: neither what it holds is taken for the folder's, nor is half of the list done before that shows."""
    result = rehearse(broker, "echo x > fresh; rm old/a; echo x > old/c")
    place = broker.paths.workspace / "old"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", place], check=True)
    try:
        broker.give(place)
        assert set(merge(broker, result)["conflicts"]) == {"old/a", "old/c"}
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", place], check=True)
    assert not (broker.paths.workspace / "fresh").exists()
    assert merge(broker, result)["conflicts"] == []
    assert {one.name for one in place.iterdir()} == {"b", "c"}


def test_contents_that_were_swapped_in_the_parcel_are_not_merged(broker: Home) -> None:
    """POL-10: what is merged is what the list says, byte for byte."""
    result = rehearse(broker, "echo honest > fresh")
    at = result.listed["changes"][0]["after"]["at"]
    with result.parcel.open("r+b") as file:
        file.seek(at)
        file.write(b"malice")
    assert merge(broker, result)["conflicts"] == [""]
    assert not (broker.paths.workspace / "fresh").exists()
