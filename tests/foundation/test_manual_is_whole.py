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
        yield from (
            option
            for action in parser._actions
            for option in action.option_strings
            if option.startswith("--") and option != "--help"
        )


NAMES = sorted(
    {f"`{row.name}`" for row in TABLE}
    | {f"`{code}`" for code in EVENTS}
    | set(verbs(_parser()))
    | {f"`{route.method} {route.path.replace(':.+', '')}`" for route in (*routes.UI, *routes.IDE)}
)


@pytest.mark.parametrize("name", NAMES)
def test_the_manual_names(name: str) -> None:
    manual = MANUAL.read_text("utf-8")
    words = name.split()
    if words[0] == "croft" and len(words) == 3:
        row = next((line for line in manual.splitlines() if line.startswith(f"| `croft {words[1]} ")), "")
        assert words[2] in row.replace("\\|", " ").replace("`", " ").split(), f"docs/manual.md does not name {name}"
    else:
        assert name in manual, f"docs/manual.md does not name {name}"
