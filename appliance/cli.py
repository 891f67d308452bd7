"""The ``croft`` command. Every verb has ``--json``; nothing heavy is imported before a verb needs it.

Exit codes: 0 done, 1 refused or failed (the reason is on standard error), 2 misused, 130 interrupted or no longer read.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.errors import CroftError, Invalid
from appliance.settings import Paths, Settings, load
from appliance.verbs.base import Verbs, as_json, shown

if TYPE_CHECKING:
    from appliance.control import Control


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = _parser(serving=words[:1] == ["serve"]).parse_args(words)
    try:
        settings = load(_paths(args))
        if args.command == "serve":
            return serve(args, settings)
        _make_streams_usable()
        return _answer(args, settings)
    except CroftError as error:
        _complain(args, error)
        return 1
    except (BrokenPipeError, KeyboardInterrupt):
        return 130


def _answer(args: argparse.Namespace, settings: Settings) -> int:
    """Do what a verb does and print what it gave: the exit code. Raises CroftError, BrokenPipeError when nobody reads."""
    try:
        result = args.verb(args, settings, _control(args, settings))
        if args.json and result is not None:
            print(as_json(result, indent=2))
        elif result is not None:
            args.show(shown(result))
        sys.stdout.flush()
    except UnicodeError as error:
        raise Invalid("what was given is not text", hint="Give it in UTF-8.") from error
    except OSError as error:
        if sys.stdout is sys.__stdout__:
            # Else the interpreter tries to write the rest once more as it ends, and says so in its own way.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            raise
        raise CroftError(
            f"cannot go on: {error.strerror or error}", hint="Look at the disk, and at where the output goes."
        ) from error
    return int(args.exit(result)) if hasattr(args, "exit") else 0


def _make_streams_usable() -> None:
    """A stream that was closed leads nowhere; letters that the encoding of the output lacks are spelt out."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (open to the end, as they are)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _paths(args: argparse.Namespace) -> Paths:
    home = args.home or os.environ.get("CROFT_HOME")
    return Paths.under(Path(home)) if home else Paths.system()


def _control(args: argparse.Namespace, settings: Settings) -> Control:
    """The appliance that is meant: the one named, else this machine if it is one, else the one this person signed in to."""
    from appliance.control import Control

    named, here = args.host or os.environ.get("CROFT_HOST", ""), Control(settings.paths.socket("control"))
    if getattr(args, "here", False):
        if args.host and not getattr(args, "names_host", False):
            raise Invalid("this verb is about the machine it runs on", hint="Leave --host out, or run it there.")
        return here
    home = args.home or os.environ.get("CROFT_HOME")
    if not named and (home or settings.paths.config.exists() or settings.paths.socket("control").exists()):
        return here
    from appliance import hosts

    if not named and not hosts.path().exists():
        return here
    from appliance.remote import Remote

    return Remote.to(hosts.find(named))


def _complain(args: argparse.Namespace, error: CroftError) -> None:
    if args.json:
        words = {"code": error.code, "message": error.message, "hint": error.hint}
        print(as_json({"error": words}), file=sys.stderr)
        return
    print(f"croft: {shown(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"       {shown(error.hint)}", file=sys.stderr)


def _parser(*, serving: bool = False) -> argparse.ArgumentParser:
    """``serving``: every other verb is left out, since a start has no use for what they import (F2)."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument("--host", default="", help="the appliance to use, as signed in to with `croft sign-in`")
    common.add_argument("--home", help="use the appliance beneath this folder instead of the installed one")
    parser = argparse.ArgumentParser(prog="croft", description="Your private cloud workspace on this machine.")
    added = parser.add_subparsers(dest="command", required=True, metavar="VERB")
    added.add_parser(
        "serve", parents=[common], help="run Croft in the foreground", description="Run Croft in the foreground."
    )
    if not serving:
        _register(Verbs(added, common))
    return parser


def _register(verbs: Verbs) -> None:
    from appliance.verbs import (
        assistant,
        audit,
        chat,
        commands,
        laptop,
        machine,
        mail,
        models,
        people,
        policy,
        services,
        tokens,
        tools,
    )

    for area in (
        machine,
        people,
        mail,
        services,
        audit,
        tokens,
        laptop,
        policy,
        commands,
        tools,
        models,
        assistant,
        chat,
    ):
        area.register(verbs)


def serve(args: argparse.Namespace, settings: Settings) -> int:
    from appliance.broker.supervisor import run

    home = args.home or os.environ.get("CROFT_HOME")
    return run(settings, Path(home) if home else None)


if __name__ == "__main__":
    sys.exit(main())
