"""Toolchains on the disk: really fetched, really used, checked before they count, and gone without a trace when not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.toolchains import Source, helper

from appliance.host import tools
from appliance.host.tools import CATALOGUE, FOLDER, LOCKS

pytestmark = pytest.mark.timeout(120)
ALTER = """
import sys, pathlib
from appliance.host import tools
tools.LOCKS = pathlib.Path(sys.argv.pop(1))
sys.exit(tools.main(sys.argv[1:]))
"""


def use(home: Path, program: str, *words: str) -> str:
    """What a program says when it is found as a terminal finds it."""
    env = {"HOME": str(home), "PATH": f"{home / FOLDER / 'bin'}:/usr/bin:/bin"}
    return subprocess.run(["/usr/bin/env", program, *words], env=env, check=True, capture_output=True, text=True).stdout


def test_node_is_fetched_and_runs(tmp_path: Path) -> None:
    """SUP-1: by the hashes of the lock. With npm and npx, which the wheel has as copies that do not work."""
    said = helper(tmp_path, "add", "node", "24")
    assert said[0]["event"] == "progress"
    assert said[-1]["event"] == "done", said[-1]
    row = said[-1]["tools"][0]
    assert (row["name"], row["series"]) == ("node", "24")
    for program in ("node", "node24"):
        assert use(tmp_path, program, "-e", "console.log(6*7, process.version)") == f"42 v{row['version']}\n"
    assert use(tmp_path, "npm", "--version").count(".") == 2
    assert use(tmp_path, "npx", "--version").count(".") == 2
    assert helper(tmp_path, "list")[-1]["tools"] == [row]


def test_go_and_deno_work_beside_each_other_until_removed(tmp_path: Path) -> None:
    assert helper(tmp_path, "add", "go", "1.27")[-1]["event"] == "done"
    assert helper(tmp_path, "add", "deno", "2")[-1]["event"] == "done"
    (tmp_path / "main.go").write_text("package main\nfunc main() { println(6*7) }\n")
    assert "println(6 * 7)" in use(tmp_path, "gofmt", str(tmp_path / "main.go"))
    assert use(tmp_path, "go", "version").startswith("go version go1.27")
    assert use(tmp_path, "deno", "eval", "console.log(6*7)") == "42\n"
    assert [row["name"] for row in helper(tmp_path, "remove", "deno", "2")[-1]["tools"]] == ["go"]
    assert sorted(path.name for path in (tmp_path / FOLDER / "bin").iterdir()) == ["go", "go1.27", "gofmt"]
    assert not (tmp_path / FOLDER / "deno/2").exists()
    assert helper(tmp_path, "remove", "deno", "2")[-1]["code"] == "missing"


def test_an_older_version_is_brought_up_to_the_lock(tmp_path: Path) -> None:
    first = helper(tmp_path, "add", "deno", "2")[-1]["tools"][0]
    place = tmp_path / FOLDER / "deno/2"
    (place / ".croft.json").write_text(json.dumps({"version": "2.0.0", "bytes": 1}))
    (place / "old").write_text("of another version")
    assert helper(tmp_path, "list")[-1]["tools"][0]["version"] == "2.0.0"
    assert helper(tmp_path, "add", "deno", "2")[-1]["tools"] == [first]
    assert not (place / "old").exists()
    assert use(tmp_path, "deno", "eval", "console.log(6*7)") == "42\n"


def test_what_is_not_what_was_pinned_is_thrown_away(tmp_path: Path) -> None:
    """SUP-1: the lock names another hash."""
    locks = tmp_path / "locks"
    locks.mkdir()
    pinned = (LOCKS / "deno-2.txt").read_text().split()[0]
    (locks / "deno-2.txt").write_text(f"{pinned} --hash=sha256:{'0' * 64}\n")
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALTER, str(locks), "add", "deno", "2"],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        check=False,
    )
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["code"]) == ("failed", "altered"), last
    assert not (tmp_path / FOLDER / "deno/2").exists()
    assert helper(tmp_path, "list")[-1]["tools"] == []


def test_a_python_of_uvs_list_is_installed_and_found(tmp_path: Path, source: Source) -> None:
    source.offer()
    said = helper(tmp_path, "add", "python", "3.13", **source.env)
    assert said[-1]["event"] == "done", said
    assert said[-1]["tools"][0]["version"] == "3.13.7"
    for program in ("python", "python3", "python3.13"):
        assert use(tmp_path, program) == "Python 3.13.7\n"


def test_a_python_with_another_digest_is_refused(tmp_path: Path, source: Source) -> None:
    source.offer("0" * 64)
    last = helper(tmp_path, "add", "python", "3.13", **source.env)[-1]
    assert (last["event"], last["code"]) == ("failed", "altered"), last
    assert not (tmp_path / FOLDER / "python/3.13").exists()


def test_an_unreachable_source_leaves_nothing(tmp_path: Path, source: Source) -> None:
    env = source.env | {"UV_PYTHON_DOWNLOADS_JSON_URL": str(source.folder / "gone.json")}
    listed = json.loads((source.folder / "list.json").read_text())
    for row in listed.values():
        row["url"] = "https://localhost:9/python.tar.gz"
    (source.folder / "gone.json").write_text(json.dumps(listed))
    last = helper(tmp_path, "add", "python", "3.13", **env)[-1]
    assert last["code"] == "unreachable", last
    assert not (tmp_path / FOLDER / "python/3.13").exists()


def test_what_was_left_half_way_goes_with_the_next_change(tmp_path: Path, source: Source) -> None:
    source.offer()
    left = tmp_path / FOLDER / "zig/0.17"
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"x" * 10)
    (tmp_path / FOLDER / ".cache").mkdir()
    assert helper(tmp_path, "list")[-1]["tools"] == []
    assert helper(tmp_path, "add", "python", "3.13", **source.env)[-1]["event"] == "done"
    assert not left.exists()
    assert not (tmp_path / FOLDER / ".cache").exists()


def test_too_little_room_is_said_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "SPARE_BYTES", 1 << 60)
    with pytest.raises(tools.Failed) as refused:
        tools.Toolchains(tmp_path).add("deno", "2")
    assert refused.value.code == "disk_full"
    assert not (tmp_path / FOLDER / "deno/2").exists()


def test_one_at_a_time(tmp_path: Path) -> None:
    with tools.Toolchains(tmp_path)._alone():
        assert helper(tmp_path, "add", "deno", "2")[-1]["code"] == "busy"


@pytest.mark.parametrize(
    "words",
    [
        ("add", "../../etc", "1"),
        ("add", "deno", "../2"),
        ("add", "--help", "2"),
        ("add", "node", "1"),
        ("add", "deno"),
        ("found",),
        (),
    ],
)
def test_other_words_do_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert helper(tmp_path, *words)[-1]["code"] == "unknown"
    assert list(tmp_path.iterdir()) == []


def test_every_version_that_is_offered_is_pinned() -> None:
    """SUP-1: an exact version and hashes, one package and nothing else."""
    for name, tool in CATALOGUE.items():
        for series in tool.series if tool.locked else ():
            first, *hashes = (LOCKS / f"{name}-{series}.txt").read_text().replace("\\\n", " ").split()
            assert first.partition("==")[2].startswith(f"{series}."), first
            assert hashes
            assert all(one.startswith("--hash=sha256:") and len(one) == 78 for one in hashes)
