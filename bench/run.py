"""`make bench`: measure what can be measured here, print a table, write JSON into bench/results/.

    python bench/run.py [--only A1,F1] [--rounds 7] [--list]

Needs Caddy, wrk and, for most items, CROFT_TEST_IDE naming a folder with code-server. What cannot be measured is
listed with the reason, never guessed.
"""

from __future__ import annotations

import argparse
import compileall
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import chat  # noqa: E402
import commands  # noqa: E402
import editor  # noqa: E402
import footprint  # noqa: E402
import forward_auth  # noqa: E402
import pages  # noqa: E402
import policy  # noqa: E402
import rehearsal  # noqa: E402
import relay  # noqa: E402
import relay_v1  # noqa: E402
import running  # noqa: E402
import search  # noqa: E402
from measure import Figure, NotRun, save  # noqa: E402


@dataclass(frozen=True)
class Item:
    """One measurement of one or more figures. ``goals``: id, what, must, stretch, at_most of each, if it cannot run."""

    run: Callable[[int], list[Figure]]
    goals: tuple[tuple[str, str, float, float, bool], ...]


ITEMS = (
    Item(
        forward_auth.decisions,
        (
            ("A1", "protected route, c=32: daemon / Caddy answering itself", 0.90, 1.0, False),
            ("A3", "daemon CPU per decision / Caddy CPU per unchecked request", 0.20, 0.12, True),
        ),
    ),
    Item(forward_auth.workbench, (("A4", "workbench page, c=6: with sign-in / without", 0.93, 0.97, False),)),
    Item(forward_auth.after_sign_out, (("A5", "requests let through after sign-out returned", 0, 0, True),)),
    Item(
        footprint.against_jupyterhub,
        (
            ("F1", "idle daemon PSS / JupyterHub with its proxy", 0.30, 0.24, True),
            ("F1b", "broker PSS, MB", 15, 13, True),
            ("F2", "start to first 200 / JupyterHub", 0.13, 0.09, True),
        ),
    ),
    Item(footprint.broker_with_containers, (("F1c", "broker PSS, MB, docker runtime", 15, 13, True),)),
    Item(footprint.idle_cpu, (("F3", "idle CPU of daemon and broker / Netdata at 1 s", 0.20, 0.05, True),)),
    Item(
        footprint.whole_appliance,
        (("F4", "whole appliance without a model, PSS / Open WebUI alone", 0.50, 0.45, True),),
    ),
    Item(
        policy.verdicts,
        (
            ("POL1", "verdict on a typical line, median, us", 100, 60, True),
            ("POL2", "verdict, worst of 100,000 lines, us", 1000, 500, True),
        ),
    ),
    Item(commands.spawn, (("C4", "start of a command, p50: 400 MB daemon / small one", 1.2, 1.05, True),)),
    Item(
        running.one_command,
        (
            ("C1", "HTTP call that runs true / subprocess.run and two synced writes", 1.6, 1.3, True),
            ("C2", "the same / a new ssh connection", 1 / 140, 1 / 180, True),
        ),
    ),
    Item(
        rehearsal.trying,
        (
            ("TRY", "true in a view / true", 4, 2.5, True),
            ("TRY1", "a change tried and listed / true", 10, 6, True),
        ),
    ),
    Item(
        running.streaming,
        (
            ("C5", "streamed bytes / cmd | cat", 0.45, 0.60, False),
            ("C5b", "lines of a million / one event a line", 60, 100, False),
            ("C5c", "daemon memory grown while 1 GB is thrown away, MB", 5, 1, True),
        ),
    ),
    Item(
        editor.opening,
        (
            ("OPEN", "click to file tree, editor awake, seconds", 2.0, 1.5, True),
            ("OPEN1", "the same / code-server behind a plain Caddy", 1.1, 1.0, True),
            ("AGAIN", "unchanging files fetched again on a second visit", 0, 0, True),
            ("SLEEP", "click to file tree, editor asleep, seconds", 6.0, 4.0, True),
            ("SHOWN", "click to a progress page, editor asleep, seconds", 0.2, 0.1, True),
        ),
    ),
    Item(
        pages.pages,
        (
            ("PAGE", "heaviest page with its assets, compressed, kB", 100, 80, True),
            ("SERVER", "slowest page, server time, median ms", 15, 8, True),
            ("LOAD", "slowest page, first load in Chromium on loopback, ms", 300, 200, True),
        ),
    ),
    Item(
        pages.dashboards,
        (
            ("DASH", "50 open dashboards, CPU of the daemon, % of a core", 5, 2, True),
            ("DASHMB", "50 open dashboards, memory they add, MB", 20, 10, True),
        ),
    ),
    Item(search.searching, (("SEARCH", "search over 100,000 messages, slowest question, ms", 50, 20, True),)),
    Item(pages.sample, (("S2", "one look at the machine / psutil's seven calls", 0.20, 0.13, True),)),
    Item(chat.eight_answers, (("CHAT", "8 answers of 50 tokens/s, rendered: rate / direct", 0.97, 0.99, False),)),
    Item(chat.first_answer, (("FIRST", "longest wait of others during the first answer of all, ms", 50, 25, True),)),
    Item(
        relay_v1.cpu,
        (
            ("R1", "/v1, CPU per token / a relay with OpenAI's client", 0.13, 0.09, True),
            ("R1b", "the same / Caddy with forward_auth", 1.2, 0.9, True),
        ),
    ),
    Item(
        relay_v1.waiting,
        (
            ("R2", "/v1, added time to first token, 1 stream / a relay with OpenAI's client", 0.30, 0.18, True),
            ("R2b", "the same / LiteLLM", 0.05, 0.03, True),
            ("R3", "/v1, added time to first token, 32 streams / a relay with OpenAI's client", 0.15, 0.10, True),
            ("R3b", "the same / LiteLLM", 0.025, 0.015, True),
        ),
    ),
    Item(
        relay_v1.through_everything,
        (("R4", "llama.cpp events/s through Caddy and /v1 / direct, 8 streams", 0.85, 0.92, False),),
    ),
    Item(
        relay_v1.beside_litellm,
        (
            ("R5", "daemon after relaying, PSS / LiteLLM proxy", 0.17, 0.13, True),
            ("R5b", "start to the first answer, broker included / LiteLLM proxy", 0.07, 0.045, True),
        ),
    ),
    Item(relay.echo, (("RELAY", "WebSocket echo through Caddy and relay, added ms, p50", 1.0, 0.5, True),)),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="ids separated by commas")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--list", action="store_true", help="print the ids and goals only")
    options = parser.parse_args()
    wanted = {name.strip().upper() for name in options.only.split(",") if name.strip()}
    figures: list[Figure] = []
    # An installation has its bytecode; what a checkout happens to have lying about would be measured instead.
    for room in ("appliance", "webui", "control_sync"):
        compileall.compile_dir(HERE.parent / room, quiet=1)
    for item in ITEMS:
        ids = {goal[0].upper() for goal in item.goals}
        if wanted and not wanted & ids:
            continue
        figures += (
            [Figure(*goal, why="only listed") for goal in item.goals] if options.list else measure(item, options.rounds)
        )
    table(figures)
    if not options.list:
        path = HERE / "results" / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
        save(path, figures, facts(options.rounds))
        print(f"\nwritten to {path.relative_to(HERE.parent)}")
    return 1 if any(figure.verdict == "MISSED" for figure in figures) else 0


