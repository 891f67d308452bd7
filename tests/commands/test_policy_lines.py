"""Reading a typed line: words, quotes and pipes are ours; what a shell would read otherwise is refused (SECURITY 5.2, POL-8)."""

from __future__ import annotations

import subprocess
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.policies import default_policy

from appliance.commands.hidden import cleaned, hidden, is_hidden, reads_as_written
from appliance.commands.judge import Actor, Request, Verdict
from appliance.commands.lines import judge_line
from appliance.commands.tokenizer import MOST_CHARACTERS, MOST_WORDS, LineRefused, joined, parse_line

SHELL_CHARACTERS = ";&<>()$`*?[!{}"


@pytest.mark.parametrize(
    ("line", "stages"),
    [
        ("git log -n 5", (("git", "log", "-n", "5"),)),
        ("  ls\t-l  ", (("ls", "-l"),)),
        ("git commit -m 'a b'", (("git", "commit", "-m", "a b"),)),
        ('grep "a|b" x|wc -l', (("grep", "a|b", "x"), ("wc", "-l"))),
        ("a''b\"c\"'d e'", (("abcd e",),)),
        ("echo '' x", (("echo", "", "x"),)),
        ('echo "a\\"b\\\\c"', (("echo", 'a"b\\c'),)),
        ('grep "foo$" x', (("grep", "foo$", "x"),)),
        ("git diff HEAD~1 issue#12 stash@{0}", (("git", "diff", "HEAD~1", "issue#12", "stash@{0}"),)),
        ("git commit -m 'إصلاح الخطأ'", (("git", "commit", "-m", "إصلاح الخطأ"),)),
    ],
)
def test_words_and_pipes(line: str, stages: tuple[tuple[str, ...], ...]) -> None:
    assert parse_line(line) == stages


@pytest.mark.parametrize("char", SHELL_CHARACTERS)
@pytest.mark.parametrize("shape", ["{}", "x {}", "x a{}", "x {}a", "x | y {}"])
def test_what_a_shell_expands_is_refused_with_its_place(char: str, shape: str) -> None:
    line = shape.replace("{}", char)
    with pytest.raises(LineRefused) as refused:
        parse_line(line)
    assert refused.value.code == "shell"
    assert line[refused.value.position] == refused.value.char == char


@pytest.mark.parametrize(
    ("line", "code", "position"),
    [
        ("ls ~", "shell", 3),
        ("ls #x", "shell", 3),
        ("ls a=~/x", "shell", 5),
        ("ls a\\ b", "shell", 4),
        ('echo "$HOME"', "shell", 6),
        ('echo "`id`"', "shell", 6),
        ("FOO=1 make", "assignment", 0),
        ("ls | A=1 make", "assignment", 5),
        ("echo 'a", "quote", 5),
        ('echo "a', "quote", 5),
        ("", "empty", 0),
        ("   ", "empty", 0),
        ("| ls", "stage", 0),
        ("ls |", "stage", 4),
        ("ls || wc", "shell", 3),
        ("ls | | wc", "stage", 4),
        ("ls\nid", "hidden", 2),
        ("echo 'a\x1bb'", "hidden", 7),
    ],
)
def test_refusals_name_what_and_where(line: str, code: str, position: int) -> None:
    with pytest.raises(LineRefused) as refused:
        parse_line(line)
    assert (refused.value.code, refused.value.position) == (code, position)


WORDS = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=30)


