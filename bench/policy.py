"""POL: what a verdict costs, over 100,000 generated lines by the packaged policy; pure, in this process."""

from __future__ import annotations

import gc
import random
import statistics
import time
from pathlib import Path

from measure import Figure

from appliance.commands.language import load
from appliance.commands.lines import judge_line
from appliance.commands.model import Actor
from appliance.commands.policy_text import packaged

CORPUS = Path(__file__).resolve().parents[1] / "tests/commands/corpus"
COUNT = 100_000


def verdicts(rounds: int) -> list[Figure]:
    """Median and worst time of a verdict, microseconds of this thread's processor time (other work does not count)."""
    policy, lines = load(packaged()), list(_lines(COUNT))
    for line in lines[:2000]:
        judge_line(policy, line, Actor.HUMAN, "operator")
    gc.collect()
    gc.freeze()

    def once(line: str) -> float:
        began = time.thread_time_ns()
        judge_line(policy, line, Actor.HUMAN, "operator")
        return (time.thread_time_ns() - began) / 1000

    spent = [once(line) for line in lines]
    # What is slow because the machine was busy is quick the next time; what is slow because of the line stays slow.
    spent = [
        min(time_, *(once(line) for _ in range(3))) if time_ > 300 else time_
        for time_, line in zip(spent, lines, strict=True)
    ]
    gc.unfreeze()
    median, worst = statistics.median(spent), max(spent)
    detail = {"99.9 %, us": sorted(spent)[int(len(spent) * 0.999)]}
    return [
        Figure("POL1", "verdict on a typical line, median, us", 100, 60, True, median, detail=detail),
        Figure("POL2", "verdict, worst of 100,000 lines, us", 1000, 500, True, worst),
    ]


def _lines(count: int) -> list[str]:
    """Ordinary lines and escapes, some with a word more, a word less, or two joined by a pipe."""
    pool = [
        line for name in ("ordinary", "escapes") for line in (CORPUS / f"{name}.txt").read_text("utf-8").splitlines()
    ]
    words = sorted({word for line in pool for word in line.split()})
    chance = random.Random(4)  # noqa: S311 - lines, not secrets
    made = []
    for _ in range(count):
        line, turn = chance.choice(pool), chance.random()
        if turn < 0.2:
            line = f"{line} {chance.choice(words)}"
        elif turn < 0.3:
            line = line.rpartition(" ")[0] or line
        elif turn < 0.4:
            line = f"{line} | {chance.choice(pool)}"
        made.append(line)
    return made
