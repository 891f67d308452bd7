"""The audit log."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from appliance.settings import Settings
from appliance.verbs.base import Verbs, done

if TYPE_CHECKING:
    from appliance.control import Control


def register(verbs: Verbs) -> None:
    """Add the verbs of this page to the command."""
    group = verbs.group("audit", "the audit log")
    check = group.add("verify", audit_verify, show_audit, "check that the audit log is whole")
    check.set_defaults(exit=lambda result: 0 if result["ok"] else 1)
    group.add("export", audit_export, done(""), "print every record as a JSON line")


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


def show_audit(result: dict[str, Any]) -> None:
    fault = result["fault"]
    print(
        "The audit log is whole."
        if result["ok"]
        else f"The audit log is broken at record {fault['seq']}: {fault['what']}."
    )
