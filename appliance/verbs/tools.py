"""Toolchains for the workspace."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from appliance.errors import NotFound, Unavailable
from appliance.settings import Settings
from appliance.verbs.base import Verbs, mib, table, visible

if TYPE_CHECKING:
    from appliance.control import Control


def register(verbs: Verbs) -> None:
    """Add the verbs of this page to the command."""
    group = verbs.group("tools", "toolchains for the workspace")
    group.add("list", lambda a, s, c: c.call("GET", "/api/tools"), show, "list what is offered and what is installed")
    add = group.add("add", change, show, "install one into the workspace's home, or bring it up to date")
    add.add_argument("name", help="python, node, go, php, ...")
    add.add_argument("series", nargs="?", default="", help="such as 3.13; the newest that is offered when left out")
    packages = group.add(
        "packages", choose, show_packages, "show or choose the Debian packages in the image (docker runtime)"
    )
    packages.add_argument("names", nargs="*", help="all that shall be in it")
    packages.add_argument("--none", action="store_true", help="go back to the image as it was pulled")
    remove = group.add("remove", change, show, "remove one")
    remove.add_argument("name")
    remove.add_argument("series")


def change(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    """Ask for it and follow it to its end. Raises CroftError when it fails."""
    answer = control.call("GET", "/api/tools")
    series = args.series or next((row["series"] for row in answer["tools"] if row["name"] == args.name), "")
    if (args.name, series) not in {(row["name"], row["series"]) for row in answer["tools"]}:
        raise NotFound("there is no such tool", hint="`croft tools list` names every one.")
    before, told = answer["ended"], ""
    control.call("POST", f"/api/tools/{args.name}/{series}/{args.action}")
    while (answer := control.call("GET", "/api/tools"))["ended"] == before:
        job = answer["job"] or {}
        words = f"{args.name} {series}: {mib(job.get('current', 0))}"
        if job.get("total"):
            words += f" of {mib(job['total'])}"
        if words != told and not args.json:
            print(visible(words), flush=True)
        told = words
        time.sleep(0.5)
    if problem := answer["problem"]:
        raise Unavailable(visible(f"cannot {args.action} {args.name}: {problem['message']}"), hint="Try again.")
    return answer


def choose(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    """Ask for them and wait for the end of the build. Raises CroftError when it fails."""
    if args.names or args.none:
        control.call("PUT", "/api/packages", {"packages": args.names})
    while (answer := control.call("GET", "/api/packages"))["building"]:
        time.sleep(1)
    if answer["problem"]:
        raise Unavailable(visible(answer["problem"]), hint="Check the names and the connection, then try again.")
    return answer


def show_packages(answer: dict[str, Any]) -> None:
    print(" ".join(answer["packages"]) or "None: the image is as it was pulled.")


def show(answer: dict[str, Any]) -> None:
    rows = [
        (row["name"], row["series"], row["version"] or "-", mib(row["bytes"]), " ".join(row["programs"]))
        for row in answer["tools"]
    ]
    table(("TOOL", "SERIES", "INSTALLED", "SIZE", "PROGRAMS"), rows)
    print(f"\n{mib(answer['free'])} free.")
