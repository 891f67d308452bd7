"""policy.toml: what can be used, and what is refused with its line (POL-2, SECURITY 5.3)."""

from __future__ import annotations

import pytest
from support.policies import default_policy

from appliance.commands.judge import Actor, Request, Verdict
from appliance.commands.language import load
from appliance.commands.policy_source import PolicyFault
from appliance.commands.words import in_words

HEAD = 'version = 1\n[defaults]\nhuman = "ask"\nai = "ask"\n'
RULE = '[[rule]]\nid = "ls"\nbin = "ls"\nexec = "/usr/bin/ls"\nflags = ["-l"]\nargs = ["path*"]\nmode = "auto"\n'
GOOD = HEAD + RULE  # the rule begins at line 5


def with_rule(*lines: str) -> str:
    return HEAD + "[[rule]]\n" + "\n".join(lines) + "\n"


AUTO = ('id = "a"', 'bin = "ls"', 'exec = "/usr/bin/ls"', 'mode = "auto"')

BROKEN = [
    ("", 0, "version"),
    ("version = 2\n[defaults]\n", 1, "version"),
    ("version = true\n[defaults]\n", 1, "version"),
    ("version = 1\n", 0, "table"),
    (GOOD.replace('mode = "auto"', "mode = auto"), 11, "toml"),
    (GOOD + '[[rule]]\nid = "ls\n', 13, "toml"),
    (GOOD + "x = [\n", 13, "toml"),
    (GOOD + "surprise = 1\n", 12, "key"),
    ("top = 1\n" + GOOD, 1, "key"),
    (HEAD.replace("[defaults]", "[defaults]\nsurprise = 1") + RULE, 3, "key"),
    (HEAD + "bot = 1\n" + RULE, 5, "key"),
    (GOOD + RULE, 12, "duplicate"),
    (HEAD.replace('"ask"', '"allow"', 1) + RULE, 3, "default"),
    (HEAD + 'host = "ask"\n' + RULE, 5, "host_default"),
    (HEAD + 'env = { LD_PRELOAD = "/x.so" }\n' + RULE, 5, "env"),
    (HEAD + 'env = { GIT_PAGER = "less" }\n' + RULE, 5, "env"),
    (HEAD + 'env = { PATH = "/tmp" }\n' + RULE, 5, "env"),
    (HEAD + "limits = { seconds = 0 }\n" + RULE, 5, "number"),
    (HEAD + 'limits = { seconds = "1" }\n' + RULE, 5, "number"),
    (HEAD + "limits = { hours = 1 }\n" + RULE, 5, "key"),
    (HEAD + "rate = 5\n" + RULE, 5, "table"),
    (HEAD + 'auto = ["robot"]\n' + RULE, 5, "choice"),
    (HEAD + 'rule = "x"\n', 5, "key"),
    (with_rule('id = "a"', 'bin = "ls"', 'mode = "maybe"'), 8, "choice"),
    (with_rule('id = "A b"', 'bin = "ls"', 'mode = "ask"'), 6, "id"),
    (with_rule('bin = "ls"', 'mode = "ask"'), 5, "id"),
    (with_rule('id = "a"', 'bin = "/bin/ls"', 'mode = "ask"'), 7, "bin"),
    (with_rule('id = "a"', "bin = []", 'mode = "ask"'), 7, "bin"),
    (with_rule('id = "a"', 'bin = "ls"', 'mode = "auto"'), 5, "no_exec"),
    (with_rule('id = "a"', 'bin = "ls"', 'exec = "./ls"', 'mode = "auto"'), 8, "exec"),
    (with_rule(*AUTO, 'flags = ["l"]'), 10, "flag"),
    (with_rule(*AUTO, 'flags = ["-l", "-l"]'), 10, "twice"),
    (with_rule(*AUTO, 'flags = ["-n string"]'), 10, "type"),
    (with_rule(*AUTO, 'args = ["int(9..1)"]'), 10, "type"),
    (with_rule(*AUTO, 'args = ["enum()"]'), 10, "type"),
    (with_rule(*AUTO, 'args = "path"'), 10, "words"),
    (with_rule(*AUTO, "anything = true"), 10, "auto_anything"),
    (with_rule(*AUTO, 'args = ["text"]'), 10, "auto_text"),
    (with_rule(*AUTO, 'flags = ["-m text"]'), 10, "auto_text"),
    (with_rule(*AUTO, 'effect = "write"'), 10, "auto_effect"),
    (with_rule(*AUTO, 'exact = [""]', 'args = ["path"]'), 5, "two_shapes"),
    (with_rule(*AUTO, 'need = ["-x"]'), 10, "need"),
    (with_rule(*AUTO, 'requires = "luck"'), 10, "choice"),
    (with_rule(*AUTO, 'roles = ["owner"]'), 10, "choice"),
    (with_rule(*AUTO, 'args = ["path*"]', 'examples_allow = ["ls /etc"]'), 5, "example_allow"),
    (with_rule(*AUTO, 'args = ["path*"]', 'examples_deny = ["ls src"]'), 5, "example_deny"),
    (with_rule('id = "a"', 'bin = "python3"', 'exec = "/usr/bin/python3"', 'args = ["path"]', 'mode = "auto"'), 5, "interpreter"),
    (with_rule('id = "a"', 'bin = "python3.12"', 'exec = "/usr/bin/x"', 'args = ["path"]', 'mode = "auto"'), 5, "interpreter"),
    (with_rule('id = "a"', 'bin = "env"', 'exec = "/usr/bin/env"', 'exact = [""]', 'mode = "auto"'), 5, "interpreter"),
    (with_rule('id = "a"', 'bin = "tool"', 'exec = "/bin/sh"', 'args = ["path"]', 'mode = "auto"'), 5, "interpreter"),
    (with_rule('id = "a"', 'bin = "perl"', 'exec = "/usr/bin/perl"', 'exact = ["-e x"]', 'mode = "auto"'), 5, "interpreter"),
    (with_rule('id = "a"', 'scope = "host"', 'bin = "reboot"', 'exact = [""]', 'mode = "ask"'), 5, "host_verb"),
    (GOOD + RULE.replace('"ls"', '"ls2"', 1) + "limits = { seconds = 5 }\n", 12, "disagree"),
    (GOOD + '[[pipeline]]\nid = "p"\nfirst = ["ls"]\nthen = ["nothing"]\n', 15, "no_rule"),
    (GOOD + '[[pipeline]]\nid = "p"\nfirst = ["ls"]\nthen = ["ls"]\n', 15, "pipeline_then"),
    (GOOD + '[paths]\nexclude = ["a/*/b"]\n', 13, "type"),
    (GOOD + "x = " + "[" * 5000 + "]" * 5000, 0, "toml"),
    (GOOD + "#" + "x" * 600_000, 0, "size"),
    (GOOD.replace("-l", "-\u202el"), 9, "string"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "code"), BROKEN, ids=[f"{number}-{row[2]}" for number, row in enumerate(BROKEN)]
)
def test_a_broken_policy_is_refused_with_its_line(text: str, line: int, code: str) -> None:
    """POL-2: more than thirty ways to be wrong."""
    with pytest.raises(PolicyFault) as fault:
        load(text)
    assert fault.value.message.key == f"policy.fault.{code}"
    assert fault.value.line == line


