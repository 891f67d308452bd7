"""The command policy: checking a file, and asking what happens to a command line. Neither needs a running daemon."""

from __future__ import annotations

import argparse
import functools
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.errors import CroftError, Invalid
from appliance.settings import Settings
from appliance.verbs.base import Verbs, as_json, shown

if TYPE_CHECKING:
    from appliance.commands.judge import Policy
    from appliance.commands.lines import JudgedLine
    from appliance.control import Control
    from appliance.messages import Message

EXITS = {"allow": 0, "ask": 10, "deny": 20}


def register(verbs: Verbs) -> None:
    """Add the verbs of this page to the command."""
    group = verbs.group("policy", "what commands may do")
    check = group.add("check", policy_check, show_check, "check a policy file, the one in force unless FILE is given")
    check.add_argument("file", nargs="?", metavar="FILE")
    check.set_defaults(exit=lambda result: 0 if result["ok"] else 1)
    explain = group.add(
        "explain", policy_explain, show_verdict, "say what would happen to a command, and why; exit 0, 10 or 20"
    )
    explain.add_argument("--actor", choices=("human", "ai", "token", "registry"), default="human")
    explain.add_argument("--role", choices=("viewer", "operator", "admin"), default="operator")
    explain.add_argument("--scope", choices=("workspace", "host"), default="workspace")
    explain.add_argument("--cwd", default="", metavar="DIR", help="folder of the run, in the workspace")
    explain.add_argument("--file", default="", help="judge by this policy instead of the one in force")
    explain.add_argument("--stdin", action="store_true", help="read command lines, one a line; answer each with a line")
    explain.add_argument("words", nargs="*", metavar="COMMAND", help="after --; one word is read as a whole line")
    explain.set_defaults(exit=lambda row: EXITS[row["verdict"]] if row else 0)


def policy_check(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    from appliance.commands.policy_text import BadPolicy

    try:
        policy = _policy(settings, args.file or "")
    except BadPolicy as bad:
        return {"ok": False, "line": bad.fault.line, "message": _words(bad.fault.message)}
    return {"ok": True, "rules": len(policy.rules), "digest": policy.digest}


def show_check(result: dict[str, Any]) -> None:
    if result["ok"]:
        print(f"The policy can be used: {result['rules']} rules, every example comes out as it says.")
    else:
        print(result["message"])


def policy_explain(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    policy = _policy(settings, args.file)
    cwd = _folder(args.cwd, settings)
    if args.stdin:
        return _explain_lines(args, policy, cwd)
    if not args.words:
        raise Invalid(
            "there is no command to explain", hint="Write it after --, as in `croft policy explain -- git status`."
        )
    return _row(_judge(args, policy, args.words, cwd))


def _explain_lines(args: argparse.Namespace, policy: Policy, cwd: str) -> None:
    """One answer a line, as fast as lines come."""
    for line in _lines():
        row = _row(_judge(args, policy, [line], cwd))
        if args.json:
            print(as_json({"line": line, **row}))
        else:
            print(f"{row['verdict']}\t{row['rule']}\t{shown(line)}")


def show_verdict(row: dict[str, Any]) -> None:
    print(f"{row['verdict']}  (rule: {row['rule']})\n{row['reason']}")
    if row.get("cleaned"):
        print(f"Without the hidden characters: {row['cleaned']}")


def _lines() -> Iterator[str]:
    # Bytes that are no text become characters that the policy refuses with their place.
    for raw in sys.stdin.buffer:
        yield raw.decode("utf-8", "surrogateescape").rstrip("\n").removesuffix("\r")


def _judge(args: argparse.Namespace, policy: Policy, words: list[str], cwd: str) -> JudgedLine:
    from appliance.commands.judge import Actor, Request
    from appliance.commands.lines import JudgedLine, judge_line

    actor = Actor(args.actor)
    if len(words) == 1:
        return judge_line(policy, words[0], actor, args.role, scope=args.scope, cwd=cwd)
    return JudgedLine(policy.judge(Request(_stages(words), actor, args.role, args.scope, cwd)))


def _stages(words: list[str]) -> tuple[tuple[str, ...], ...]:
    """Words from our caller's shell; one that is just ``|`` parts two commands."""
    stages: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            stages.append([])
        else:
            stages[-1].append(word)
    return tuple(map(tuple, stages))


def _row(judged: JudgedLine) -> dict[str, Any]:
    answer, failure = judged.judgement, judged.judgement.failure
    row: dict[str, Any] = {
        "verdict": str(answer.verdict),
        "rule": answer.rule,
        "reason": _words(answer.reason),
        "code": answer.reason.key,
        "stages": [list(stage.argv) for stage in answer.stages],
        "checks": list(answer.checks),
    }
    if failure is not None:
        row["failed"] = {
            "stage": failure.stage + 1, "word": failure.index + 1, "token": failure.token, "rule": failure.rule, "code": failure.code
        }  # fmt: skip
    if judged.cleaned:
        row["cleaned"] = judged.cleaned
    return row


def _folder(cwd: str, settings: Settings) -> str:
    """``cwd`` relative to the workspace. Raises Invalid when it is elsewhere."""
    path = Path(cwd)
    if path.is_absolute():
        if not path.is_relative_to(settings.paths.workspace):
            raise Invalid("the folder is not in the workspace", hint="Name one beneath the workspace.")
        path = path.relative_to(settings.paths.workspace)
    return "" if str(path) == "." else str(path)


def _policy(settings: Settings, file: str) -> Policy:
    """The policy to judge by: a named file, the one in force, or the packaged one before the first start."""
    from appliance.commands.policy_text import check, packaged, read_policy

    installed = settings.paths.policy / "policy.toml"
    if file:
        return read_policy(Path(file))
    try:
        present = installed.exists()
    except OSError as error:
        raise CroftError(f"cannot read the policy: {error.strerror}", hint="Run it with sudo.") from error
    return read_policy(installed) if present else check(packaged())


def _words(message: Message) -> str:
    """``message`` in English, without the web's catalogue: only the daemon knows that, and it takes longer than the verdict."""
    text: Any = _english()
    for part in message.key.split("."):
        text = text[part]
    return re.sub(r"\{([a-z_]+)\}", lambda found: str(message.params.get(found[1], found[0])), text)


@functools.cache
def _english() -> dict[str, Any]:
    """The policy's own texts, as they are written."""
    return tomllib.loads((resources.files("webui") / "locale" / "policy.en.toml").read_text("utf-8"))
