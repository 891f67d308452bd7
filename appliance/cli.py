"""The ``croft`` command. Every verb has ``--json``; nothing heavy is imported before a verb needs it.

Exit codes: 0 done, 1 refused or failed (the reason is on standard error), 2 misused.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from appliance import __version__
from appliance.errors import CroftError
from appliance.settings import Paths, Settings, load

if TYPE_CHECKING:
    from appliance.control import Control

Verb = Callable[[argparse.Namespace, Settings, "Control"], Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    args = _parser().parse_args(argv)
    try:
        settings = load(_paths(args))
        if args.command == "serve":
            return serve(args, settings)
        from appliance.control import Control

        result = args.verb(args, settings, Control(settings.paths.socket("control")))
        if args.json and result is not None:
            print(json.dumps(result, ensure_ascii=False, indent=2))
        elif result is not None:
            args.show(_shown(result))
        return int(args.exit(result)) if hasattr(args, "exit") else 0
    except CroftError as error:
        _complain(args, error)
        return 1
    except (BrokenPipeError, KeyboardInterrupt):
        return 130


def _paths(args: argparse.Namespace) -> Paths:
    home = args.home or os.environ.get("CROFT_HOME")
    return Paths.under(Path(home)) if home else Paths.system()


def _complain(args: argparse.Namespace, error: CroftError) -> None:
    if args.json:
        words = {"code": error.code, "message": error.message, "hint": error.hint}
        print(json.dumps({"error": words}, ensure_ascii=False), file=sys.stderr)
        return
    print(f"croft: {_shown(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"       {_shown(error.hint)}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument("--home", help="use the appliance beneath this folder instead of the installed one")
    parser = argparse.ArgumentParser(prog="croft", description="Your private cloud workspace on this machine.")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="VERB")

    def add(where: Any, name: str, verb: Verb, show: Callable[[Any], None], text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = where.add_parser(name, parents=[common], help=text, description=text)
        made.set_defaults(verb=verb, show=show)
        return made

    verbs.add_parser(
        "serve", parents=[common], help="run Croft in the foreground", description="Run Croft in the foreground."
    )
    add(verbs, "status", status, show_status, "state of the appliance")
    doctor_parser = add(verbs, "doctor", doctor, show_doctor, "check this machine and this installation")
    doctor_parser.add_argument("--settings", action="store_true", help="list every setting instead")
    doctor_parser.set_defaults(exit=lambda result: 1 if result.get("failed") else 0)
    link = add(verbs, "login-link", login_link, show_link, "print a one-time sign-in link")
    link.add_argument("email", nargs="?", default="", help="whose link; the owner's when left out")
    add(verbs, "version", version, lambda result: print(result["version"]), "print the version")
    _group(verbs, "users", "people who may sign in", lambda group: _users(add, group))
    _group(verbs, "sessions", "signed-in browsers", lambda group: _sessions(add, group))
    _group(verbs, "services", "the supervised services", lambda group: _services(add, group))
    _group(verbs, "audit", "the audit log", lambda group: _audit(add, group))
    return parser


def _group(verbs: Any, name: str, text: str, fill: Callable[[Any], None]) -> None:
    parser = verbs.add_parser(name, help=text, description=text)
    fill(parser.add_subparsers(dest="action", required=True, metavar="ACTION"))


def _users(add: Any, group: Any) -> None:
    add(group, "list", lambda a, s, c: c.call("GET", "/api/users"), show_users, "list everyone")
    new = add(group, "add", users_add, show_user, "add a person")
    new.add_argument("email")
    new.add_argument("--name", default="")
    new.add_argument("--role", choices=("viewer", "operator", "admin"), default="operator")
    role = add(group, "role", users_role, show_user, "change a person's role")
    role.add_argument("email")
    role.add_argument("role", choices=("viewer", "operator", "admin"))
    for name, flag in (("suspend", True), ("resume", False)):
        verb = add(group, name, _users_suspend(flag), show_user, f"{name} a person")
        verb.add_argument("email")
    gone = add(group, "remove", users_remove, _done("Removed."), "remove a person and end their sessions")
    gone.add_argument("email")


def _sessions(add: Any, group: Any) -> None:
    add(group, "list", lambda a, s, c: c.call("GET", "/api/sessions"), show_sessions, "list live sessions")
    gone = add(
        group,
        "revoke",
        lambda a, s, c: c.call("DELETE", f"/api/sessions/{quote(a.id, safe='')}"),
        _done("Ended."),
        "end a session",
    )
    gone.add_argument("id")


def _services(add: Any, group: Any) -> None:
    add(group, "list", lambda a, s, c: c.call("GET", "/api/services"), show_services, "list the services")
    for name in ("start", "stop", "restart"):
        verb = add(group, name, services_act, show_services, f"{name} a service")
        verb.add_argument("service", choices=("ide", "proxy", "ai"))
    logs = add(group, "logs", services_logs, _done(""), "print what a service wrote")
    logs.add_argument("service", choices=("ide", "proxy", "ai"))
    logs.add_argument("-n", "--lines", type=int, default=100)
    logs.add_argument("-f", "--follow", action="store_true", help="go on with new lines until interrupted")


def _audit(add: Any, group: Any) -> None:
    check = add(group, "verify", audit_verify, show_audit, "check that the audit log is whole")
    check.set_defaults(exit=lambda result: 0 if result["ok"] else 1)
    add(group, "export", audit_export, _done(""), "print every record as a JSON line")


def serve(args: argparse.Namespace, settings: Settings) -> int:
    from appliance.broker.supervisor import run

    home = args.home or os.environ.get("CROFT_HOME")
    return run(settings, Path(home) if home else None)


def status(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    return control.call("GET", "/api/status")


def doctor(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    if args.settings:
        from appliance.settings import TABLE

        return {"settings": [{"name": row.name, "default": row.default, "help": row.help} for row in TABLE]}
    from appliance.host.doctor import examine

    return examine(settings)


def login_link(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    from appliance import offline
    from appliance.control import NotRunning

    try:
        return control.call("POST", "/api/links", {"email": args.email})
    except NotRunning:
        offline.become_daemon_user(settings)
        return offline.login_link(settings, args.email)


def version(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    return {"version": __version__}


def users_add(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    return control.call("POST", "/api/users", {"email": args.email, "name": args.name, "role": args.role})


def users_role(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    return control.call("PATCH", _user_path(args.email), {"role": args.role})


def _users_suspend(suspended: bool) -> Verb:
    return lambda args, settings, control: control.call("PATCH", _user_path(args.email), {"suspended": suspended})


def users_remove(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    return control.call("DELETE", _user_path(args.email))


def _user_path(email: str) -> str:
    return f"/api/users/{quote(email, safe='@')}"


def services_act(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    return control.call("POST", f"/api/services/{args.service}/{args.action}")


def services_logs(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    lines = control.call("GET", f"/api/services/{args.service}/logs?lines={args.lines}")
    if args.json and not args.follow:
        return lines
    for line in lines["lines"]:
        _print_line(line, args.json)
    if args.follow:
        for line in control.lines(f"/api/services/{args.service}/logs/stream"):
            _print_line(line, args.json)
    return None


def _print_line(line: dict[str, Any], as_json: bool) -> None:
    print(json.dumps(line, ensure_ascii=False) if as_json else visible(line["text"]), flush=True)


def visible(text: str) -> str:
    """``text`` with control characters shown, so that a log cannot drive the terminal (WEB-15)."""
    return "".join(char if char.isprintable() or char == "\t" else f"\\x{ord(char):02x}" for char in text)


def _shown(value: Any) -> Any:
    """``value`` with every text in it made :func:`visible`: a daemon that was taken over must not drive root's terminal."""
    if isinstance(value, str):
        return "\n".join(map(visible, value.split("\n")))
    if isinstance(value, dict):
        return {name: _shown(one) for name, one in value.items()}
    return [_shown(one) for one in value] if isinstance(value, list) else value


