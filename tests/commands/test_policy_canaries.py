"""Every line that runs at once is really run in a workspace full of traps: nothing else may start, nothing may be written, and
nothing outside or secret may be read (SECURITY 5.4, POL-1, POL-3, POL-9)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.policies import CORPUS, default_policy, lines_of

from appliance.commands.lines import judge_line
from appliance.commands.model import Actor, Judgement, Verdict

NOBODY = 65534
OUTSIDE, SECRET = "mark-outside-5f1c", "mark-secret-77ab"
ENV = {"LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin", "PAGER": "cat", "GIT_PAGER": "cat", "TERM": "dumb"}


@dataclass(frozen=True)
class Traps:
    """The folders of one trial."""

    workspace: Path
    outside: Path
    home: Path
    canary: Path

    def run(self, judgement: Judgement) -> bytes:
        """Start the stages as the broker would: argv as judged, a clean environment, nothing on standard input."""
        stdin: int | None = subprocess.DEVNULL
        switch = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        processes = []
        for stage in judgement.stages:
            process = subprocess.Popen(
                stage.argv, cwd=self.workspace, env={**ENV, "HOME": str(self.home)}, stdin=stdin,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, **switch,  # type: ignore[call-overload]
            )  # fmt: skip
            if isinstance(stdin, int) is False and stdin is not None:
                stdin.close()
            processes.append(process)
            stdin = process.stdout
        out, err = processes[-1].communicate(timeout=60)
        for process in processes[:-1]:
            process.stdout.close()
            err += process.stderr.read()
            process.stderr.close()
            process.wait(timeout=60)
        return out + err

    def state(self) -> dict[str, str]:
        """Everything that may not change: names and contents of the workspace, the home and what lies outside."""
        found = {}
        for root in (self.workspace, self.outside, self.home, self.canary):
            for path in sorted(root.rglob("*")):
                if path.is_symlink():
                    found[str(path)] = f"link {path.readlink()}"
                elif path.is_file():
                    found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
                else:
                    found[str(path)] = "folder"
        return found

    def stays_inside(self, judgement: Judgement) -> bool:
        """What the run's own check does: typed paths that exist lead nowhere else."""
        return all(
            (self.workspace / path.value).resolve().is_relative_to(self.workspace.resolve()) for path in judgement.paths
        )


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traps]:
    base = tmp_path_factory.mktemp("traps")
    found = Traps(base / "workspace", base / "outside", base / "home", base / "canary")
    for folder in (found.workspace, found.outside, found.home, found.canary):
        folder.mkdir()
    evil = base / "evil"
    evil.write_text(f"#!/bin/sh\nenv > {found.canary}/$$\nexit 0\n")
    evil.chmod(0o755)
    _workspace(found, evil)
    if os.geteuid() == 0:
        for folder in (found.workspace, found.home, found.canary):
            subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(folder)], check=True)
        for parent in [base, *base.parents]:
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    yield found
    shutil.rmtree(base, ignore_errors=True)