def measure(item: Item, rounds: int) -> list[Figure]:
    names, began = ", ".join(goal[0] for goal in item.goals), time.monotonic()
    # Every figure drowns in other work: two cores with a load of ten measure the scheduler.
    print(f"measuring {names} (load {os.getloadavg()[0]:.1f}) ...", file=sys.stderr, flush=True)
    try:
        figures = item.run(rounds)
    except NotRun as reason:
        return [Figure(*goal, why=str(reason)) for goal in item.goals]
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return [Figure(*goal, why=f"failed: {error}") for goal in item.goals]
    print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr)
    return figures


def _shown(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def table(figures: list[Figure]) -> None:
    print(f"{'id':<6} {'value':>8} {'must':>8} {'stretch':>8}  verdict  what")
    for figure in figures:
        sign = "<=" if figure.at_most else ">="
        value = "-" if figure.value is None else f"{figure.value:.3f}"
        goals = f"{sign}{figure.must:>6g} {sign}{figure.stretch:>6g}"
        print(f"{figure.id:<6} {value:>8} {goals}  {figure.verdict:<8} {figure.what}")
        if figure.detail:
            print("       " + ", ".join(f"{name} {_shown(value)}" for name, value in figure.detail.items()))


def facts(rounds: int) -> dict[str, object]:
    return {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
        "rounds": rounds,
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


if __name__ == "__main__":
    sys.exit(main())
