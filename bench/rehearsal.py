"""TRY: what trying a command first costs over running it: until it has ended, and until its changes are listed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from measure import Figure, NotRun, interleave, medians, ratio

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.accounts import throwaway_accounts
from support.broker import Home, home_folder
from support.rehearsals import let_go, rehearse

FILES = 2000  # in the workspace, none of which is looked at


def trying(rounds: int) -> list[Figure]:
    """`true` in a view, and a change with the list of it, against the same run without a view: as the broker's caller sees it."""
    if os.geteuid():
        raise NotRun("needs root: views without it are made another way")
    with throwaway_accounts("m") as names, home_folder(names) as home:
        home.start()
        for number in range(FILES):
            home.workspace_file(f"file{number}", "x\n")
        ways = {
            "plain": lambda: _ended(home, "plain"),
            "view": lambda: _ended(home, "rehearsal"),
            "listed": lambda: _listed(home),
        }
        found = interleave(ways, rounds * 3)
    detail = {f"{name}, ms": value for name, value in medians(found).items()}
    return [
        Figure("TRY", "true in a view / true", 4, 2.5, True, ratio(found, "view", "plain"), detail=detail),
        Figure("TRY1", "a change tried and listed / true", 10, 6, True, ratio(found, "listed", "plain")),
    ]


def _ended(home: Home, view: str) -> float:
    began = time.perf_counter()
    reply = home.call("spawn", argv=["true"], view=view)
    os.read(reply.fds[1], 1)  # closed at its end
    took = (time.perf_counter() - began) * 1000
    for fd in reply.fds:
        os.close(fd)
    if view != "plain":
        let_go(home, reply.data["run"])
    return took


def _listed(home: Home) -> float:
    began = time.perf_counter()
    rehearse(home, "echo x > file1")
    return (time.perf_counter() - began) * 1000
