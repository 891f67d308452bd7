"""clean-git-config: settings of a repository that could start a program or leave the workspace make a verdict ask (SECURITY 5.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.commands.checks import clean_git_config

ORDINARY = """
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
[remote "origin"]
\turl = https://example.org/team/app.git
\tfetch = +refs/heads/*:refs/remotes/origin/*
[remote "mirror"]
\turl = git@example.org:team/app.git
[branch "main"]
\tremote = origin
\tmerge = refs/heads/main
[branch "feature/تجربة"]
\tremote = origin
[user]
\tname = ليلى حسن
\temail = layla@example.org ; a comment
[pull]
\trebase = true
[branch]
\tsort = -committerdate
[tag]
\tsort = version:refname
"""


def test_an_ordinary_repository_is_clean() -> None:
    assert (
        clean_git_config({"config": ORDINARY, ".gitattributes": "* text=auto\n*.py diff=python\n*.png binary\n"}) == []
    )
    assert clean_git_config({}) == []
    assert clean_git_config({"config": ORDINARY.replace("\n", "\r\n")}) == []


@pytest.mark.parametrize(
    "setting",
    [
        '[filter "x"]\nclean = ./e', '[filter "x"]\nprocess = ./e', '[diff "x"]\ntextconv = ./e', '[diff "x"]\ncommand = ./e',
        "[diff]\nexternal = ./e", '[merge "x"]\ndriver = ./e', "[core]\nfsmonitor = ./e", "[core]\nhooksPath = ./h", "[core]\npager = ./e",
        "[core]\neditor = ./e", "[core]\nsshCommand = ./e", "[core]\ngitProxy = ./e", "[core]\nworktree = /", "[core]\nattributesFile = /x",
        "[core]\naskPass = ./e", "[core]\nalternateRefsCommand = ./e", "[core]\nbare = true", "[gpg]\nprogram = ./e",
        '[gpg "ssh"]\nprogram = ./e', "[include]\npath = /x", '[includeIf "gitdir:/"]\npath = x', "[credential]\nhelper = !e",
        "[alias]\nlog = !e", '[remote "o"]\nuploadpack = ./e', '[remote "o"]\nreceivepack = ./e', '[remote "o"]\npromisor = true',
        '[remote "o"]\nvcs = e', '[remote "o"]\nurl = ext::sh -c id', '[remote "o"]\nurl = -x', '[remote "o"]\nproxy = x',
        "[extensions]\npartialClone = o", "[extensions]\nworktreeConfig = true", "[pager]\nlog = ./e", "[sequence]\neditor = ./e",
        "[protocol]\nallow = always", '[url "ext::sh "]\ninsteadOf = x', '[submodule "x"]\nupdate = !e', "[diff]\nsubmodule = diff",
        "[format]\npretty = %G?", "[pretty]\nmine = %G?", "[log]\nshowSignature = true", "[diff]\norderFile = /x", "[mailmap]\nfile = /x",
        "[blame]\nignoreRevsFile = /x", "[interactive]\ndiffFilter = ./e", "[sendemail]\nsmtpserver = ./e", '[hook "x"]\ncommand = ./e',
        "[trailer]\nx = y", '[trailer "x"]\ncommand = ./e', "[http]\nproxy = x", "[uploadpack]\npackObjectsHook = ./e",
        "[CORE]\nFSMONITOR = ./e", "[core] fsmonitor = ./e", "[core]\n\tfsmonitor=./e", '[core "x"]\nfsmonitor = ./e', "[core]\nfsmonitor",
        "[core]\nrepositoryformatversion = 0 \\\n9", "[core.x]\nfsmonitor = ./e", "[something]\nnew = x", "fsmonitor = ./e", "[core\nx = y",
        "[core]\n\"fsmonitor\" = e", "[user]\nname = x\\", "\0", "[status]\nsubmoduleSummary = true",
        "[branch]\nsort = signature", "[tag]\nsort = -describe", "[branch]\nsort",
    ],
)  # fmt: skip
def test_what_could_start_a_program_asks(setting: str) -> None:
    assert clean_git_config({"config": setting}) != []
    assert clean_git_config({"config": ORDINARY + setting}) != []
    assert clean_git_config({"config.worktree": setting}) != []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".gitattributes", "*.x filter=evil"), (".gitattributes", "* diff=evil"), ("info/attributes", "a merge=evil"),
        ("objects/info/alternates", "/other/objects\n"), ("commondir", "../../x\n"),
    ],
)  # fmt: skip
def test_other_files_of_a_repository(name: str, text: str) -> None:
    assert clean_git_config({name: text}) != []


def test_a_finding_names_file_and_setting() -> None:
    (found,) = clean_git_config({"config": ORDINARY + '[filter "lfs"]\nprocess = git-lfs filter-process\n'})
    assert found.message.key == "policy.ask.git_config"
    assert found.message.params == {"file": "config", "setting": "filter.lfs.process"}


@given(st.text(max_size=300))
def test_any_text_is_judged(text: str) -> None:
    clean_git_config({"config": text, ".gitattributes": text})
