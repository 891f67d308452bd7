"""The machine as a whole: state, self-check, version."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from appliance import __version__
from appliance.settings import Settings
from appliance.verbs.base import Verbs
from appliance.verbs.services import show_services

if TYPE_CHECKING:
    from appliance.control import Control


def register(verbs: Verbs) -> None:
    """Add the verbs of this page to the command."""
    verbs.add("status", status, show_status, "state of the appliance")
    check = verbs.add("doctor", doctor, show_doctor, "check this machine and this installation")
    check.add_argument("--settings", action="store_true", help="list every setting instead")
    check.set_defaults(here=True, exit=lambda result: 1 if result.get("failed") else 0)
    verbs.add("version", version, lambda result: print(result["version"]), "print the version")


def status(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    return control.call("GET", "/api/status")


def doctor(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    if args.settings:
        from appliance.settings import TABLE

        return {"settings": [{"name": row.name, "default": row.default, "help": row.help} for row in TABLE]}
    from appliance.host.doctor import examine

    return examine(settings)


def version(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    return {"version": __version__}


def show_status(result: dict[str, Any]) -> None:
    print(f"Croft {result['version']} at {result['url']}")
    print(machine_line(result["machine"]))
    print(f"Assistant: {answering(result['assistant'])}\n")
    show_services(result)


def answering(engine: dict[str, Any]) -> str:
    """Who answers questions, in one line."""
    model = f" ({engine['model']})" if engine["model"] and not engine["reason"] else ""
    return f"{engine['words']}{model}"


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in one line; a machine without swap has no word of it."""
    parts = [f"CPU {machine['cpu_percent']:.0f} %", f"load {machine['load']:.2f}"]
    for name in ("memory", "swap", "disk"):
        if total := machine[f"{name}_total"]:
            parts.append(f"{name} {gib(machine[f'{name}_used'])} of {gib(total)} GiB")
    parts.append(f"up {int(machine['uptime'] // 86400)} d {int(machine['uptime'] % 86400 // 3600)} h")
    return ", ".join(parts)


def gib(count: float) -> str:
    """``count`` bytes in GiB with one decimal."""
    return f"{count / (1 << 30):.1f}"


def show_doctor(result: dict[str, Any]) -> None:
    for row in result.get("settings", ()):
        print(f"{row['name']} = {json.dumps(row['default'])}\n    {row['help']}")
    for check in result.get("checks", ()):
        print(f"{check['result']:5} {check['title']}: {check['detail']}")
        if check["result"] != "pass" and check["suggestion"]:
            print(f"      {check['suggestion']}")
