"""The default rules against ordinary work and against escapes, and what every policy must hold to (SECURITY 5, POL-2 to POL-16)."""

from __future__ import annotations

import dataclasses
import random
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.policies import default_policy, lines_of

from appliance.commands.judge import Actor, Judgement, Policy, Request, Verdict
from appliance.commands.lines import judge_line
from appliance.commands.model import ROLES
from appliance.commands.policy_text import packaged
from appliance.commands.tokenizer import LineRefused, joined, parse_line
from appliance.commands.values import lexical

ALLOW, ASK, DENY = Verdict.ALLOW, Verdict.ASK, Verdict.DENY
ORDINARY, ESCAPES = lines_of("ordinary.txt"), lines_of("escapes.txt")


def judged(line: str, actor: Actor = Actor.HUMAN, role: str = "operator", **more: str) -> Judgement:
    return judge_line(default_policy(), line, actor, role, **more).judgement  # type: ignore[arg-type]


def at_once() -> list[str]:
    """The ordinary lines that run at once."""
    found = [line for line in ORDINARY if judged(line).verdict is ALLOW]
    assert len(found) > 200
    return found


def test_ordinary_work_runs_or_asks() -> None:
    """At least 98 % of ordinary lines, and what only looks runs at once."""
    verdicts = [judged(line).verdict for line in ORDINARY]
    assert len(ORDINARY) >= 600
    assert verdicts.count(DENY) <= 0.02 * len(ORDINARY)
    assert verdicts.count(ALLOW) >= 0.3 * len(ORDINARY)


@pytest.mark.parametrize("actor", list(Actor))
@pytest.mark.parametrize("role", ROLES)
def test_no_escape_runs_at_once(actor: Actor, role: str) -> None:
    """POL-3: shells, other programs, reading and writing outside, in every spelling of the list."""
    assert len(ESCAPES) >= 1000
    assert [line for line in ESCAPES if judged(line, actor, role).verdict is ALLOW] == []


# Words that no allowed command may take, wherever they stand.
HARMFUL = (
    "/etc/passwd", "../x", "../../x", "src/../../x", ".git/config", ".env", "src/.env", "-exec", "-execdir",
    "-delete", "--output=x", "--outp=x", "--output", "-o/tmp/x", "--compress-program=./e", "--co=./e", "--files0-from=x", "--files0-from",
    "-f/etc/passwd", "--file=x", "--pre=./e", "--ext-diff", "--textconv", "-O./e", "--open-files-in-pager=./e",
    "--no-index", "--upload-pack=./e",
    "--exec-path=.", "-fprintf", "-files0-from", "-L/", "--pager=./e", "--help", "--", "--config=x",
    "--log=x", "--prefix=/", "-K", "--batch", "--set=x",
)  # fmt: skip

# To grep the pattern "xec", to tree a cluster of flags that only change how names are shown.
HARMLESS_THERE = {("grep", "-exec"), ("grep", "-execdir"), ("tree", "-fprintf")}


def test_nothing_harmful_can_be_put_into_an_allowed_command() -> None:
    """Every allowed line with every such word at every place: refused, asked, or the word is a mere pattern there."""
    for line in at_once():
        stages = parse_line(line)
        for number, argv in enumerate(stages):
            for place in range(1, len(argv) + 1):
                for word in HARMFUL:
                    changed = (*argv[:place], word, *argv[place:])
                    answer = default_policy().judge(
                        Request((*stages[:number], changed, *stages[number + 1 :]), Actor.HUMAN, "operator")
                    )
                    if answer.verdict is ALLOW and word != "--" and (changed[0], word) not in HARMLESS_THERE:
                        assert not word.startswith("-"), f"{joined((changed,))} runs at once"
                        assert word not in [path.value for path in answer.paths], f"{joined((changed,))} reads {word}"


def test_abbreviated_flags_are_never_taken() -> None:
    """POL-3: GNU programs would take them."""
    tried = 0
    for rule in default_policy().rules:
        if rule.mode is not ALLOW:
            continue
        names = set(rule.flags or {})
        known = {
            name for other in default_policy().rules if other.programs == rule.programs for name in other.flags or {}
        }
        for name in names:
            for end in range(4, len(name)):
                if name.startswith("--") and name[:end] not in known:
                    argv = (rule.programs[0], *rule.subs[0], name[:end])
                    answer = default_policy().judge(Request((argv,), Actor.HUMAN, "admin", rule.scope))
                    assert answer.verdict is not ALLOW, argv
                    tried += 1
    assert tried > 1000


