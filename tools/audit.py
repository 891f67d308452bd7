"""`make audit`: the Python lock against known vulnerabilities, by pip-audit.

Exceptions stand in audit-exceptions.toml, each with a reason and the day it ends; one that has ended counts no more.
Exit codes: 0 nothing known, 1 something found, 2 not audited (no source could be reached), which is never read as a pass.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def exceptions(today: datetime.date) -> dict[str, str]:
    """Ids that are excepted today, with their reasons. Raises ValueError for one without reason or end."""
    found = {}
    for entry in tomllib.loads((HERE / "audit-exceptions.toml").read_text("utf-8")).get("exception", []):
        if not entry.get("reason") or not isinstance(entry.get("until"), datetime.date):
            raise ValueError(f"the exception {entry.get('id')} needs a reason and a day it ends (until)")
        if entry["until"] >= today:
            found[entry["id"]] = entry["reason"]
    return found


def judge(report: dict[str, Any], excepted: dict[str, str]) -> tuple[int, list[str]]:
    """Exit code and lines to print for pip-audit's JSON report."""
    packages = report["dependencies"]
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        return 2, [f"not audited: no source of vulnerabilities knows any of the {len(packages)} locked packages"]
    lines, code = [f"audited {len(audited)} of {len(packages)} locked packages"], 0
    for package in audited:
        for vulnerability in package.get("vulns", []):
            names = {vulnerability["id"], *vulnerability.get("aliases", [])}
            reason = next((excepted[name] for name in names if name in excepted), "")
            lines.append(
                f"{package['name']} {package['version']}: {vulnerability['id']} {reason and f'({reason})'}".rstrip()
            )
            code = code if reason else 1
    return code, lines


def main() -> int:
    """Run pip-audit on the lock and say what it found."""
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "-r", str(HERE.parent / "requirements.txt"), "--require-hashes", "--disable-pip",
         "--progress-spinner", "off", "--format", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        report = json.loads(done.stdout)
    except ValueError:
        print(f"not audited: {done.stderr.strip()[-400:]}")
        return 2
    code, lines = judge(report, exceptions(datetime.datetime.now(datetime.UTC).date()))
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
