"""Made-up data for pages, partly hostile: the usual morning, a bad day, and what people and programs would have written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from appliance.messages import Message
from appliance.services.model import Health, Problem, Progress, ServiceView, State, Want
from appliance.telemetry.series import NAMES
from appliance.telemetry.store import Points
from support.screens import EVIL
from webui import charts, filters
from webui.i18n import Translator

NOW = float(int(time.time()))
EVIL_LINE = f"\x1b]8;;javascript:alert(1)\x07click\x1b]8;;\x07 {EVIL} \u0007\u200b end"


def sample_services() -> list[ServiceView]:
    """The usual morning: a proxy that runs, an IDE that works hard, no AI engine yet."""
    return [
        ServiceView(
            "ide",
            State.RUNNING,
            NOW - 5400,
            Health.HEALTHY,
            Want.ON_DEMAND,
            None,
            812 << 20,
            1024 << 20,
            23.4,
            actions=("stop", "restart"),
        ),
        ServiceView(
            "proxy",
            State.RUNNING,
            NOW - 3 * 86400,
            Health.HEALTHY,
            Want.RUN,
            None,
            38 << 20,
            128 << 20,
            0.4,
            actions=("stop", "restart"),
        ),
        ServiceView("ai", State.ABSENT, 0.0, Health.UNKNOWN, Want.ON_DEMAND),
    ]


def sample_trouble() -> list[ServiceView]:
    """A bad day: given up, not answering, downloading; with hostile words in every text."""
    return [
        ServiceView(
            "ide",
            State.FAILED,
            NOW - 90,
            Health.UNHEALTHY,
            Want.RUN,
            Message("problem.port_taken_by.why", {"port": 443, "owner": EVIL}),
            parked="crash_loop",
            log_tail=("starting", EVIL_LINE, EVIL),
            actions=("start",),
        ),
        ServiceView(
            "proxy",
            State.RUNNING,
            NOW - 40,
            Health.UNHEALTHY,
            Want.RUN,
            None,
            125 << 20,
            128 << 20,
            99.0,
            actions=("stop", "restart"),
        ),
        ServiceView(
            "ai",
            State.STARTING,
            NOW - 20,
            Health.UNKNOWN,
            Want.ON_DEMAND,
            None,
            progress=Progress("pulling", 412 << 20, 1900 << 20),
            actions=("stop",),
        ),
    ]


def sample_problems() -> list[Problem]:
    return [
        Problem("port_taken_by", "error", "proxy", {"port": 443, "owner": EVIL}),
        Problem("crash_loop", "error", "ide", {"failures": 5}),
        Problem("disk_nearly_full", "warning", None, {"free_mb": 2150}),
    ]


def sample_machine() -> dict[str, Any]:
    return {
        "cpu_percent": 23.7,
        "load": 0.42,
        "memory_used": 1288 << 20,
        "memory_total": 1998 << 20,
        "swap_used": 96 << 20,
        "swap_total": 2048 << 20,
        "disk_used": 18.4 * (1 << 30),
        "disk_total": 19.6 * (1 << 30),
        "uptime": 1_054_320.0,
    }


def sample_points(span: charts.Span = charts.SPANS["day"]) -> Points:
    """A day with a gap in it and a clock that was set."""
    begin, end = charts.window(span, NOW)
    slots = (end - begin) // span.slot
    known = [None if slots // 3 < n < slots // 2 else float(n % 40 + 1) for n in range(slots)]
    return Points(begin, span.slot, dict.fromkeys(NAMES, known), dict.fromkeys(NAMES, known), [(begin + 7200, 3600.0)])


def sample_charts(t: Translator, specs: Sequence[charts.Spec] = charts.HOME) -> list[charts.Chart]:
    span = charts.SPANS["day"]
    return [charts.chart(spec, sample_points(span), sample_machine(), span, t) for spec in specs]


AGENTS = {
    "firefox": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "safari": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Mobile/15E148 Safari/604.1",
    "edge": "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/141.0 Safari/537.36 Edg/141.0",
}


def sample_session(number: int, agent: str, user: str = "salma@example.org", **changes: Any) -> dict[str, Any]:
    return {
        "id": f"s{number}",
        "user": user,
        "role": "admin",
        "agent": agent,
        "address": f"203.0.113.{number}",
        "created_at": NOW - 7200 * number,
        "seen_at": NOW - 400 * number,
        "expires_in": 3600 * number,
        "remember": False,
        "current": False,
        "ide_sockets": 0,
    } | changes


def sample_lines(count: int = 60) -> list[dict[str, Any]]:
    words = [
        "[info] Session server listening on /run/croft/ide/ide.sock",
        "debug: extension host agent started",
        "[warn] file watcher: polling, inotify limit is low",
        "error: cannot open settings.json: permission denied",
        "حُفظ الملف notes.md في مساحة العمل",
        "[info] " + "a-very-long-word-" * 16,
    ]
    lines = [
        {"at": NOW - count + n, "level": filters.log_level(words[n % 6]), "text": words[n % 6]} for n in range(count)
    ]
    return [*lines, {"at": None, "level": "info", "text": EVIL}, {"at": NOW, "level": "error", "text": EVIL_LINE}]
