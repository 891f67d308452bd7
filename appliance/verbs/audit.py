"""The audit log."""

from __future__ import annotations

import argparse
import codecs
import sys
from datetime import date
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from appliance.settings import Settings
from appliance.verbs.base import Verbs, done, shown

if TYPE_CHECKING:
    from appliance.control import Control


def register(verbs: Verbs) -> None:
    """Add the verbs of this page to the command."""
    group = verbs.group("audit", "the audit log")
    check = group.add("verify", audit_verify, show_audit, "check that the audit log is whole")
    check.set_defaults(exit=lambda result: 0 if result["ok"] else 1)
    export = group.add("export", audit_export, done(""), "write the records out, oldest first")
    export.add_argument("--format", choices=("csv", "jsonl"), default="jsonl", help="csv is for spreadsheets")
    export.add_argument("--from", dest="since", metavar="DAY", type=day, help="first day (UTC), such as 2026-11-01")
    export.add_argument("--to", dest="until", metavar="DAY", type=day, help="last day (UTC)")


def audit_verify(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    from appliance import offline
    from appliance.control import NotRunning

    try:
        return control.call("GET", "/api/audit/verify")
    except NotRunning:
        offline.become_daemon_user(settings)
        return offline.audit_verify(settings)


def audit_export(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    wanted = {"format": args.format, "from": args.since or "", "to": args.until or ""}
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in control.pieces(f"/api/audit/export?{urlencode(wanted)}"):
        text = decoder.decode(piece)
        sys.stdout.write(shown(text) if sys.stdout.isatty() else text)


def day(text: str) -> str:
    """A day as ``2026-11-22``. Raises ValueError, which argparse reports."""
    return date.fromisoformat(text).isoformat()


def show_audit(result: dict[str, Any]) -> None:
    fault = result["fault"]
    print(
        "The audit log is whole."
        if result["ok"]
        else f"The audit log is broken at record {fault['seq']}: {fault['what']}."
    )
