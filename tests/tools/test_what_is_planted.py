"""What the container leaves in the home for the helper, which works on the host: nothing of it is started or followed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from support.toolchains import Source, helper
from support.wheels import Index

from appliance.host.tools import FOLDER

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
