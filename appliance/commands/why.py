"""Why a run failed: a table of common errors, found at the end of what a program wrote, and one thing that may help.

Rules: a fix is an argument list that is proposed like any other command, by a person's click; nothing starts from here. Only the
tail is looked at, line by line and each cut short, so that no output makes looking slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

from appliance.messages import Message

TAIL = 8192  # characters
LINE = 400
LINES = 60
SEGFAULT, KILLED = 11, 9
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}")
_SCOPED = re.compile(r"(@[a-z0-9][a-z0-9._-]{0,60}/)?[a-z0-9][a-z0-9._-]{0,80}")


class Known(Struct, frozen=True):
    """One error. ``pattern`` is searched in a line; its group ``what`` fills {what} of the text and of ``fix``. ``only``: the
    programs it is about, all where empty."""

    id: str
    pattern: str
    fix: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


class Reason(Struct, frozen=True):
    """What it was, as a text, and the command that may help: empty where none would."""

    id: str
    text: Message
    fix: tuple[str, ...] = ()


# The first that fits counts: those that say more stand before those that say less. One row, one line.
# fmt: off
TABLE = (
    Known("disk_full", r"No space left on device|ENOSPC: no space|Disk quota exceeded", ("du", "-h", "--max-depth=1")),
    Known("watchers", r"number of file watchers reached|ENOSPC: System limit"),
    Known("port_taken", r"(?:EADDRINUSE|[Aa]ddress already in use)(?:[^0-9]{0,60}(?P<what>[0-9]{2,5})\b)?"),
    Known("heap", r"JavaScript heap out of memory|MemoryError|Cannot allocate memory|std::bad_alloc|ENOMEM"),
    Known("git_identity", r"Please tell me who you are|empty ident name"),
    Known("git_no_repository", r"not a git repository", ("git", "init")),
    Known("git_conflict", r"^CONFLICT \(|Automatic merge failed|you need to resolve your current index", ("git", "status")),
    Known("git_overwritten", r"would be overwritten by (?:merge|checkout|rebase)|local changes to the following", ("git", "stash")),
    Known("git_behind", r"\(fetch first\)|\(non-fast-forward\)|tip of your current branch is behind", ("git", "fetch")),
    Known("git_unrelated", r"refusing to merge unrelated histories"),
    Known("git_no_upstream", r"has no upstream branch|no tracking information for the current branch", ("git", "remote", "-v")),
    Known("git_no_remote", r"does not appear to be a git repository|No configured push destination", ("git", "remote", "-v")),
    Known("git_lock", r"index\.lock': File exists"),
    Known("git_owner", r"detected dubious ownership"),
    Known("git_nothing", r"nothing to commit|nothing added to commit", ("git", "status"), ("git",)),
    Known("git_pathspec", r"pathspec '(?P<what>[^']{1,80})' did not match", ("git", "branch", "--list")),
    Known("git_revision", r"unknown revision or path|bad revision '(?P<what>[^']{1,80})'", ("git", "log", "--oneline", "-n", "10")),
    Known("git_sign_in", r"could not read Username|Authentication failed for|terminal prompts disabled|Permission denied \(publickey"),
    Known("host_key", r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED"),
    Known("npm_script", r"Missing script: \"?(?P<what>[A-Za-z0-9:_-]{1,60})", ("npm", "run")),
    Known("npm_lock", r"can only install (?:packages )?(?:with an existing|when your) package", ("npm", "install")),
    Known("npm_no_project", r"(?:ENOENT|[Cc]ould not read|no such file).{0,200}package\.json", ("npm", "init", "-y")),
    Known("npm_conflict", r"ERESOLVE"),
    Known("npm_missing", r"(?:npm error|npm ERR!).{0,20}(?:E404|404 Not Found)"),
    Known("npm_engine", r"EBADENGINE|[Uu]nsupported engine"),
    Known("node_package", r"Cannot find (?:module|package) '(?P<what>[@a-z0-9][a-z0-9._/-]{0,100})'", ("npm", "install", "{what}")),
    Known("node_file", r"Cannot find module '(?P<what>[^']{1,200})'|ERR_MODULE_NOT_FOUND"),
    Known("node_modules_kind", r"Cannot use import statement outside a module|require is not defined in ES module|ERR_REQUIRE_ESM"),
    Known("pip_managed", r"externally-managed-environment", ("python3", "-m", "venv", ".venv")),
    Known("pip_no_match", r"No matching distribution found for (?P<what>[A-Za-z0-9_.-]{1,80})|Could not find a version that satisfies"),
    Known("pip_build", r"Failed (?:building wheel|to build)|metadata-generation-failed|subprocess-exited-with-error"),
    Known("pip_conflict", r"ResolutionImpossible|conflicting dependencies"),
    Known("python_module", r"No module named '?(?P<what>[A-Za-z0-9_]{1,80})", ("pip", "install", "{what}")),
    Known("python_name", r"ImportError: cannot import name '(?P<what>[^']{1,80})'"),
    Known("python_indent", r"IndentationError|TabError"),
    Known("python_syntax", r"^SyntaxError: (?P<what>.{1,120})"),
    Known("encoding", r"UnicodeDecodeError|UnicodeEncodeError|invalid byte sequence"),
    Known("json", r"JSONDecodeError|is not valid JSON|in JSON at position|Unexpected end of JSON"),
    Known("go_no_module", r"go\.mod file not found"),
    Known("go_tidy", r"no required module provides package|missing go\.sum entry|updates to go\.mod needed", ("go", "mod", "tidy")),
    Known("cargo_no_project", r"could not find `Cargo\.toml`", ("cargo", "init")),
    Known("rust_error", r"^error\[(?P<what>E[0-9]{4})\]"),
    Known("make_no_file", r"No targets specified and no makefile found"),
    Known("make_no_rule", r"No rule to make target [`'](?P<what>[^']{1,80})'"),
    Known("header", r"fatal error: (?P<what>[A-Za-z0-9_/.+-]{1,80}): No such file"),
    Known("linker", r"undefined reference to|ld: cannot find -l(?P<what>[A-Za-z0-9_+.-]{1,60})"),
    Known("docker_off", r"Cannot connect to the Docker daemon|docker\.sock: connect"),
    Known("certificate_time", r"certificate (?:has expired|is not yet valid)|CERT_HAS_EXPIRED|CERT_NOT_YET_VALID"),
    Known("certificate", r"certificate verify failed|SSL certificate problem|self[- ]signed certificate|unable to get local issuer"),
    Known("dns", r"Could not resolve host|Name or service not known|Temporary failure in name resolution|EAI_AGAIN|getaddrinfo ENOTFOUND"),
    Known("refused", r"Connection refused|ECONNREFUSED"),
    Known("unreachable", r"Network is unreachable|No route to host|ENETUNREACH|EHOSTUNREACH"),
    Known("no_answer", r"Connection timed out|Operation timed out|ETIMEDOUT|Read timed out"),
    Known("too_often", r"429 Too Many Requests|rate limit exceeded|HTTP Error 429"),
    Known("open_files", r"Too many open files|EMFILE"),
    Known("read_only", r"Read-only file system|EROFS"),
    Known("not_empty", r"Directory not empty|ENOTEMPTY"),
    Known("is_folder", r"Is a directory|EISDIR"),
    Known("no_folder", r"Not a directory|ENOTDIR"),
    Known("no_program", r"(?:^|: )(?P<what>[A-Za-z0-9_.+-]{1,60}): (?:command )?not found|executable file not found"),
    Known("permission", r"[Pp]ermission denied|EACCES|Operation not permitted|EPERM"),
    Known("exists", r"File exists|EEXIST"),
    Known("no_file", r"(?:(?:^|[\s:'\"])(?P<what>[^\s:'\"]{1,120})['\"]?: )?No such file or directory|ENOENT", ("ls", "-la")),
    Known("option", r"(?:unrecognized|unknown|invalid|illegal) option|unrecognized argument|no such option"),
)
# fmt: on
_COMPILED = tuple((known, re.compile(known.pattern)) for known in TABLE)


def why(
    output: str, argv: tuple[str, ...], exit_code: int | None, signal: int | None, cause: str = ""
) -> Reason | None:
    """The reason of a failed run; None when the table does not know it. ``output`` is what it wrote, errors last."""
    if cause in ("timeout", "oom") or (exit_code == 0 and signal is None):
        return None  # the run's own sentence says it already
    lines = list(_tail(output))
    program = argv[0].rpartition("/")[2] if argv else ""
    for known, pattern in _COMPILED:
        if known.only and program not in known.only:
            continue
        for line in lines:
            if found := pattern.search(line):
                return _reason(known, found.groupdict().get("what") or "")
    if signal == SEGFAULT or exit_code == 128 + SEGFAULT:
        return Reason("crash", Message("why.crash", {"program": program}))
    if signal == KILLED or exit_code == 128 + KILLED:
        return Reason("killed", Message("why.killed", {"program": program}))
    if cause == "not_started" or exit_code == 127:
        return Reason("no_program", Message("why.no_program", {"what": program}))
    return None


def _reason(known: Known, what: str) -> Reason:
    fix = known.fix
    if "{what}" in fix:
        # A name out of an output becomes a word of a command only where it can be nothing but a name.
        good = _SCOPED.fullmatch(what) or _NAME.fullmatch(what)
        fix = tuple(what if word == "{what}" else word for word in fix) if good else ()
    key = f"why.{known.id}" if what or not _wants(known) else f"why.{known.id}_unnamed"
    params: Mapping[str, str] = {"what": what} if what and _wants(known) else {}
    return Reason(known.id, Message(key, params), fix)


def _wants(known: Known) -> bool:
    return "?P<what>" in known.pattern


def _tail(output: str) -> Iterator[str]:
    """The last lines, the newest first, without colours."""
    text = re.sub(r"\x1b\[[0-9;:]{0,32}m", "", output[-TAIL:])
    for line in reversed(text.replace("\r", "\n").split("\n")[-LINES:]):
        if line.strip():
            yield line[:LINE]