@settings(deadline=None)
@given(st.lists(st.lists(WORDS, min_size=1, max_size=6), min_size=1, max_size=4))
def test_quoting_and_reading_is_a_round_trip(stages: list[list[str]]) -> None:
    assert parse_line(joined(stages)) == tuple(map(tuple, stages))


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No crash, and whatever runs at once was decided by a rule (POL-16)."""
    judged = judge_line(default_policy(), text, Actor.HUMAN, "operator").judgement
    assert judged.verdict is not Verdict.ALLOW or all(stage.rule not in ("", "default") for stage in judged.stages)


FORBIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


def test_every_unseen_code_point_is_refused_in_names_flags_and_paths() -> None:
    """POL-8: the whole of Unicode, category by category."""
    policy = default_policy()
    for number in range(0x110000):
        char = chr(number)
        if char == " " or unicodedata.category(char) not in FORBIDDEN:
            continue
        assert is_hidden(char), f"U+{number:04X}"
        if number < 0x2100 or number % 499 == 0:
            # One kind of place for each, by turns; every one of the million takes too long.
            argv = (("ls", f"a{char}b"), ("ls", f"--a{char}ll"), (f"l{char}s",))[number % 3]
            verdict = policy.judge(Request((argv,), Actor.HUMAN, "operator")).verdict
            assert verdict is Verdict.DENY, f"U+{number:04X} in {argv!a}"


@pytest.mark.parametrize("char", ["\u3164", "\u115f", "\u2800", "\u034f", "\ufe0f", "\U000e0101", "\u180b"])
def test_blank_letters_and_marks_are_refused_too(char: str) -> None:
    assert hidden(f"a{char}b")[0].position == 1
    assert default_policy().judge(Request((("cat", f"a{char}b"),), Actor.HUMAN, "admin")).verdict is Verdict.DENY


@pytest.mark.parametrize("text", ["می\u200cخواهم", "क्\u200dष", "👩\u200d💻 done", "✔\ufe0f fixed"])
def test_joiners_belong_to_writing_in_free_text_only(text: str) -> None:
    assert reads_as_written(text)
    assert (
        judge_line(default_policy(), f"git commit -m '{text}'", Actor.HUMAN, "operator").judgement.verdict
        is Verdict.ASK
    )
    assert judge_line(default_policy(), f"cat '{text}'", Actor.HUMAN, "operator").judgement.verdict is Verdict.DENY


@pytest.mark.parametrize("text", ["a\u200cb", "ab\u200d", "\u200dx", "نص\u202e", "نص\u200f", "a\u00a0b"])
def test_other_hidden_characters_stay_out_of_free_text(text: str) -> None:
    assert not reads_as_written(text)


def test_pasted_marks_are_named_and_a_clean_line_is_offered() -> None:
    """Direction marks and odd spaces, common in Arabic text from chats."""
    judged = judge_line(default_policy(), "git\u00a0commit -m '\u200fإصلاح\u200f'", Actor.HUMAN, "operator")
    assert judged.judgement.verdict is Verdict.DENY
    assert judged.cleaned == "git commit -m 'إصلاح'"
    assert judged.judgement.reason.params["code"] in ("U+00A0", "U+200F")
    offered = judge_line(default_policy(), judged.cleaned, Actor.HUMAN, "operator").judgement
    assert (offered.verdict, offered.rule) == (Verdict.ASK, "git-commit")


def test_cleaning_keeps_what_is_writing_where_it_may() -> None:
    judged = judge_line(default_policy(), "git commit -m '\u200fمی\u200cخواهم'", Actor.HUMAN, "operator")
    assert judged.cleaned == "git commit -m 'می\u200cخواهم'"
    assert cleaned("a\u200bb\u2028c") == "ab c"


@pytest.mark.parametrize("actor", [Actor.AI, Actor.TOKEN, Actor.REGISTRY])
def test_shell_syntax_is_refused_for_all_but_people(actor: Actor) -> None:
    assert judge_line(default_policy(), "ls && id", actor, "admin").judgement.verdict is Verdict.DENY


def test_shell_syntax_of_a_person_asks_as_an_explicit_command() -> None:
    """Nothing is rewritten behind somebody's back: what would run is bash, by name, with the line as one word."""
    judged = judge_line(default_policy(), "cd src && make", Actor.HUMAN, "operator").judgement
    assert judged.verdict is Verdict.ASK
    assert judged.stages[0].argv == ("bash", "-c", "cd src && make")
    assert not judged.leasable
    assert judge_line(default_policy(), "cd src && make", Actor.HUMAN, "viewer").judgement.verdict is Verdict.DENY
    assert judge_line(default_policy(), "true; rm -rf /", Actor.HUMAN, "admin").judgement.verdict is Verdict.DENY


@pytest.mark.parametrize("unit", ["x", "é", "''", " a", " '\u200b'", "|a"])
def test_a_line_too_long_to_be_read_is_refused_in_words(unit: str) -> None:
    """POL-16: a verdict costs in proportion to the line, so the line is bounded, in every script and however it is built."""
    longest = "ls " + unit * (MOST_CHARACTERS // len(unit))
    judged = judge_line(default_policy(), longest + "x", Actor.HUMAN, "admin")
    assert (judged.judgement.verdict, judged.judgement.reason.key) == (Verdict.DENY, "policy.line.long")
    assert judged.judgement.reason.params == {"words": MOST_WORDS, "characters": MOST_CHARACTERS}
    assert judged.cleaned == ""


@pytest.mark.parametrize(
    "stages",
    [
        (("ls", "x" * MOST_CHARACTERS),),
        (("ls", *["x"] * MOST_WORDS),),
        (("ls", *["x"] * (MOST_WORDS // 2)), ("wc", *["x"] * (MOST_WORDS // 2))),
        (("x" * (MOST_CHARACTERS + 1),),),
    ],
)
@pytest.mark.parametrize("actor", Actor)
def test_words_given_one_by_one_have_the_same_bounds(stages: tuple[tuple[str, ...], ...], actor: Actor) -> None:
    judged = default_policy().judge(Request(stages, actor, "admin"))
    assert (judged.verdict, judged.reason.key) == (Verdict.DENY, "policy.deny.long")


def test_what_is_just_short_enough_is_read_to_its_end() -> None:
    assert len(parse_line("ls" + " a" * (MOST_WORDS - 1))[0]) == MOST_WORDS
    with pytest.raises(LineRefused) as refused:
        parse_line("ls" + " a" * MOST_WORDS)
    assert refused.value.code == "long"
    text = "ا" * (MOST_CHARACTERS - 17)
    assert parse_line(f"git commit -m '{text}'")[0][3] == text


@settings(deadline=None)
@given(st.text(st.sampled_from("'\"\\$`a \u200b\n{("), max_size=40))
def test_what_is_read_is_what_a_shell_would_read(text: str) -> None:
    try:
        ((_, *words),) = parse_line(f"x {text}")
    except LineRefused:
        return
    said = subprocess.run(
        ["/bin/sh", "-c", f'for word in {text}; do printf "%s\\0" "$word"; done'], capture_output=True, check=True
    )
    assert said.stdout.decode() == "".join(f"{word}\0" for word in words)
