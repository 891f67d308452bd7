"""Running a command in the workspace from a terminal: as the policy decides, with a person's approval where it asks.

Rule: on the machine itself the person at the terminal acts as an admin whom the machine has let in; what would run and where
is printed before it is approved, and a terminal is never driven by what a command writes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import TYPE_CHECKING, Any

from appliance.errors import CroftError, Invalid, Unavailable
from appliance.settings import Settings
from appliance.verbs.base import Verbs, visible

if TYPE_CHECKING:
    from appliance.control import Control

REFUSED = 126  # as a shell says of what it found but may not run
SIGNALLED = 128
UNDER_WAY = ("waiting", "running")
_BOOK = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_PARAMETER = re.compile(r"[a-z][a-z0-9_]{0,30}")


def register(verbs: Verbs) -> None:
    """Add the verbs of this page to the command."""
    made = verbs.add("run", run, shown, "run a command in the workspace, as the policy decides")
    made.add_argument("--cwd", default="", metavar="DIR", help="folder beneath the workspace")
    made.add_argument(
        "--scope", choices=("workspace", "host"), default="workspace", help="host: one of the typed verbs"
    )
    made.add_argument(
        "--yes", action="store_true", help="approve without asking, where the policy asks (the machine only)"
    )
    made.add_argument("--book", default="", metavar="NAME", help="a runbook; its parameters follow as NAME=VALUE")
    made.add_argument("words", nargs="*", metavar="COMMAND", help="after --: the program and its arguments")
    made.set_defaults(exit=status_of)


def run(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    """Propose, approve if a person is there to, stream, and give the run as it ended. Raises CroftError."""
    made = _asked(args, control)
    try:
        if made["state"] == "waiting" and not _approved(args, control, made):
            return _quietly(control, made)
        return _follow(args, control, made)
    except KeyboardInterrupt:
        return _quietly(control, made)


def _asked(args: argparse.Namespace, control: Control) -> dict[str, Any]:
    """The proposal: a command, or a runbook with its values."""
    if not args.book:
        if not args.words:
            raise Invalid("there is no command to run", hint="Write it after --, as in `croft run -- git status`.")
        asked = {"argv": args.words, "cwd": args.cwd, "scope": args.scope}
        return dict(control.call("POST", "/api/commands", asked)["run"])
    pairs = [word.partition("=") for word in args.words]
    if wrong := [name for name, equals, _ in pairs if not (equals and _PARAMETER.fullmatch(name))]:
        raise Invalid(f"cannot read {visible(wrong[0])}", hint="Write parameters as NAME=VALUE.")
    if not _BOOK.fullmatch(args.book):
        raise Invalid("that is no name of a runbook", hint="The Runbooks page lists them.")
    values = {name: value for name, _, value in pairs}
    return dict(control.call("POST", f"/api/runbooks/{args.book}/run", {"values": values})["run"])


def shown(run: dict[str, Any]) -> None:
    """Its output has been printed as it came."""


def status_of(run: dict[str, Any]) -> int:
    """The exit status a shell would give."""
    if run["exit_code"] is not None:
        return int(run["exit_code"])
    if run["signal"] is not None:
        return SIGNALLED + int(run["signal"])
    return REFUSED


def _approved(args: argparse.Namespace, control: Control, run: dict[str, Any]) -> bool:
    """Show what would run and where, and ask. False when nobody says yes."""
    tell = sys.stderr
    print(f"croft: {visible(run['reason'])}", file=tell)
    for argv in run["stages"]:
        print("       runs   " + " ".join(visible(json.dumps(word, ensure_ascii=False)) for word in argv), file=tell)
    print(f"       in     {visible(run['cwd'] or '.')}   as {run['scope']}, rule {visible(run['rule'])}", file=tell)
    if not args.yes:
        if not sys.stdin.isatty():
            print("       It waits for a decision on the Commands page.", file=tell)
            return _decided(control, run)
        print("       Run it once? [y/N] ", end="", file=tell, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return False
    try:
        control.call("POST", f"/api/commands/{run['id']}/approve", {"hash": run["hash"]})
    except CroftError as error:
        if error.code != "token_scope":
            raise
        print("       A token cannot approve; it waits for a decision on the Commands page.", file=tell)
        return _decided(control, run)
    return True


def _decided(control: Control, run: dict[str, Any]) -> bool:
    """Wait until somebody decides elsewhere. Raises Unavailable when the daemon goes away meanwhile."""
    for event in control.lines(f"/api/commands/{run['id']}/stream"):
        state = event.get("run", {}).get("state", "waiting")
        if state != "waiting":
            return bool(state not in ("denied", "expired", "cancelled"))
    raise _lost()


def _lost() -> Unavailable:
    return Unavailable("Croft stopped answering before the command ended", hint="The Commands page says how it ended.")


def _follow(args: argparse.Namespace, control: Control, run: dict[str, Any]) -> dict[str, Any]:
    from appliance.commands.display import render

    outputs = {"stdout": sys.stdout, "stderr": sys.stderr}
    for event in control.lines(f"/api/commands/{run['id']}/stream"):
        if "text" in event and not args.json:
            out = outputs[event["stream"]]
            text = render(event["text"].encode("utf-8", "replace"))  # the daemon did; what it says is not believed
            out.write(text if out.isatty() else _plain(text))
            out.flush()
        run = event.get("run", run)
    if run["state"] in UNDER_WAY:
        raise _lost()
    if run["exit_code"] is None and run.get("ended"):
        print(f"croft: {visible(run['ended'])}", file=sys.stderr)
    elif run["truncated"]:
        print("croft: the rest of the output was not kept: too long, or the disk did not take it", file=sys.stderr)
    return run


def _quietly(control: Control, run: dict[str, Any]) -> dict[str, Any]:
    """Withdraw or cancel; what is over already stays as it is."""
    try:
        return dict(control.call("POST", f"/api/commands/{run['id']}/cancel")["run"])
    except CroftError:
        return dict(control.call("GET", f"/api/commands/{run['id']}")["run"])


def _plain(text: str) -> str:
    """For files and pipes: colours are for terminals."""
    parts = text.split("\x1b[")
    return parts[0] + "".join(part.partition("m")[2] for part in parts[1:])
