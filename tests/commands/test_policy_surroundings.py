"""What lies around an allowed command cannot turn it: settings in the home folder, the folder it runs in, secrets in its way, and
programs that read their flags in a way of their own (SECURITY 5.4, POL-3, POL-9)."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.policies import default_policy

from appliance.commands.language import load
from appliance.commands.lines import judge_line
from appliance.commands.model import Actor, Judgement, Verdict
from appliance.commands.policy_text import packaged

SECRET = "mark-secret-3c1d"
OWNER = "-c", "user.name=T", "-c", "user.email=t@example.org"


def judged(line: str, cwd: str = "") -> Judgement:
    return judge_line(default_policy(), line, Actor.HUMAN, "operator", cwd=cwd).judgement


@dataclass(frozen=True)
class Place:
    """A workspace and a home, both of the one who runs, and a folder where whatever starts leaves its mark."""

    workspace: Path
    home: Path
    marks: Path

    def run(self, line: str) -> str:
        """Start an allowed line's one stage as the broker would. Returns what it printed."""
        found = judged(line)
        assert found.verdict is Verdict.ALLOW, line
        done = subprocess.run(
            found.stages[0].argv, cwd=self.workspace, env={**found.env, "HOME": str(self.home)}, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        return (done.stdout + done.stderr).decode()

    def git(self, *words: str) -> None:
        subprocess.run(["git", *OWNER, *words], cwd=self.workspace, check=True, capture_output=True)

    def marked(self) -> list[str]:
        return sorted(path.name for path in self.marks.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path / "workspace", tmp_path / "home", tmp_path / "marks")
    for folder in (found.workspace, found.home, found.marks):
        folder.mkdir()
    return found


GIT = [
    "git status",
    "git diff",
    "git log",
    "git show",
    "git reflog",
    "git stash list",
    "git blame a",
    "git branch -vv",
    "git grep x",
]


def test_settings_in_the_home_folder_start_nothing_for_git(place: Place) -> None:
    """A filter for every file, a signature in every log, a trace: git reads none of it where nobody was asked."""
    evil = place.home / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {place.marks}/started\n")
    evil.chmod(0o755)
    place.git("init", "-q", "-b", "main")
    for text in ("one\n", "two\n"):
        (place.workspace / "a").write_text(text)
        place.git("add", "a")
        place.git("commit", "-q", "-m", text)
    (place.workspace / "a").write_text("three\n")
    os.utime(place.workspace / "a", (1, 1))
    settings = (
        f'[filter "x"]\nclean = {evil}\nsmudge = {evil}\n[diff "x"]\ntextconv = {evil}\ncommand = {evil}\n[gpg]\nprogram = {evil}\n'
        f"[format]\npretty = %G?\n[trace2]\nnormalTarget = {place.marks}/trace\n[core]\npager = {evil}\nfsmonitor = {evil}\n"
    )
    (place.home / ".config/git").mkdir(parents=True)
    (place.home / ".config/git/attributes").write_text("* filter=x diff=x\n")
    for name in (".gitconfig", ".config/git/config"):
        (place.home / name).write_text(settings)
    for line in GIT:
        place.run(line)
        assert place.marked() == [], line


def test_start_up_files_of_python_are_not_read_for_pip(place: Place) -> None:
    if not Path("/usr/bin/pip3").exists():
        pytest.fail("/usr/bin/pip3 is missing: install python3-pip")
    version = subprocess.run(
        ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, check=True
    ).stdout.decode()
    folder = place.home / f".local/lib/python{version.strip()}/site-packages"
    folder.mkdir(parents=True)
    (folder / "x.pth").write_text(f"import pathlib; pathlib.Path('{place.marks}/started').touch()\n")
    for line in ("pip list", "pip show pip", "pip --version"):
        place.run(line)
        assert place.marked() == [], line


@pytest.mark.parametrize(
    "line", ["tree -Io x victim", "tree -Po x victim", "tree -aIo x victim", "tree -Lo 2 victim", "tree -L2 src"]
)
def test_a_value_joined_to_a_flag_of_tree_would_be_read_as_more_flags(line: str) -> None:
    """tree(1) takes the value of -I, -P and -L from the next word and reads on: -Io writes a file."""
    assert judged(line).verdict is Verdict.ASK


def test_tree_takes_its_values_as_the_rule_reads_them(place: Place) -> None:
    (place.workspace / "victim").write_text("kept")
    for line in ("tree -L 2", "tree -I node_modules -P '*.py'", "tree -I x victim", "tree -aL 1 ."):
        if judged(line).verdict is Verdict.ALLOW:
            place.run(line)
    assert (place.workspace / "victim").read_text() == "kept"


SECRETS = (
    ".git", ".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".netrc", ".npmrc", ".env", ".env.local", "secrets", "secrets.d",
    "credentials", "credentials.json", "id_rsa", "a.pem", "b.key", "terraform.tfstate", ".bash_history",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_searching_and_comparing_folders_leaves_secrets_out(place: Place, kind: str) -> None:
    """POL-9: a name that no path may hold is not read on the way either, be it a file or a folder."""
    for side in ("one", "two"):
        for name in SECRETS:
            path = place.workspace / side / name
            if kind == "folder":
                path = path / "inner"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{SECRET} {side}\n")
        (place.workspace / side / "plain").write_text(f"{side}\n")
    for line in (
        "grep -r mark .", "grep -r -e mark", "grep -rn --include '*' mark one two", "rg mark", "rg -g '*' mark one", "diff -r one two",
        "diff -rN one two", "diff -ru one two",
    ):  # fmt: skip
        assert SECRET not in place.run(line), line
    assert "plain" in place.run("diff -r one two")


def test_names_that_the_owner_excludes_are_left_out_of_searches_too() -> None:
    policy = load(packaged().replace('".git", ".ssh",', '".git", ".ssh", "private*",', 1))
    for line in ("grep -r x .", "grep -r -e x .", "rg x", "rg --files", "diff -r a b"):
        argv = judge_line(policy, line, Actor.HUMAN, "operator").judgement.stages[0].argv
        assert any(word.endswith("private*") for word in argv), line
        assert sum(word.endswith(".ssh") for word in argv) >= 1, line


@pytest.mark.parametrize("cwd", [".git", "src/.git/refs", ".ssh", "secrets", "config/.aws", ".GIT"])
@pytest.mark.parametrize("line", ["cat config", "grep -r url .", "ls", "head a | wc -l", "git log"])
def test_nothing_runs_at_once_in_a_folder_of_secrets(cwd: str, line: str) -> None:
    """POL-9: what a path may not name, the folder of a run may not name either."""
    found = judged(line, cwd)
    assert found.verdict is Verdict.ASK
    assert found.reason.key == "policy.ask.folder"


@pytest.mark.parametrize("field", ["signature", "describe", "-signature", "ahead", "contents"])
def test_sorting_by_a_field_that_starts_a_program_asks(field: str) -> None:
    """In newer git, the fields signature and describe start gpg and git."""
    assert judged(f"git branch --sort={field}").verdict is Verdict.ASK
    assert judged(f"git tag -l --sort {field}").verdict is Verdict.ASK


def test_listing_node_packages_asks() -> None:
    """It follows links out of node_modules and shows what it finds there."""
    assert judged("npm ls").verdict is Verdict.ASK
    assert judged("npm list --depth=0").reason.key == "policy.why.follows_links"


@pytest.mark.parametrize(
    "line",
    [
        "find . -name x -exec rm -r y +", "find . -okdir sh y +", "git -c alias.x=y x", "git rebase -x make main",
        "git rebase --exec=make main",
        "git bisect run make", "git submodule foreach make", "git difftool --extcmd=x", "git grep -Omore x", "npm exec x", "npm x y",
        "split --filter=sh a", "sort --compress-program=x a", "bash -c 'make'", "cd a && make", "/usr/bin/env make",
        "npm test | xargs make",
        "python3.11 x.py", "BUSYBOX sh", "go run .", "rg --pre=x y",
    ],
)  # fmt: skip
def test_what_starts_other_programs_is_never_leased(line: str) -> None:
    """AI-5, whatever program hides it."""
    assert not judged(line).leasable


@pytest.mark.parametrize(
    "line", ["npm test", "npm run build", "git pull --rebase", "mkdir -p a/b", "find . -name x -delete", "eslint src"]
)
def test_what_does_its_own_work_may_be(line: str) -> None:
    assert judged(line).leasable
