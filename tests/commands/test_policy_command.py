"""`croft policy`, as people and scripts use it: no daemon, quick, exit codes 0, 10 and 20."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.policies import default_policy, lines_of

from webui.i18n import Catalogue, missing

ROOT = Path(__file__).parents[2]
CATALOGUE = Catalogue.load(ROOT / "webui/locale", names="policy.*.toml", strict=True)


def croft(home: Path, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance", "policy", *words, "--home", str(home)]
        if "--" not in words
        else [sys.executable, "-m", "appliance", "policy", words[0], "--home", str(home), *words[1:]],
        input=stdin, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "verdict"),
    [
        (("--", "git", "log", "--oneline"), 0, "allow"),
        (("--", "git log --oneline | head -5"), 0, "allow"),
        (("--", "git", "log", "--", "README.md"), 0, "allow"),
        (("--cwd", "src", "--", "cat", "../README.md"), 0, "allow"),
        (("--", "npm", "test"), 10, "ask"),
        (("--actor", "ai", "--", "bash", "-c", "id"), 20, "deny"),
        (("--role", "viewer", "--", "bash", "-c", "id"), 20, "deny"),
        (("--", "cat", "a", "|", "rm", "-rf", "/"), 20, "deny"),
    ],
)
def test_explain_answers_with_its_exit_code(tmp_path: Path, words: tuple[str, ...], code: int, verdict: str) -> None:
    done = croft(tmp_path, "explain", "--json", *words)
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["verdict"] == verdict


def test_explain_says_which_rule_and_word(tmp_path: Path) -> None:
    done = croft(tmp_path, "explain", "--", "sort", "--co=./x", "a")
    assert done.returncode == 10
    assert done.stdout == (
        "ask  (rule: unmatched)\nRule sort does not list the flag “--co=./x” (word 2). Flags are spelled out exactly.\n"
    )


def test_ten_thousand_lines_at_once(tmp_path: Path) -> None:
    """One JSON object a line, in order, in one process."""
    lines = (lines_of("ordinary.txt") * 12)[:10_000]
    done = croft(tmp_path, "explain", "--stdin", "--json", stdin="\n".join(lines) + "\n")
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [row["line"] for row in rows] == lines
    assert {row["verdict"] for row in rows} <= {"allow", "ask"}


def test_lines_that_are_no_text_are_answered_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "policy", "explain", "--stdin", "--json", "--home", str(tmp_path)],
        input=b"ls \xff\n\nls\r\n", capture_output=True, timeout=60, check=True, cwd=ROOT,
    )  # fmt: skip
    assert [json.loads(row)["verdict"] for row in done.stdout.splitlines()] == ["deny", "deny", "allow"]


def test_check_names_the_line(tmp_path: Path) -> None:
    assert croft(tmp_path, "check").returncode == 0
    bad = tmp_path / "bad.toml"
    bad.write_text("version = 1\n[defaults]\nsurprise = 1\n")
    done = croft(tmp_path, "check", str(bad))
    assert (done.returncode, done.stdout) == (1, "Line 3: there is no key “surprise” here.\n")
    assert croft(tmp_path, "check", str(tmp_path / "none.toml")).returncode == 1


def test_every_text_of_the_policy_exists_in_both_languages() -> None:
    """Keys that are put together from codes, and those written out."""
    assert missing(CATALOGUE) == []
    sources = [path.read_text("utf-8") for path in (ROOT / "appliance/commands").glob("*.py")]
    whole = {key for source in sources for key in re.findall(r'"(policy\.[a-z_.]+[a-z])"', source)}
    codes = set(re.findall(r'_Fail\([^)]*"([a-z_]+)"', "".join(sources))) | {"sub", "need", "exact"}
    values = (ROOT / "appliance/commands/values.py").read_text("utf-8")
    codes |= set(re.findall(r'return "([a-z_]+)"', values)) | set(re.findall(r'else "([a-z_]+)"', values))
    faults = set(re.findall(r'PolicyFault\((?:self\.line_of\([^)]*\)|[^,]*),\s*"([a-z_]+)"', "".join(sources)))
    whys = {rule.why.replace("-", "_") for rule in default_policy().rules if rule.why}
    refusals = set(re.findall(r'LineRefused\(\s*"([a-z]+)"', "".join(sources)))
    keys = (
        whole - {"policy.toml"}
        | {f"policy.miss.{code}" for code in codes}
        | {f"policy.fault.{code}" for code in faults}
    )
    keys |= {f"policy.why.{why}" for why in whys} | {f"policy.line.{code}" for code in refusals}
    keys |= {f"policy.fault.{code}" for code in ("example_allow", "example_deny", "pipeline_first", "pipeline_then")}
    assert sorted(key for key in keys if not CATALOGUE.has(key)) == []


def test_the_packaged_file_needs_no_line_beyond_reason() -> None:
    """It is read and edited by people."""
    from appliance.commands.policy_text import packaged

    assert max(map(len, packaged().split("\n"))) <= 150
    assert len(tomllib.loads(packaged())["rule"]) == len(default_policy().rules)