def _workspace(traps: Traps, evil: Path) -> None:
    """Plain files that the lines name, then everything that makes a tool of this machine run or read something."""
    root = traps.workspace
    for name in ("src/app", "tests", "docs", "dist", "logs", "node_modules/react", "locale", "old-src"):
        (root / name).mkdir(parents=True)
    for line in lines_of("ordinary.txt"):
        for word in line.split():
            if (
                word.replace("/", "").replace(".", "").replace("-", "").isalnum()
                and "." in word[1:]
                and ".." not in word
            ):
                path = root / word.lstrip("/")
                if not path.exists() and not word.startswith("/") and path.parent.is_dir():
                    path.write_text("TODO main error 1\nfoo,bar,baz\n")
    scripts = dict.fromkeys(("preinstall", "list", "ls", "prelist"), str(evil))
    (root / "package.json").write_text(json.dumps({"name": "trap", "scripts": scripts, "packageManager": "yarn@9.9.9"}))
    (root / ".npmrc").write_text(
        f"script-shell={evil}\nnode-options=--require {root}/evil.js\nprefix={traps.outside}\ncache={traps.canary}/cache\n"
        f"logs-dir={traps.canary}/logs\neditor={evil}\ngit={evil}\nshell={evil}\nglobalconfig={traps.outside}/rc\n"
    )
    (root / "evil.js").write_text(f"require('fs').writeFileSync('{traps.canary}/node', 'x')\n")
    for name in ("sitecustomize.py", "usercustomize.py", "pip.py", "json.py", "re.py", "importlib.py"):
        (root / name).write_text(f"open('{traps.canary}/python', 'w').write('x')\n")
    (root / "pip.conf").write_text(f"[global]\nlog = {traps.canary}/pip.log\n")
    for name in ("git", "ls", "less", "cat", "sh", "npm", "pager", "gzip", "pr"):
        shutil.copy(evil, root / name)
    (traps.outside / "secret.txt").write_text(f"{OUTSIDE} TODO main error import foo\n")
    (root / "link").symlink_to(traps.outside)
    (root / "src/link").symlink_to(traps.outside)
    (root / "linkfile.txt").symlink_to(traps.outside / "secret.txt")
    (root / "src/linkfile.py").symlink_to(traps.outside / "secret.txt")
    for name in (".env", ".env.local", "src/.env", "server.key", "id_rsa", ".netrc", "src/credentials.json"):
        (root / name).write_text(f"{SECRET} TODO main error import foo\n")
    (root / "list").write_text(f"{traps.outside}/secret.txt\0")
    (root / ".ripgreprc").write_text(f"--pre={evil}\n")
    (root / ".ignore").write_text("")
    (root / "-exec").write_text("x\n")
    (root / "--output=x").write_text("x\n")
    _repository(traps, evil)


def _repository(traps: Traps, evil: Path) -> None:
    root = traps.workspace

    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", *words], cwd=root, check=True, capture_output=True,
            env={**ENV, "HOME": str(traps.home)},
        )  # fmt: skip

    git("init", "-q", "-b", "main")
    (root / ".gitignore").write_text(".env*\nlink\n*.key\nid_rsa\n")
    git("add", "-A", "--", "src/app.py", "README.md", "package.json", "docs", "tests", ".gitignore")
    git("commit", "-q", "-m", "first")
    git("branch", "feature/login")
    git("tag", "v1.2.0")
    with (root / "README.md").open("a") as file:
        file.write("second\n")
    git("commit", "-q", "-am", "second")
    git("stash", "list")
    (root / "src/app.py").write_text("changed TODO\n")
    hooks = root / ".git/hooks"
    for name in (
        "post-checkout",
        "pre-commit",
        "post-index-change",
        "fsmonitor-watchman",
        "reference-transaction",
        "pre-auto-gc",
    ):
        shutil.copy(evil, hooks / name)
    (root / ".gitattributes").write_text("* diff=evil filter=evil merge=evil textconv=evil\n")
    bare = root / "docs"
    for name in ("HEAD", "config"):
        (bare / name).write_text(
            f"[core]\nfsmonitor = {evil}\nbare = true\n" if name == "config" else "ref: refs/heads/main\n"
        )
    for name in ("objects", "refs"):
        (bare / name).mkdir()


HOSTILE_CONFIG = """
[core]
    repositoryformatversion = 1
    fsmonitor = {evil}
    hooksPath = {hooks}
    pager = {evil}
    editor = {evil}
    sshCommand = {evil}
    gitProxy = {evil}
    askPass = {evil}
    alternateRefsCommand = {evil}
[pager]
    log = {evil}
    status = {evil}
    diff = {evil}
    branch = {evil}
[diff]
    external = {evil}
    submodule = diff
    orderFile = {outside}/secret.txt
[diff "evil"]
    command = {evil}
    textconv = {evil}
[merge "evil"]
    driver = {evil}
[gpg]
    program = {evil}
[log]
    showSignature = true
[interactive]
    diffFilter = {evil}
[credential]
    helper = !{evil}
[alias]
    status = !{evil}
    log = !{evil}
    st = !{evil}
[extensions]
    partialClone = origin
[remote "origin"]
    url = {evil}
    promisor = true
    uploadpack = {evil}
    fetch = +refs/heads/*:refs/remotes/origin/*
[protocol "file"]
    allow = always
[protocol "ext"]
    allow = always
[browser]
    path = {evil}
[column]
    ui = always
"""


