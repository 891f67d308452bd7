"""The supervised services."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from appliance.errors import Unavailable
from appliance.settings import Settings
from appliance.verbs.base import Verbs, as_json, done, mib, table, visible

if TYPE_CHECKING:
    from appliance.control import Control


def register(verbs: Verbs) -> None:
    """Add the verbs of this page to the command."""
    group = verbs.group("services", "the supervised services")
    group.add("list", lambda a, s, c: c.call("GET", "/api/services"), show_services, "list the services")
    for name in ("start", "stop", "restart"):
        verb = group.add(name, services_act, show_services, f"{name} a service")
        verb.add_argument("service", choices=("ide", "proxy", "ai"))
    update = group.add("update", services_update, show_update, "bring a service onto its pinned or installed version")
    update.add_argument("service", choices=("ide", "proxy", "ai"))
    logs = group.add("logs", services_logs, done(""), "print what a service wrote")
    logs.add_argument("service", choices=("ide", "proxy", "ai"))
    logs.add_argument("-n", "--lines", type=int, default=100)
    logs.add_argument("-f", "--follow", action="store_true", help="go on with new lines until interrupted")


def services_act(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    return control.call("POST", f"/api/services/{args.service}/{args.action}")


def services_update(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    """Ask for it, and follow what is fetched to its end. Raises CroftError when that fails."""
    answer = control.call("POST", f"/api/services/{args.service}/update")
    origin, told = answer["update"], ""
    while origin == "fetch" and (words := _fetching(answer, args.service)):
        if words != told and not args.json:
            print(visible(words), flush=True)
        told = words
        time.sleep(0.5)
        answer = control.call("GET", "/api/services")
    return answer | {"update": origin, "service": args.service}


def _fetching(answer: dict[str, Any], service: str) -> str:
    """How far it is, in words; empty at the end. Raises CroftError with the reason for which it failed."""
    for problem in answer["problems"]:
        if problem["code"] == "update_failed" and problem["service"] == service:
            raise Unavailable(visible(f"cannot update {service}: {problem['why']}"), hint=visible(problem["next"]))
    view = next(view for view in answer["services"] if view["name"] == service)
    progress = view["progress"]
    if not view["updating"]:
        return ""
    if not progress or not progress["total"]:
        return f"{service}: {progress['phase'] if progress else 'waiting'}"
    return f"{service}: {progress['phase']} {mib(progress['current'])} of {mib(progress['total'])}"


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


def _print_line(line: dict[str, Any], in_json: bool) -> None:
    print(as_json(line) if in_json else visible(line["text"]), flush=True)


_ORIGINS = {
    "current": "{} is up to date: it runs the version that is pinned.",
    "fetch": "{} was fetched; where it was running, it is started anew from that.",
    "held": "{} is started anew from the image that is here; asleep, at its next start.",
    "installer": "{} is started anew from the programs that are installed; newer ones come with install.sh.",
}


def show_update(result: dict[str, Any]) -> None:
    print(_ORIGINS[result["update"]].format(result["service"]))


def show_services(result: dict[str, Any]) -> None:
    rows = [
        (view["name"], view["state"], view["health"], mib(view["memory_bytes"]), view["reason"] or "")
        for view in result["services"]
    ]
    table(("SERVICE", "STATE", "HEALTH", "MEMORY", ""), rows)
    for problem in result.get("problems", ()):
        whose = f"{problem['service']}: " if problem["service"] else ""
        print(f"\n{problem['severity']}: {whose}{problem['title']}\n  {problem['why']}\n  {problem['next']}")
