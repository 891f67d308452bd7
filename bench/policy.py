"""POL: what a verdict costs by the packaged policy, over 100,000 generated lines and over the longest ones somebody could build
to make it slow; pure, in this process."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from measure import Figure

from appliance.commands.language import load
from appliance.commands.lines import judge_line
from appliance.commands.model import Actor
from appliance.commands.policy_text import packaged
from appliance.commands.tokenizer import MOST_CHARACTERS, MOST_WORDS

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
        _built(once),
    ]


def _built(once: Callable[[str], float]) -> Figure:
    """As long as a line may be, of what each part of the judge has most work with."""
    full, words = MOST_CHARACTERS - 20, MOST_WORDS - 10
    units = {
        "paths": ("cat ", "a/b/c/d/e/f/g "), "letters": ("cat ", "é/é/é/é "), "patterns": ("grep x ", "b/c/d "),
        "revisions": ("git log ", "a..b@{0} "), "clusters": ("git log ", "-pwbsMRaz "), "flags": ("git log ", "--format=%h%H "),
        "wrapped": ("env ", "rm -rf x "), "starts": ("find . ", "-exec rm "), "verbs": ("sudo ", "env "),
    }  # fmt: skip
    lines = {
        name: first + unit * min(words // len(unit.split()), full // len(unit)) for name, (first, unit) in units.items()
    }
    lines |= {
        "quotes": "echo " + "''" * (full // 2),
        "escapes": 'echo "' + '\\"' * (full // 2) + '"',
        "hidden": "cat '" + "\u200b" * full + "'",
        "joiners": "git commit -m '" + "می\u200c" * (full // 3) + "'",
        "script": "env 'rm " + "rm /x;" * (full // 6) + "'",
        "repeats": "grep '" + "{1,2}" * 80 + "' a",
        "shell": "rm && " * (full // 6),
    }
    spent = {name: min(once(line) for _ in range(20)) for name, line in lines.items()}
    slowest = max(spent, key=lambda name: spent[name])
    return Figure(
        "POL3",
        "verdict, worst of lines built to be slow, us",
        2000,
        1000,
        True,
        spent[slowest],
        detail={name: spent[name] for name in sorted(spent, key=lambda name: -spent[name])[:4]},
    )


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
