"""The table of known problems, and how they are recognised from what is known.

Rule: pure, and no sentence for people in here: a problem is a code of TABLE with parameters, its words are
in the catalogue under ``problem.CODE.title``, ``.why`` and ``.next``. Pages, ``doctor`` and telemetry share
the table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

from appliance.messages import Params
from appliance.services.certificate import Certificate
from appliance.services.history import History, Tuning
from appliance.services.model import Desired, Health, Missing, Observed, Problem, ServiceName, Severity, Want

DAY = 86_400
WARN_BEFORE_DAYS = 14  # R22
# Caddy's own authority issues for 12 hours and renews when a third is left; so little means that renewing
# fails.
OWN_WARN_MINUTES = 60
DISK_WARN_MB = 2048
DISK_WARN_PERCENT, DISK_FULL_PERCENT = 85, 95
CADDY_FLOOR = (2, 11, 4)  # FWD-12
CADDY_LEAST = (2, 6, 2)

TABLE: Mapping[str, Severity] = {
    # One service
    "crash_loop": "error",
    "too_big": "error",
    "no_room": "warning",
    "model_unusable": "error",
    "retrying": "warning",
    "recovered": "info",
    "exited": "warning",
    "start_failed": "warning",
    "too_slow": "warning",
    "unhealthy": "warning",
    "out_of_memory": "warning",
    "port_taken": "error",
    "port_taken_by": "error",
    "port_denied": "error",
    "image_missing": "error",
    "pull_failed": "error",
    "update_failed": "warning",
    "not_installed": "error",
    "ide_safe_mode": "warning",
    "editor_outdated": "info",
    "old_proxy": "warning",
    "too_old_proxy": "error",
    # The certificate
    "certificate_expiring": "warning",
    "certificate_expired": "error",
    "own_certificate_expiring": "warning",
    "certificate_untrusted": "warning",
    "acme_failing": "warning",
    "acme_pending": "warning",
    "clock_off": "error",
    # Mail
    "mail_unreachable": "warning",
    "mail_certificate": "warning",
    "mail_no_tls": "warning",
    "mail_sign_in": "warning",
    "mail_refused": "warning",
    "mail_later": "info",
    "mail_address": "warning",
    # The machine
    "runtime_gone": "error",
    "engine_gone": "error",
    "disk_nearly_full": "warning",
    "disk_full": "error",
    # From the figures (appliance/telemetry/alerts.py)
    "memory_pressure": "warning",
    "memory_low": "warning",
    "swap_thrash": "warning",
    "cpu_stolen": "warning",
    "oom_kills": "warning",
}

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")
_TAKEN = re.compile(r"listen (?:tcp|udp)[46]? \S*:(\d+): bind: address already in use")
_DENIED = re.compile(r"listen (?:tcp|udp)[46]? \S*:(\d+): bind: permission denied")
_ACME = re.compile(r"could not get certificate from issuer|will retry|challenge failed")
_UNSERVED = "cannot serve the model"  # appliance/assistant/engine_child.py
_PLAIN = re.compile(r"[^\w .,:;()/@\[\]-]+")


class Facts(Struct, frozen=True):
    """What is known beside the services themselves; None and empty where it is not."""

    gone: str = ""  # code of the runtime's silence
    certificate: Certificate | None = None
    acme: bool = False
    acme_cause: str = ""
    proxy_version: str = ""
    disk_free_mb: int | None = None
    disk_percent: float = 0.0
    port_owners: Mapping[int, str] = field(default_factory=dict)


def problem(code: str, service: ServiceName | None = None, params: Params | None = None) -> Problem:
    """One row of the table, filled in."""
    return Problem(code, TABLE[code], service, params or {})


def of_service(
    seen: Observed | None, desired: Desired, history: History, tail: Sequence[str], facts: Facts, tuning: Tuning
) -> list[Problem]:
    """What is wrong with one service, the most telling first."""
    if seen is None:
        return []
    if seen.missing is Missing.PROGRAM:
        # Nobody misses a model until one is set up; without the proxy or the IDE there is no appliance.
        return [] if seen.service == "ai" else [problem("not_installed", seen.service)]
    found = []
    if desired.want is not Want.STOP:
        found += _failure(seen, history, tail, facts, tuning)
    if history.refused:
        found.append(problem("no_room", seen.service))
    if history.safe and not history.over:
        found.append(problem("ide_safe_mode", seen.service, {"tries": tuning.tries}))
    return found


def of_update(service: ServiceName, failure: str) -> list[Problem]:
    """What is wrong with fetching another version; ``failure`` is the registry's or the engine's word."""
    cause = " ".join(_PLAIN.sub(" ", failure).split())[:300]
    return [problem("update_failed", service, {"cause": cause})] if cause else []


def of_machine(facts: Facts, now: float) -> list[Problem]:
    """What is wrong around the services. ``now`` is Unix seconds."""
    found = []
    if facts.gone:
        found.append(problem(facts.gone if facts.gone in TABLE else "runtime_gone"))
    if facts.certificate is not None:
        found += _certificate(facts.certificate, facts, now)
    if facts.disk_free_mb is not None:
        found += _disk(facts.disk_free_mb, facts.disk_percent)
    if found_version := _VERSION.search(facts.proxy_version):
        found += _proxy_version(found_version)
    return found


def taken_ports(tail: Iterable[str]) -> list[int]:
    """Ports that the service says it could not have."""
    return [int(found[1]) for found in map(_TAKEN.search, tail) if found]


def recognise(service: ServiceName, tail: Sequence[str], port_owners: Mapping[int, str]) -> Problem | None:
    """A cause that the service's own last words give away."""
    for port in taken_ports(tail):
        owner = port_owners.get(port)
        params: Params = {"port": port, "owner": owner} if owner else {"port": port}
        return problem("port_taken_by" if owner else "port_taken", service, params)
    if denied := _DENIED.search("\n".join(tail)):
        return problem("port_denied", service, {"port": int(denied[1])})
    if service == "ai" and any(line.startswith(_UNSERVED) for line in tail):
        return problem("model_unusable", service)
    return None


