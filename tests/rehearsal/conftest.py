"""Accounts and a broker for the tests of rehearsals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.broker import Home, home_folder


@pytest.fixture
def broker(names: dict[str, str]) -> Iterator[Home]:
    """A running broker with a small tree in its workspace."""
    with home_folder(names) as made:
        made.start()
        plant(made)
        yield made


def plant(home: Home) -> None:
    for folder in ("src", "src/deep", "old"):
        (home.paths.workspace / folder).mkdir()
        home.give(home.paths.workspace / folder)
    home.workspace_file("readme", "one\ntwo\n", 0o644)
    home.workspace_file("src/code.py", "print(1)\n", 0o644)
    home.workspace_file("src/deep/leaf", "leaf\n", 0o600)
    home.workspace_file("old/a", "a\n", 0o644)
    home.workspace_file("old/b", "b\n", 0o644)