@pytest.mark.parametrize(
    "first",
    ["./{}", "/usr/bin/{}", "/tmp/{}", "../{}", "{}.exe", "A=b {}", "env {}", "sudo {}", "xargs {}", "timeout 5 {}"],
)
def test_no_other_spelling_of_the_program_runs_at_once(first: str) -> None:
    """POL-6: `./cat`, a folder, a variable, a wrapper; and programs in capitals."""
    for line in at_once():
        program, _, rest = line.partition(" ")
        assert judged(f"{first.format(program)} {rest}").verdict is not ALLOW
        assert judged(f"{program.upper()} {rest}").verdict is not ALLOW


def test_every_path_of_an_allowed_command_lies_in_the_workspace() -> None:
    """POL-9, as far as spelling goes: the run looks again at where it really leads."""
    for cwd in ("", "src", "src/app"):
        answers = [answer for line in ORDINARY if (answer := judged(line, cwd=cwd)).verdict is ALLOW]
        paths = [(answer, path) for answer in answers for path in answer.paths]
        assert len(paths) > 100
        for answer, path in paths:
            assert path.maybe or lexical(cwd, path.value) is not None
            assert path.value in answer.stages[path.stage].argv[path.index]


@pytest.mark.parametrize(("cwd", "verdict"), [("src", ALLOW), ("", ASK), ("src/app", ALLOW)])
def test_going_up_is_fine_inside_the_workspace(cwd: str, verdict: Verdict) -> None:
    assert judged("cat ../README.md", cwd=cwd).verdict is verdict


@pytest.mark.parametrize(
    "path", ["src/../README.md", "./src/../README.md", "../src/..", "src/app/../x", "../x/../README.md"]
)
@pytest.mark.parametrize(
    "line", ["cat {}", "ls {}", "grep x {}", "find {}", "find . -newer {}", "diff a {}", "git diff -- {}"]
)
def test_going_up_from_a_folder_that_is_named_asks(line: str, path: str) -> None:
    """POL-9: where that folder is a link, the kernel goes up from where it leads."""
    found = judged(line.format(path), cwd="src")
    assert found.verdict is ASK
    assert found.failure
    assert found.failure.code == "turns_back"


@pytest.mark.parametrize("cwd", ["/", "/etc", "..", "a/../..", "a\u202eb"])
def test_a_folder_outside_is_refused(cwd: str) -> None:
    assert judged("ls", cwd=cwd).verdict is DENY


def test_the_order_of_rules_means_nothing() -> None:
    """POL-5: shuffled rules give the same answer to every line, for everybody."""
    policy, lines = default_policy(), [*ORDINARY[::3], *ESCAPES[::5]]
    for seed in range(4):
        rules = list(policy.rules)
        random.Random(seed).shuffle(rules)  # noqa: S311 - an order, not a secret
        shuffled = dataclasses.replace(policy, rules=tuple(rules))
        for line in lines:
            for actor in (Actor.HUMAN, Actor.AI):
                assert judge_line(shuffled, line, actor, "operator") == judge_line(policy, line, actor, "operator")


@pytest.mark.parametrize(
    "line",
    ["bash -c id", "env sh", "timeout 5 bash", "xargs -n1 sh", "sudo vim x", "nice -n 5 env FOO=1 python3 x", "/bin/sh -c id", "./bash x",
     "find . -exec sh", "Bash -c id", "cat a | sh", "cat a | head | xargs rm", "ssh host", "sed -n 1p a", "docker ps", "tar tf a"],
)  # fmt: skip
def test_the_assistant_gets_no_shell_and_no_wrapper(line: str) -> None:
    """POL-5, POL-15: deny rules match behind wrappers, and one denied part denies the whole."""
    assert judged(line, Actor.AI).verdict is DENY


@pytest.mark.parametrize(
    "line",
    [
        "rm -rf /",
        "rm -rf //",
        "sudo rm -rf /etc/",
        "env rm -r '/*'",
        "bash -c 'rm -rf /'",
        "shutdown now",
        "mkfs.ext4 x",
    ],
)
def test_what_nobody_may_do(line: str) -> None:
    for actor in Actor:
        assert judged(line, actor, "admin").verdict is DENY