def acme_cause(tail: Sequence[str]) -> str:
    """The latest reason for which Caddy got no certificate, in the authority's words, made harmless; or
    empty."""
    for line in reversed(tail):
        if _ACME.search(line):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("error"), str):
                return _PLAIN.sub(" ", entry["error"])[:300].strip()
    return ""


def _failure(seen: Observed, history: History, tail: Sequence[str], facts: Facts, tuning: Tuning) -> list[Problem]:
    name = seen.service
    if not history.failures:
        return []
    if history.parked == "too_big":
        return [problem("too_big", name)]
    params = {"failures": history.failures, "tries": tuning.tries}
    if history.health is Health.HEALTHY and not history.over:
        return [problem("recovered", name, {"n": history.failures})]
    cause = recognise(name, tail, facts.port_owners) or problem(_known(history.cause), name, params)
    if history.parked or history.failures >= tuning.tries:
        loop = problem("crash_loop" if history.parked else "retrying", name, params)
        return [cause, loop] if cause.severity == "error" else [loop, cause]
    return [cause]


def _known(cause: str) -> str:
    return cause if cause in TABLE else "exited"


def _certificate(served: Certificate, facts: Facts, now: float) -> list[Problem]:
    if now < served.not_before - 60:
        return [problem("clock_off", "proxy", {"hours": round((served.not_before - now) / 3600)})]
    if now >= served.not_after:
        return [problem("certificate_expired", "proxy", {"issuer": served.issuer})]
    found = []
    if facts.acme and served.own:
        cause = {"cause": facts.acme_cause}
        found.append(problem("acme_failing", "proxy", cause) if facts.acme_cause else problem("acme_pending", "proxy"))
    elif served.distrust:
        found.append(problem("certificate_untrusted", "proxy", {"issuer": served.issuer}))
    left = served.not_after - now
    if served.own and left < OWN_WARN_MINUTES * 60:
        found.append(problem("own_certificate_expiring", "proxy", {"n": max(1, int(left // 60))}))
    if not served.own and left < WARN_BEFORE_DAYS * DAY:
        found.append(problem("certificate_expiring", "proxy", {"n": max(1, int(left // DAY))}))
    return found


def _disk(free_mb: int, percent: float) -> list[Problem]:
    if percent >= DISK_FULL_PERCENT:
        return [problem("disk_full", None, {"free_mb": free_mb, "percent": int(percent)})]
    short = free_mb < DISK_WARN_MB or percent >= DISK_WARN_PERCENT
    return [problem("disk_nearly_full", None, {"free_mb": free_mb})] if short else []


def _proxy_version(found: re.Match[str]) -> list[Problem]:
    version = tuple(int(part or 0) for part in found.groups())
    params: Params = {"version": ".".join(map(str, version)), "floor": ".".join(map(str, CADDY_FLOOR))}
    if version < CADDY_LEAST:
        return [problem("too_old_proxy", "proxy", params)]
    return [problem("old_proxy", "proxy", params)] if version < CADDY_FLOOR else []
