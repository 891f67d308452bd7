"""The packaged policy, and the lists of command lines that tests judge by it."""

from __future__ import annotations

import functools
from pathlib import Path

from appliance.commands.judge import Policy
from appliance.commands.language import load
from appliance.commands.policy_text import packaged

CORPUS = Path(__file__).parents[1] / "commands" / "corpus"


@functools.cache
def default_policy() -> Policy:
    return load(packaged())


def lines_of(name: str) -> list[str]:
    """One of the lists, without its comments."""
    lines = (CORPUS / name).read_text("utf-8").split("\n")
    return [line for line in lines if line.strip() and not line.startswith("# ")]