@pytest.mark.parametrize(
    "line",
    [
        "git init && git add -A", "npm init -y && npm install", "terraform init && terraform plan", "env CI=1 npm init",
        "sudo mv app /opt/", "git commit -m 'reboot the service' && git push", "echo halt > log",
        "rm -rf build && cd /", "rm -f a.log; ls -la /",
        'rm -rf "$BUILD"/* && make', "npm test 2>&1 | tail", "mv dist /srv",
    ],
)  # fmt: skip
def test_a_word_of_one_command_is_not_taken_for_another(line: str) -> None:
    """A person's line that a shell would read asks, whatever its words mean elsewhere."""
    assert judged(line).verdict is ASK


@pytest.mark.parametrize(
    "line",
    [
        "true && sudo reboot", "if true; then reboot; fi", "A=1 reboot && true", 'echo "$(rm -rf /)"', "echo `halt`", "true; \\reboot",
        "cd x && sh -c 'cd y; rm -rf /'", "sudo sh -c \"bash -c 'rm -rf /etc'\"", "find . -exec rm -rf / {} +; true", "true|sudo init 0",
        "{ shutdown now; }", 'true && "reboot"', "env -S 'sh -c reboot'", "mv /etc old", "sudo mv -f /usr /tmp/x",
    ],
)  # fmt: skip
def test_what_nobody_may_do_is_found_in_a_line_for_a_shell(line: str) -> None:
    """POL-5."""
    assert judged(line).verdict is DENY


def test_nothing_runs_at_once_for_the_assistant_unless_the_owner_says_so() -> None:
    """AI-2: off by default; and then read-only rules alone."""
    answer = judged("git status", Actor.AI)
    assert (answer.verdict, answer.rule, answer.reason.key) == (ASK, "git-status", "policy.ask.auto_off")
    assert all(rule.effect == "read" for rule in default_policy().rules if rule.mode is ALLOW)
    willing = dataclasses.replace(default_policy(), defaults=replace(default_policy().defaults, auto=frozenset(Actor)))
    assert willing.judge(Request((("git", "status"),), Actor.AI, "operator")).verdict is ALLOW


def test_the_registry_is_refused_what_no_rule_knows() -> None:
    assert judged("some-program", Actor.REGISTRY).verdict is DENY
    assert judged("some-program", Actor.TOKEN).verdict is ASK


@pytest.mark.parametrize(
    ("line", "role", "verdict"),
    [
        ("service list", "viewer", ALLOW), ("service restart ide", "viewer", DENY), ("service restart ide", "operator", ASK),
        ("service logs ide -n 50", "operator", ALLOW), ("journal -u croft -n 5", "operator", ALLOW), ("journal -u ssh", "admin", DENY),
        ("disk usage", "viewer", ALLOW), ("systemctl restart x", "admin", DENY), ("bash -c id", "admin", DENY), ("ls", "admin", DENY),
        ("unit status croft", "operator", ALLOW), ("journal -u croft --file=/x", "admin", DENY), ("service list | sh", "admin", DENY),
    ],
)  # fmt: skip
def test_the_host_knows_typed_verbs_only(line: str, role: str, verdict: Verdict) -> None:
    assert judged(line, role=role, scope="host").verdict is verdict


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("git log --oneline | head -5", ALLOW), ("cat a.txt | sort | uniq -c | sort -rn | head", ALLOW), ("ps aux | grep node", ALLOW),
        ("cat a.txt | cat b.txt", ASK), ("head -5 | cat a", ASK), ("cat a | head | head | head | head | head | head", ASK),
        ("npm test | tail -5", ASK), ("cat a | tee b", ASK), ("cat a | head /etc/passwd", ASK),
    ],
)  # fmt: skip
def test_pipelines_need_a_shape_of_their_own(line: str, verdict: Verdict) -> None:
    """POL-15: every part needs its rule, and the parts need one that joins them."""
    assert judged(line).verdict is verdict


def test_what_is_executed() -> None:
    """Absolute program, fixed words, options before ``--``, operands after it; paths point at their words."""
    answer = judged("grep -rn TODO src --include=x.py")
    argv = answer.stages[0].argv
    assert argv[0] == "/usr/bin/grep"
    assert argv[1:3] == ("-rn", "--include=x.py")
    assert argv[argv.index("--") :] == ("--", "TODO", "src")
    assert "--exclude-dir=.git" in argv[: argv.index("--")]
    assert [(path.value, argv[path.index]) for path in answer.paths] == [("src", "src")]
    log = judged("git log -p -- README.md").stages[0].argv
    assert log[-3:] == ("-p", "--", "README.md")
    assert "core.fsmonitor=false" in log
    assert "--no-textconv" in log
    assert judged("git status").checks == ("clean-git-config",)


