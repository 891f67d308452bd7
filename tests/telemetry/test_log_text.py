"""Log lines as text: colours from a closed list, nothing a terminal would obey, times that lines say of themselves (WEB-15)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.services.model import LogLine
from webui import log_lines
from webui.filters import log_level
from webui.log_lines import Filter, Part

STYLES = {"red", "green", "yellow", "blue", "magenta", "cyan", "bold", "dim"}


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("plain", [("plain", "")]),
        ("\x1b[31mred\x1b[0m end", [("red", "red"), (" end", "")]),
        ("\x1b[1;92mok\x1b[39m still bold", [("ok", "green bold"), (" still bold", "bold")]),
        ("\x9b33mC1\x9bm", [("C1", "yellow")]),
        ("\x1b[38;5;196mby number", [("by number", "")]),
        ("\x1b[38;2;1;31;1mby light", [("by light", "")]),
        ("\x1b[41mground\x1b[7minverse", [("ground", ""), ("inverse", "")]),
        ("\x1b[30mblack\x1b[97mwhite", [("black", ""), ("white", "")]),
        ("a\x1b]8;;javascript:alert(1)\x07link\x1b]8;;\x07b", [("alinkb", "")]),
        ("\x1b]0;title\x07\x1b]52;c;aGk=\x1b\\x", [("x", "")]),
        ("\x1b]8;;\x1b[31mhttps://evil\x07y", [("https://evil\x07y", "red")]),
        ("\x1b[2J\x1b[1;1H\x1b[?25lgone", [("gone", "")]),
        ("\x1bP1$r\x1b\\dcs", [("dcs", "")]),
        ("\x1b[31;;;;;;;1mm", [("m", "bold")]),
        ("\x1b[999999mbig", [("big", "")]),
    ],
)
def test_known_sequences(written: str, shown: list[tuple[str, str]]) -> None:
    assert log_lines.parts(written) == [Part(*each) for each in shown]


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("\x1b\x9b\x07[]m;?018 9PX^_\\abjHJ\u202e")))
def test_no_sequence_survives_and_styles_are_ours(text: str) -> None:
    """Whatever is written: what is shown holds no sequence a terminal would obey, and only styles of the list."""
    found = log_lines.parts(text)
    together = "".join(part.text for part in found)
    assert log_lines.clean(together) == together
    assert not {"\x1b", "\x9b"} & set(together)
    assert all(set(part.style.split()) <= STYLES for part in found)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("[2027-01-15T08:00:00.123Z] info ready", 1_800_000_000.123),
        ("2027-01-15 08:00:00 started", 1_800_000_000),
        ("2027-01-15T10:30:00+02:30 zone", 1_800_000_000),
        ('{"level":"info","ts":1800000000.5,"msg":"x"}', 1_800_000_000.5),
        ("2027-99-99T08:00:00Z no such day", None),
        ("9999-12-31T23:59:59-23:59 beyond", None),
        ("no time at all", None),
        ("x" * 300 + " 2027-01-15T08:00:00Z too far in", None),
    ],
)
def test_times_that_lines_say(text: str, at: float | None) -> None:
    found = log_lines.written_at(text)
    assert found == (pytest.approx(at) if at is not None else None)


def test_lines_without_a_time_have_the_one_before() -> None:
    lines = [LogLine("first"), LogLine("2027-01-15T08:00:00Z error: x"), LogLine("  at line 3"), LogLine("y", 5.0)]
    rows = log_lines.rows(lines)
    assert [row["at"] for row in rows] == [None, 1_800_000_000, 1_800_000_000, 5.0]
    assert "parts" not in rows[0]


def test_filters() -> None:
    rows = log_lines.rows(
        [LogLine("ERROR Straße", 10.0), LogLine("debug: x", 20.0), LogLine("info", 30.0), LogLine("warn", 40.0)]
    )

    def wanted(**what: object) -> list[float]:
        return [row["at"] for row in rows if Filter(**what).wants(row)]  # type: ignore[arg-type]

    assert wanted() == [10, 20, 30, 40]
    assert wanted(level="info") == [10, 30, 40]
    assert wanted(level="error") == [10]
    assert wanted(since=25.0) == [30, 40]
    assert wanted(text="STRASSE") == [10]


def test_a_page_that_is_left_is_no_fault_of_the_proxy() -> None:
    """Its words, as Caddy 2.6.2 writes them; an answer that breaks off for another cause stays an error."""
    line = (
        '{"level":"error","ts":1795394053.887934,"logger":"http.handlers.reverse_proxy",'
        '"msg":"aborting with incomplete response","error":"%s"}'
    )
    assert log_level(line % "context canceled") == "debug"
    assert log_level(line % "unexpected EOF") == "error"
