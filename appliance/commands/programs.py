"""Programs whose job is to run other programs. No rule lets one run at once, and no lease covers one (AI-5).

Rule: names are compared without folder, case and version, so that ``/usr/bin/Python3.11`` is ``python``.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHELLS = _names("""
    sh bash rbash dash zsh ksh mksh lksh pdksh ash yash fish csh tcsh rc es elvish nu nushell xonsh pwsh powershell busybox toybox posh
    sash oil osh ysh
""")
# They start what their arguments name.
WRAPPERS = _names("""
    env xargs parallel timeout nice ionice chrt taskset nohup setsid setarch linux32 linux64 i386 x86_64 watch sudo sudoedit doas su
    runuser pkexec run0 script scriptreplay stdbuf unbuffer strace ltrace gdb lldb valgrind perf time chroot unshare nsenter setpriv
    capsh systemd-run systemd-nspawn bwrap firejail proot fakeroot fakechroot flock start-stop-daemon screen tmux byobu dtach abduco
    entr inotifywait socat nc ncat netcat expect rlwrap ld.so ld-linux-x86-64.so.2 ld-linux.so.2 ld-linux-aarch64.so.1 command builtin
    exec eval source . run-parts cpulimit prlimit choom dbus-run-session dbus-launch xvfb-run direnv dotenv nix-shell rr catchsegv
    eatmydata torsocks torify proxychains tsocks newgrp sg at batch crontab logsave softlimit chpst envdir envuidgid setuidgid
    multitime hyperfine numactl cgexec ssh-agent aa-exec faketime cset runcon
""")
INTERPRETERS = _names("""
    python pythonw pypy ipython node nodejs deno bun perl ruby irb jruby php lua luajit tclsh wish awk gawk mawk nawk original-awk sed ed
    ex vi vim nvim view rvim rview vimdiff nano pico emacs emacsclient joe micro less more most man info bc dc gnuplot octave r rscript
    julia ghci ghc runghc scala groovy kotlin kotlinc jshell java javaw dotnet mono erl iex elixir guile racket sbcl clisp m4 gcc cc
    clang g++ c++ clang++ tcc as ld make gmake bmake cmake ctest ninja meson just task rake ant mvn gradle sbt bazel npx pnpx bunx yarn
    pnpm pipx uv uvx poetry pdm hatch tox nox pytest cargo rustc rustup gdbserver yq sqlite sqlite3 mysql psql redis-cli mongo mongosh
    ssh scp sftp rsync docker podman nerdctl kubectl helm tar bsdtar zip cpio apt apt-get dpkg snap dnf yum rpm gem bundle composer cpan
""")
_STARTERS = SHELLS | WRAPPERS
_VERSION = re.compile(r"[-_]?[0-9][0-9.]*[a-z]?\Z")


@functools.lru_cache(maxsize=4096)
def name_of(word: str) -> str:
    """The program that ``word`` names, without folder, case and version."""
    name = word.rpartition("/")[2].casefold()
    return _VERSION.sub("", name) or name


def runs_others(word: str) -> bool:
    """Whether the program's job is to run what it is given or what it reads: a shell, a wrapper or an interpreter."""
    return wraps(word) or name_of(word) in INTERPRETERS


def wraps(word: str) -> bool:
    """Whether the program starts what its arguments name: a shell or a wrapper."""
    return name_of(word) in _STARTERS or word.rpartition("/")[2].casefold() in _STARTERS


# Words with which a program that otherwise does its own work starts what stands beside them.
_HANDS_OVER: dict[str, tuple[str, ...]] = {
    "git": (
        "-c", "--config-env", "--exec-path", "--exec", "-x", "--extcmd", "--upload-pack", "--receive-pack", "-O",
        "--open-files-in-pager", "bisect", "difftool", "mergetool", "filter-branch", "submodule", "help",
    ),
    "npm": ("exec", "x", "explore", "init", "create", "--script-shell", "--node-options"),
    "split": ("--filter",),
    "sort": ("--compress-program",),
    "rg": ("--pre",),
    "go": ("run", "-exec", "-toolexec", "-vettool", "generate"),
}  # fmt: skip


def hands_over(argv: Sequence[str]) -> bool:
    """Whether this command starts another one that its words name, by whatever program (AI-5)."""
    if runs_others(argv[0]):
        return True
    name = name_of(argv[0])
    if name == "find":
        return not _FIND_STARTS.isdisjoint(argv)
    words = _HANDS_OVER.get(name, ())
    return any(word.partition("=")[0] in words or (word[:2] == "-O" and "-O" in words) for word in argv[1:])


# A word or part of one, quoted or not, or what ends a command. What is neither (an open quote) ends a word.
_SHELL = re.compile(
    r"""'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)"|\\(?P<escaped>.)|(?P<plain>[^\s;&|()`'"\\]+)|(?P<end>[;&|()`\n]+)|.""",
    re.DOTALL,
)
_READ_AGAIN = re.compile(r"[\s;&|()`'\"\\]")  # a word with one of these is a line for some shell
_BEFORE_A_COMMAND = re.compile(r"(then|do|else|elif|if|while|until|!|\{)\Z|[A-Za-z_][A-Za-z0-9_]*\+?=")
_FIND_STARTS = frozenset({"-exec", "-execdir", "-ok", "-okdir"})
MOST_STARTS, MOST_WORDS, MOST_NESTED = 256, 64, 4


def started_by(argv: Sequence[str]) -> Iterator[list[str]]:
    """Every command that ``argv`` might start as a wrapper: too many rather than too few (POL-5)."""
    return itertools.islice(_started_by(argv, MOST_NESTED), MOST_STARTS)


def _started_by(argv: Sequence[str], depth: int) -> Iterator[list[str]]:
    if name_of(argv[0]) == "find":
        starts = [place + 1 for place, word in enumerate(argv[:-1]) if word in _FIND_STARTS]
    elif wraps(argv[0]):
        starts = list(range(1, len(argv)))
    else:
        return
    for start in starts:
        yield list(argv[start : start + MOST_WORDS])
    for word in argv[1:] if depth else ():
        if _READ_AGAIN.search(word):
            for command in _commands(word):
                yield command[:MOST_WORDS]
                yield from _started_by(command, depth - 1)


def _commands(line: str) -> Iterator[list[str]]:
    """The commands of a shell's line, roughly: no word of one is taken for the start of another, as "init" in ``git init``."""
    words: list[str] = []
    word, inner = "", []
    for found in itertools.chain(_SHELL.finditer(line), (None,)):
        kind = found.lastgroup if found else "end"
        if found and kind not in (None, "end"):
            word += found[kind]
            if kind == "double" and ("$(" in found[kind] or "`" in found[kind]):
                inner.append(found["double"])
            continue
        if word and (words or not _BEFORE_A_COMMAND.match(word)):
            words.append(word)
        word = ""
        if kind == "end" and words:
            yield words
            words = []
    for text in inner:
        yield from _commands(text)
