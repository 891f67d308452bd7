"""The manual names everything people can set, type, call or find in the audit log: what is not in it cannot be relied on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.audit import EVENTS
from appliance.cli import _parser
from appliance.settings import TABLE
from webui import routes

MANUAL = Path(__file__).parents[2] / "docs/manual.md"


def verbs(parser: argparse.ArgumentParser, before: str = "croft") -> Iterator[str]:
    """Every command down to its last word, and each long option of it."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for group in groups:
        for name, below in group.choices.items():
            yield from verbs(below, f"{before} {name}")
    if not groups:
        yield before
        yield from (option for action in parser._actions for option in action.option_strings if option.startswith("--") and option != "--help")


NAMES = sorted({f"`{row.name}`" for row in TABLE} | {f"`{code}`" for code in EVENTS} | set(verbs(_parser()))
               | {f"`{route.method} {route.path}`" for route in (*routes.UI, *routes.IDE)})


@pytest.mark.parametrize("name", NAMES)
def test_the_manual_names(name: str) -> None:
    assert name in MANUAL.read_text("utf-8"), f"docs/manual.md does not name {name}"