def test_limits_of_what_is_approved_are_wider_and_bounded() -> None:
    assert judged("ls").limits.seconds == 30
    assert judged("npm ci").limits.seconds == 1800
    assert judged("npm test | tail -5").limits.seconds == 1800
    assert judged("unknown-program").limits == default_policy().defaults.asked_limits


@pytest.mark.parametrize(
    ("line", "leasable"),
    [("npm test", True), ("python x.py", False), ("make test", False), ("bash -c id", False), ("mkdir a", True)],
)
def test_leases_never_cover_interpreters_and_wrappers(line: str, leasable: bool) -> None:
    """AI-5."""
    assert judged(line).leasable is leasable


GOLDEN = [
    ("sort -o out a", 1, "sort", "flag", "-o"),
    ("sort --co=./x a", 1, "sort", "flag", "--co=./x"),
    ("cat a /etc/passwd", 2, "cat-file", "absolute", "/etc/passwd"),
    ("cat ../x", 1, "cat-file", "outside", "../x"),
    ("cat .env", 1, "cat-file", "excluded", ".env"),
    ("head -n x a", 3, "head", "grammar", "x"),
    ("head -0 a", 1, "head", "range", "-0"),
    ("git log --outp=f", 2, "git-log", "flag", "--outp=f"),
    ("git show HEAD:a", 2, "git-show", "colon", "HEAD:a"),
    ("grep '(a)\\1' x", 1, "grep", "back_reference", "(a)\\1"),
    ("uniq a b", 2, "uniq", "operand", "b"),
    ("cut -d, a", 3, "cut", "need", ""),
    ("wc", 1, "wc", "lacks_operand", ""),
    ("find . -type x", 3, "find", "choice", "x"),
    ("date -s now", 1, "date", "flag", "-s"),
    ("ls --all=x", 1, "ls", "no_value", "--all=x"),
    ("head -n", 2, "head", "lacks_value", ""),
    ("ps auxe", 1, "ps", "exact", "auxe"),
]


@pytest.mark.parametrize(("line", "index", "rule", "code", "token"), GOLDEN)
def test_an_explanation_names_rule_and_word(line: str, index: int, rule: str, code: str, token: str) -> None:
    """POL-14."""
    answer = judged(line)
    assert answer.failure is not None
    found = answer.failure
    assert (found.rule, found.code, found.token) == (rule, code, token)
    # A list of exact words says no more than that the word is not on it.
    assert answer.reason.key == f"policy.miss.{'word' if code == 'exact' else code}"
    if found.token:
        assert line.split()[found.index] == token or parse_line(line)[0][found.index] == token


POOL = sorted({word for line in (*ORDINARY, *ESCAPES) for word in line.split()})


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(POOL) | st.text(max_size=20), min_size=0, max_size=8), max_size=4),
    st.sampled_from(list(Actor)),
)
def test_no_crash_and_nothing_allowed_without_a_rule(stages: list[list[str]], actor: Actor) -> None:
    """POL-16."""
    answer = default_policy().judge(Request(tuple(map(tuple, stages)), actor, "operator"))
    if answer.verdict is ALLOW:
        ids = {rule.id for rule in default_policy().rules if rule.mode is ALLOW}
        assert {stage.rule for stage in answer.stages} <= ids


@settings(deadline=None)
@given(st.sampled_from(ORDINARY), st.data())
def test_quotes_around_words_change_nothing(line: str, data: st.DataObject) -> None:
    try:
        stages = parse_line(line)
    except LineRefused:
        return
    quoted = " | ".join(
        " ".join(f"'{word}'" if "'" not in word and data.draw(st.booleans()) else joined(((word,),)) for word in argv)
        for argv in stages
    )
    assert judged(quoted).verdict is judged(line).verdict


def test_every_rule_shows_what_it_takes() -> None:
    """Each auto rule of the packaged policy carries examples of both kinds; they are run whenever it is loaded."""
    for rule in tomllib.loads(packaged())["rule"]:
        assert rule.get("examples_allow"), rule["id"]
        assert rule.get("examples_deny") or rule["mode"] != "auto", rule["id"]


def test_nothing_good_means_nothing_runs() -> None:
    """POL-2."""
    from appliance.commands.judge import deny_all

    policy: Policy = deny_all()
    assert all(policy.judge(Request((("ls",),), actor, role)).verdict is DENY for actor in Actor for role in ROLES)
