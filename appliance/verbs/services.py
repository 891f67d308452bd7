"""The supervised services."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from appliance.settings import Settings
from appliance.verbs.base import Verbs, done, mib, table, visible

if TYPE_CHECKING:
    from appliance.control import Control


def register(verbs: Verbs) -> None:
    """Add the verbs of this page to the command."""
    group = verbs.group("services", "the supervised services")
    group.add("list", lambda a, s, c: c.call("GET", "/api/services"), show_services, "list the services")
    for name in ("start", "stop", "restart"):
        verb = group.add(name, services_act, show_services, f"{name} a service")
        verb.add_argument("service", choices=("ide", "proxy", "ai"))
    logs = group.add("logs", services_logs, done(""), "print what a service wrote")
    logs.add_argument("service", choices=("ide", "proxy", "ai"))
    logs.add_argument("-n", "--lines", type=int, default=100)
    logs.add_argument("-f", "--follow", action="store_true", help="go on with new lines until interrupted")


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


def show_services(result: dict[str, Any]) -> None:
    rows = [
        (view["name"], view["state"], view["health"], mib(view["memory_bytes"]), view["reason"] or "")
        for view in result["services"]
    ]
    table(("SERVICE", "STATE", "HEALTH", "MEMORY", ""), rows)
    for problem in result.get("problems", ()):
        whose = f"{problem['service']}: " if problem["service"] else ""
        print(f"\n{problem['severity']}: {whose}{problem['title']}\n  {problem['why']}\n  {problem['next']}")