def test_a_small_policy() -> None:
    policy = load(GOOD)
    assert policy.judge(Request((("ls", "-l", "src"),), Actor.HUMAN, "viewer")).verdict is Verdict.ALLOW
    assert policy.judge(Request((("ls", "-a"),), Actor.HUMAN, "viewer")).verdict is Verdict.ASK
    assert policy.judge(Request((("rm", "x"),), Actor.HUMAN, "viewer")).verdict is Verdict.ASK
    assert policy.judge(Request((("service", "list"),), Actor.HUMAN, "admin", "host")).verdict is Verdict.DENY


def test_versions_of_interpreters_may_be_asked_at_once() -> None:
    text = with_rule(
        'id = "a"', 'bin = "python3"', 'exec = "/usr/bin/python3"', 'exact = ["--version", "-V"]', 'mode = "auto"'
    )
    assert load(text).judge(Request((("python3", "-V"),), Actor.HUMAN, "viewer")).verdict is Verdict.ALLOW


def test_a_rule_says_what_it_takes_in_words() -> None:
    words = {one.id: one for one in in_words(default_policy())}
    assert words["git-remote-url"].usage == ("git remote get-url <word>",)
    assert [message.key for message in words["head-stdin"].sentences][:2] == [
        "policy.rule.auto",
        "policy.rule.behind_pipe",
    ]
    assert words["no-machine"].sentences[0].key == "policy.rule.deny"
