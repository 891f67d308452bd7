"""Why a run failed: errors that are really provoked, where the program is here, and what no output can do."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.commands.judge import Policy
from appliance.commands.language import load
from appliance.commands.model import Actor, Request, Verdict
from appliance.commands.policy_file import packaged
from appliance.commands.why import TABLE, why
from webui.i18n import Catalogue

LOCALE = Path(__file__).parents[2] / "webui/locale"
SERVE = "import socket; s = socket.socket(); s.bind(('127.0.0.1', {port})); s.listen()"

# What is run, and what it must be found to be. {port} is taken, {closed} is not.
PROVOKED = {
    "port_taken": (sys.executable, "-c", SERVE),
    "python_module": (sys.executable, "-c", "import no_such_module_here"),
    "python_name": (sys.executable, "-c", "from os import no_such_name"),
    "python_syntax": (sys.executable, "-c", "if"),
    "python_indent": (sys.executable, "-c", "if 1:\npass"),
    "json": (sys.executable, "-c", "import json; json.loads('{')"),
    "encoding": (sys.executable, "-c", "b'\\xff'.decode()"),
    "refused": (sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', {closed}))"),
    "no_file": ("cat", "missing.txt"),
    "is_folder": ("cat", "."),
    "not_empty": ("rmdir", "full"),
    "exists": ("mkdir", "full"),
    "no_folder": ("ls", "file/inside"),
    "option": ("ls", "--no-such-option"),
    "no_program": ("sh", "-c", "no-such-program-here"),
    "git_no_repository": ("git", "log"),
    "make_no_file": ("make",),
    "make_no_rule": ("make", "-f", "file", "absent"),
    "npm_script": ("npm", "run", "absent", "--prefix", "project"),
    "node_package": ("node", "-e", "require('no-such-package-here')"),
    "node_file": ("node", "-e", "require('./missing.js')"),
}


@pytest.mark.parametrize("name", PROVOKED)
def test_what_really_happens_is_known(name: str, tmp_path: Path) -> None:
    argv = PROVOKED[name]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not on this machine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    (tmp_path / "file").touch()
    (tmp_path / "project").mkdir()
    (tmp_path / "project/package.json").write_text('{"name": "x", "version": "1.0.0"}')
    with socket.socket() as taken, socket.socket() as closed:
        for each in (taken, closed):
            each.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"{port}": str(taken.getsockname()[1]), "{closed}": str(closed.getsockname()[1])}
        closed.close()
        words = [word.replace("{port}", ports["{port}"]).replace("{closed}", ports["{closed}"]) for word in argv]
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(tmp_path)}
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    found = why(done.stdout + done.stderr, tuple(argv), done.returncode, None)
    assert found is not None, done.stderr
    assert found.id == name, (found, done.stderr)


def test_every_row_has_its_words_in_both_languages() -> None:
    catalogue = Catalogue.load(LOCALE, strict=True)
    keys = [f"why.{known.id}" for known in TABLE] + ["why.crash", "why.killed"]
    keys += [f"why.{known.id}_unnamed" for known in TABLE if "?P<what>" in known.pattern]
    assert [key for key in keys if not catalogue.has(key)] == []
    assert {key for key in catalogue.texts["en"] if key.startswith("why.")} - set(keys) == {
        "why.title", "why.fix", "why.run_fix", "why.ask_fix"
    }  # fmt: skip
    assert len(TABLE) >= 50
    assert len({known.id for known in TABLE}) == len(TABLE)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load(packaged())


def test_no_fix_is_more_than_a_proposal(policy: Policy) -> None:
    """A fix is judged like any other command: what runs at once only reads."""
    for known in TABLE:
        fix = tuple("left-pad" if word == "{what}" else word for word in known.fix)
        if fix:
            judged = policy.judge(Request((fix,), Actor.HUMAN, "operator"))
            assert judged.verdict is not Verdict.DENY, fix
            assert judged.verdict is Verdict.ASK or judged.effect == "read", fix


@pytest.mark.parametrize("name", ["--registry=http://evil", "../x", "a b", "x;y", "http://evil/x.tgz", "@x", "-g"])
def test_a_name_from_an_output_is_a_name_or_nothing(name: str) -> None:
    """What a program wrote never becomes an option, a path or an address of a command."""
    found = why(f"Cannot find module '{name}'\nNo module named '{name}'", ("node",), 1, None)
    assert found is not None
    assert name not in found.fix


@given(st.text(max_size=2000))
@settings(max_examples=200)
def test_any_output_is_looked_at(output: str) -> None:
    why(output, ("x",), 1, None)


def test_looking_is_quick_whatever_was_written() -> None:
    """No output makes the patterns slow: 1 MB of the worst lines takes no longer than its tail."""
    for line in (
        "(" * 999,
        "No such file" * 80,
        "a:" * 500,
        "'" * 999,
        "No module named " * 60,
        " " * 999,
        "x" * 1_000_000,
    ):
        began = time.process_time()
        why(f"{line}\n" * max(1, 1_000_000 // len(line)), ("x",), 1, None)
        assert time.process_time() - began < 0.25, line[:20]


def test_a_run_that_is_well_needs_no_reason() -> None:
    assert why("No such file or directory", ("x",), 0, None) is None
    assert why("", ("x",), 1, None, "timeout") is None
    crash = why("", ("./a.out",), None, 11)
    assert crash is not None
    assert crash.id == "crash"