def audit_verify(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    from appliance import offline
    from appliance.control import NotRunning

    try:
        return control.call("GET", "/api/audit/verify")
    except NotRunning:
        offline.become_daemon_user(settings)
        return offline.audit_verify(settings)


def audit_export(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    before = ""
    while records := control.call("GET", f"/api/audit?before={before}")["records"]:
        for record in records:
            print(json.dumps(record, ensure_ascii=True))
        before = str(records[-1]["seq"])


def show_status(result: dict[str, Any]) -> None:
    print(f"Croft {result['version']} at {result['url']}")
    show_services(result)


def show_services(result: dict[str, Any]) -> None:
    rows = [
        (view["name"], view["state"], view["health"], _mib(view["memory_bytes"]), view["reason"] or "")
        for view in result["services"]
    ]
    _table(("SERVICE", "STATE", "HEALTH", "MEMORY", ""), rows)
    for problem in result.get("problems", ()):
        whose = f"{problem['service']}: " if problem["service"] else ""
        print(f"\n{problem['severity']}: {whose}{problem['title']}\n  {problem['why']}\n  {problem['next']}")


def show_doctor(result: dict[str, Any]) -> None:
    for row in result.get("settings", ()):
        print(f"{row['name']} = {json.dumps(row['default'])}\n    {row['help']}")
    for check in result.get("checks", ()):
        print(f"{check['result']:5} {check['title']}: {check['detail']}")
        if check["result"] != "pass" and check["suggestion"]:
            print(f"      {check['suggestion']}")


def show_link(result: dict[str, Any]) -> None:
    import segno

    whose = f"for {result['email']}" if result["email"] else "that makes you the owner"
    print(f"One-time sign-in link {whose}, good for {round(result['seconds'] / 60)} minutes:\n\n  {result['url']}\n")
    if sys.stdout.isatty() or os.environ.get("CROFT_QR"):
        segno.make(result["url"], error="l").terminal(compact=True)


def show_users(result: dict[str, Any]) -> None:
    _table(
        ("E-MAIL", "NAME", "ROLE", ""),
        [
            (user["email"], user["name"], user["role"], "suspended" if user["suspended"] else "")
            for user in result["users"]
        ],
    )


def show_user(result: dict[str, Any]) -> None:
    show_users({"users": [result["user"]]})


def show_sessions(result: dict[str, Any]) -> None:
    _table(
        ("ID", "WHO", "ADDRESS", "LAST USED", "BROWSER"),
        [
            (row["id"], row["user"], row["address"], _when(row["seen_at"]), visible(row["agent"])[:60])
            for row in result["sessions"]
        ],
    )


def show_audit(result: dict[str, Any]) -> None:
    fault = result["fault"]
    print(
        "The audit log is whole."
        if result["ok"]
        else f"The audit log is broken at record {fault['seq']}: {fault['what']}."
    )


def _done(text: str) -> Callable[[Any], None]:
    return lambda result: print(text)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        print("None.")
        return
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB" if count else "-"


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


if __name__ == "__main__":
    sys.exit(main())
