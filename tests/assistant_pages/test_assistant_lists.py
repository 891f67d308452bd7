"""What the server lets through is what scripts make nodes of (docs/decisions/0016)."""

from __future__ import annotations

import re
from pathlib import Path

from webui import markup
from webui.markup.gate import ATTRIBUTES, TAGS

SCRIPT = (Path(markup.__file__).parents[1] / "static/js/markup.js").read_text("utf-8")


def names(constant: str) -> set[str]:
    found = re.search(rf"const {constant} = new Set\(\[(.*?)\]\)", SCRIPT, re.DOTALL)
    assert found is not None
    return set(re.findall(r'"([a-z0-9-]+)"', found[1]))


def test_both_lists_of_elements_are_alike() -> None:
    """WEB-13: a tag on one list alone would be text on the page, or a hole in one of two walls."""
    assert names("ELEMENTS") == set(TAGS)


def test_scripts_set_no_attribute_that_the_gate_does_not_know() -> None:
    """An address, and where it opens, are set by the script itself, after a look at the scheme."""
    known = {name for some in ATTRIBUTES.values() for name in some} | {"class"}
    assert names("ATTRIBUTES") <= known
    assert known - names("ATTRIBUTES") == {"href", "target"}
