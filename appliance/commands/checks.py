"""The named check ``clean-git-config``: whether a repository's own settings could make git start a program or leave the workspace.

Rule: a pure function over the texts of files, which somebody else reads and nobody executes. It is a list of what is harmless; every
other setting asks. It lowers the risk of noise and is no boundary: a file can change after the look (SECURITY 5.4).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

from appliance.commands.values import REFERENCE_SORT
from appliance.messages import Message

# Beneath a repository's .git, and beside it. A missing file is fine; one that leads out of the workspace is not.
GIT_FILES = (
    "config",
    "config.worktree",
    "info/attributes",
    "objects/info/alternates",
    "objects/info/http-alternates",
    "commondir",
)
# What of a repository may not lead elsewhere, or git would read a repository outside the workspace.
GIT_PLACES = (
    "HEAD",
    "index",
    "packed-refs",
    "info",
    "info/exclude",
    "objects",
    "objects/pack",
    "refs",
    "refs/heads",
    "logs",
)
BESIDE_FILES = (".gitattributes", ".gitmodules")
MOST_BYTES = 256 * 1024

# Sections and keys that only say how things look or which names belong together. Subsections may be called anything.
_HARMLESS = {
    "core": "repositoryformatversion filemode logallrefupdates ignorecase precomposeunicode symlinks autocrlf eol safecrlf quotepath "
    "abbrev commentchar bigfilethreshold longpaths protecthfs protectntfs compression whitespace",
    "remote": "url fetch pushurl prune tagopt pushdefault gh-resolved",
    "branch": "remote merge rebase description pushremote autosetupmerge autosetuprebase sort vscode-merge-base github-pr-owner-number",
    "user": "name email useconfigonly",
    "author": "name email",
    "committer": "name email",
    "pull": "rebase ff",
    "push": "default autosetupremote followtags",
    "fetch": "prune prunetags",
    "init": "defaultbranch",
    "color": "ui diff status branch grep interactive",
    "column": "ui",
    "merge": "ff conflictstyle log renames",
    "rebase": "autostash autosquash updaterefs",
    "diff": "renames renamelimit algorithm colormoved mnemonicprefix noprefix context indentheuristic",
    "status": "short branch showstash showuntrackedfiles relativepaths",
    "log": "date decorate abbrevcommit follow",
    "tag": "sort",
    "rerere": "enabled",
    "submodule": "url active",
    "extensions": "objectformat",
    "commit": "verbose cleanup",
    "gui": "wmstate geometry",
    "advice": "*",
}
_KEYS = {section: frozenset(keys.split()) for section, keys in _HARMLESS.items()}
_URL = re.compile(
    r"(https?|ssh|git|file)://[^\s]+"
    r"|[A-Za-z0-9._][A-Za-z0-9._-]*@[A-Za-z0-9.-]+:[^\s:-][^\s:]*"
    r"|\.{0,2}/[^\s:]*|[A-Za-z0-9._][A-Za-z0-9._-]*(/[^\s:]*)?"
)
_SECTION = re.compile(r'\[\s*([A-Za-z0-9.-]+)(?:\s+"((?:[^"\\\n]|\\.)*)")?\s*\]')
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
# gitattributes(5): drivers that come with git and start nothing.
_BUILT_IN_DRIVERS = frozenset(
    (
        "ada", "bash", "bibtex", "cpp", "csharp", "css", "dts", "elixir", "fortran", "fountain", "golang", "html", "java", "kotlin",
        "markdown", "matlab", "objc", "pascal", "perl", "php", "python", "ruby", "rust", "scheme", "tex", "text", "binary", "union",
    )
)  # fmt: skip


class Finding(Struct, frozen=True):
    """A setting that could start a program: its file and its name."""

    file: str
    key: str

    @property
    def message(self) -> Message:
        return Message("policy.ask.git_config", {"file": self.file, "setting": self.key})


class Unreadable(ValueError):
    """A config file that git may read otherwise than we do."""


def clean_git_config(files: Mapping[str, str]) -> list[Finding]:
    """What in ``files`` asks: texts by name, ``config`` and the others of GIT_FILES, BESIDE_FILES. Empty is clean.

    A text that cannot be read with certainty is a finding too. Files that do not exist are left out by the caller.
    """
    found: list[Finding] = []
    for name, text in files.items():
        if name.endswith(("attributes", ".gitattributes")):
            found += [Finding(name, key) for key in _attributes(text)]
        elif name in ("commondir", "objects/info/alternates", "objects/info/http-alternates"):
            found += [Finding(name, "objects")] if text.strip() else []
        elif name != ".gitmodules":
            found += _config(name, text)
    return found


def _config(name: str, text: str) -> list[Finding]:
    try:
        return [Finding(name, key) for key, value in settings(text) if not _harmless(key, value)]
    except Unreadable as error:
        return [Finding(name, str(error))]


def _harmless(key: str, value: str) -> bool:
    section, _, rest = key.partition(".")
    last = rest.rpartition(".")[2]
    known = _KEYS.get(section, frozenset())
    if key == "core.bare":
        return value.casefold() in ("false", "no", "off", "0", "")
    if key == "core.repositoryformatversion":
        return value in ("0", "1")
    if last == "sort":
        return last in known and REFERENCE_SORT.fullmatch(value) is not None
    if last in ("url", "pushurl"):
        return last in known and _URL.fullmatch(value) is not None
    return last in known or "*" in known


def settings(text: str) -> Iterator[tuple[str, str]]:
    """Every ``section.subsection.key`` (section and key in lower case) with its value. Raises Unreadable.

    Syntax: git-config(1), CONFIGURATION FILE. What is unusual there (values over several lines) is refused, not followed.
    """
    if len(text) > MOST_BYTES or "\0" in text:
        raise Unreadable("size")
    section = ""
    for line in text.removeprefix("\ufeff").split("\n"):
        rest = line.strip(" \t\r")
        if rest.startswith("["):
            head = _SECTION.match(rest)
            if not head:
                raise Unreadable(rest[:40])
            section = head[1].casefold() + (f".{head[2]}" if head[2] is not None else "")
            rest = rest[head.end() :].strip(" \t")
        if not rest or rest[0] in "#;":
            continue
        key = _NAME.match(rest)
        if not key or not section:
            raise Unreadable(rest[:40])
        after = rest[key.end() :].lstrip(" \t")
        if after and after[0] not in "=#;":
            raise Unreadable(rest[:40])
        if rest.endswith("\\"):
            raise Unreadable(f"{section}.{key[0].casefold()}")
        yield f"{section}.{key[0].casefold()}", _value(after)


def _value(after: str) -> str:
    """What stands after ``=``, without its comment and quotes. "" for a key that stands alone."""
    if not after.startswith("="):
        return ""
    bare = after[1:].strip(" \t")
    if bare.startswith('"') and bare.endswith('"') and bare.count('"') == 2 and "\\" not in bare:
        return bare[1:-1]
    return re.split(r"[#;]", bare, maxsplit=1)[0].rstrip(" \t")


def _attributes(text: str) -> Iterator[str]:
    """Attributes that name a filter, or a driver that is not git's own."""
    if len(text) > MOST_BYTES:
        yield "size"
        return
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals:
            continue
        if name == "filter" or (name in ("diff", "merge") and value not in _BUILT_IN_DRIVERS):
            yield word[:80]
