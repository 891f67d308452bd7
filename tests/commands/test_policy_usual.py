"""What a developer types on an ordinary day gets an answer that makes sense: it runs, or it asks with a reason that fits (POL-14)."""

from __future__ import annotations

import pytest
from support.policies import default_policy

from appliance.commands.lines import judge_line
from appliance.commands.model import Actor, Judgement, Verdict

ALLOWED = r"""
echo "hello world"
echo "اختبار جديد" | wc -c
basename src/a.py
dirname src/a.py | sort
seq 1 10
hostname -I
php -v
ruby -v
git branch --merged main
git branch --no-merged
jq '.[] | .name' data.json
base64 -w 0 a.txt
grep -E '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}' app.log
grep -E '([0-9]{1,3}\.){3}[0-9]{1,3}' access.log
"""
ASKED = {
    "ls || true": "policy.ask.shell_line",
    "ls |& cat": "policy.ask.shell_line",
    "git stash": "policy.why.changes_repository",
    "git tag v1.0.0": "policy.why.changes_repository",
    "git tag -d v1.0.0": "policy.why.changes_repository",
    "git branch topic main": "policy.why.changes_repository",
    "git st": "policy.miss.word",
    "git help commit": "policy.miss.word",
    "git": "policy.miss.short",
    "npm": "policy.miss.short",
    "jq '.items | length' data.json": "policy.miss.grammar",
    "cd src": "policy.ask.of_a_shell",
    "export A=b": "policy.ask.of_a_shell",
    "sudo apt install jq": "policy.ask.runs_others",
    "time npm test": "policy.ask.runs_others",
    "sleep 5": "policy.ask.unknown",
}


def judged(line: str) -> Judgement:
    return judge_line(default_policy(), line, Actor.HUMAN, "operator").judgement


@pytest.mark.parametrize("line", ALLOWED.strip().split("\n"))
def test_what_only_looks_runs_at_once(line: str) -> None:
    assert judged(line).verdict is Verdict.ALLOW, judged(line).reason


@pytest.mark.parametrize("line", ASKED)
def test_the_reason_fits_what_was_typed(line: str) -> None:
    found = judged(line)
    assert (found.verdict, found.reason.key) == (Verdict.ASK, ASKED[line])


@pytest.mark.parametrize(
    "line",
    ["echo /etc/passwd", "echo -e x", "echo ../x", "seq -f %s 1", "base64 -d /etc/x", "basename -s x a", "hostname x"],
)
def test_nothing_more_than_that(line: str) -> None:
    assert judged(line).verdict is Verdict.ASK