def allowed_lines() -> list[str]:
    """Every line of every list, and every rule's own example, that runs at once for a person."""
    policy = default_policy()
    lines = [line for path in sorted(CORPUS.glob("*.txt")) for line in lines_of(path.name)]
    lines += [
        line
        for rule in policy.rules
        if rule.scope == "workspace"
        for line in (*rule.examples_allow, *rule.examples_deny)
    ]
    found, slow = [], dict.fromkeys(("npm-ls", "pip-list", "pip-show"), 2)
    for line in dict.fromkeys(lines):
        judgement = judge_line(policy, line, Actor.HUMAN, "admin").judgement
        # Each of these takes a second; two lines of a rule show as much as ten.
        slow[judgement.rule] = slow.get(judgement.rule, 1 << 30) - 1
        if judgement.verdict is Verdict.ALLOW and slow[judgement.rule] >= 0:
            found.append(line)
    return found


def test_what_runs_at_once_only_reads(traps: Traps) -> None:
    """All allowed lines, in a repository with clean settings and traps everywhere else."""
    policy, before, ran = default_policy(), traps.state(), 0
    for line in allowed_lines():
        judgement = judge_line(policy, line, Actor.HUMAN, "admin").judgement
        if not Path(judgement.stages[0].argv[0]).exists() or not traps.stays_inside(judgement):
            continue
        try:
            said = traps.run(judgement).decode("utf-8", "replace")
        except FileNotFoundError:
            continue  # a later stage's program is not on this machine
        ran += 1
        assert OUTSIDE not in said, f"{line}: read outside the workspace"
        assert SECRET not in said, f"{line}: read a secret"
        assert not (found := sorted(traps.canary.rglob("*"))), f"{line}: {found}"
    assert traps.state() == before
    assert ran >= 200, "too few of the lines could be run here to mean anything"


def test_git_flags_hold_even_without_the_check(traps: Traps) -> None:
    """The fixed flags alone stop everything a repository's settings can start, except filters, which only the check sees."""
    config = traps.workspace / ".git/config"
    kept, evil = config.read_text(), traps.workspace.parent / "evil"
    hooks = traps.workspace / ".git/hooks"
    # One object is missing: a promisor remote would be asked for it, by a program that the settings name.
    blob = subprocess.run(
        ["git", "-c", "safe.directory=*", "rev-parse", "HEAD~1:README.md"],
        cwd=traps.workspace, capture_output=True, text=True, check=True, env={**ENV, "HOME": str(traps.home)},
    ).stdout.strip()  # fmt: skip
    gone = traps.workspace / ".git/objects" / blob[:2] / blob[2:]
    content = gone.read_bytes()
    gone.unlink()
    config.write_text(kept + HOSTILE_CONFIG.format(evil=evil, hooks=hooks, outside=traps.outside))
    policy, faults = default_policy(), []
    try:
        for words in (("status",), ("diff",), ("log", "-p"), ("ls-files", "-m"), ("diff", "HEAD~1", "HEAD")):
            assert _springs(traps, *words), f"this trap does not work: git {' '.join(words)}"
        for line in allowed_lines():
            judgement = judge_line(policy, line, Actor.HUMAN, "admin").judgement
            if judgement.stages[0].typed[0] != "git":
                continue
            said = traps.run(judgement).decode("utf-8", "replace")
            if OUTSIDE in said or any(traps.canary.iterdir()):
                faults.append(line)
                for path in traps.canary.iterdir():
                    path.unlink()
    finally:
        config.write_text(kept)
        gone.write_bytes(content)
    assert faults == []


def _springs(traps: Traps, *words: str) -> bool:
    """Whether plain git, without our flags, falls into the trap."""
    switch = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    subprocess.run(
        ["git", "--no-optional-locks", *words], cwd=traps.workspace, env={**ENV, "HOME": str(traps.home)}, stdin=subprocess.DEVNULL,
        capture_output=True, timeout=60, check=False, **switch,
    )  # fmt: skip
    sprung = any(traps.canary.iterdir())
    for path in traps.canary.iterdir():
        path.unlink()
    return sprung
