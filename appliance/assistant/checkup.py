"""Eight small coding tasks for the model in use, four of them asked in Arabic; each answer is run, and either does it or does not.

Rule: an answer is somebody's program. It runs in a rehearsal (a copy of the workspace, without network or other processes), never
elsewhere, and counts only if a word that it could not know stands at the end of what it printed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from appliance.assistant.client import Client, Question, connected
from appliance.assistant.engine import Engine

Rehearse = Callable[[str], Awaitable[str]]
"""Runs a Python program in a rehearsal and returns what it printed. Raises CroftError where there are no rehearsals."""

MOST_TOKENS = 400
MOST_CODE = 8_000
_BLOCK = re.compile(r"```[a-zA-Z0-9]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Task:
    """``check`` is Python that fails unless the function that was asked for does its work."""

    name: str
    language: str
    asked: str
    check: str


TASKS = (
    Task(
        "vowels",
        "en",
        "Write a Python function count_vowels(text) that returns how many of the letters a, e, i, o, u are in text, "
        "small or capital.",
        "assert count_vowels('Croft Home') == 3 and count_vowels('') == 0",
    ),
    Task(
        "primes",
        "en",
        "Write a Python function primes(n) that returns the list of all prime numbers smaller than n.",
        "assert list(primes(20)) == [2, 3, 5, 7, 11, 13, 17, 19] and list(primes(2)) == []",
    ),
    Task(
        "words",
        "en",
        "Write a Python function frequent(text) that returns the word that occurs most often in text, in small letters. "
        "Words are separated by spaces.",
        "assert frequent('The cat saw the dog and the bird') == 'the'",
    ),
    Task(
        "merge",
        "en",
        "Write a Python function merge(a, b) that takes two sorted lists of numbers and returns one sorted list of all of them.",
        "assert merge([1, 4, 9], [2, 3, 10]) == [1, 2, 3, 4, 9, 10] and merge([], [1]) == [1]",
    ),
    Task(
        "reverse",
        "ar",
        "اكتب دالة بايثون باسم reverse_words(text) تعيد كلمات النص نفسها بترتيب معكوس وبين كل كلمتين مسافة واحدة.",
        "assert reverse_words('one two three') == 'three two one'",
    ),
    Task(
        "even",
        "ar",
        "اكتب دالة بايثون باسم even_sum(numbers) تعيد مجموع الأعداد الزوجية في القائمة numbers.",
        "assert even_sum([1, 2, 3, 4, 10]) == 16 and even_sum([]) == 0",
    ),
    Task(
        "palindrome",
        "ar",
        "اكتب دالة بايثون باسم is_palindrome(text) تعيد True إذا كان النص يُقرأ من الجهتين على حد سواء، وتتجاهل المسافات "
        "وحالة الأحرف، وإلا تعيد False.",
        "assert is_palindrome('Never odd or even') is True and is_palindrome('croft') is False",
    ),
    Task(
        "temperature",
        "ar",
        "اكتب دالة بايثون باسم to_celsius(f) تحوّل درجة الحرارة من فهرنهايت إلى مئوية وتعيدها عددًا مقرَّبًا إلى منزلة عشرية واحدة.",
        "assert to_celsius(212) == 100.0 and to_celsius(100) == 37.8",
    ),
)
_RULES = "Answer with one Python code block and nothing else. Do not read input, print anything or use the network."


async def check(engine: Engine, rehearse: Rehearse, report: Callable[[int, int], None]) -> dict[str, Any]:
    """``{"passed", "total", "tasks": {name: bool}}``. ``report`` is told how many are done. Raises CroftError."""
    done: dict[str, bool] = {}
    async with engine.hold("check") as upstream, connected(upstream) as client:
        for number, task in enumerate(TASKS):
            report(number, len(TASKS))
            done[task.name] = await _passes(client, rehearse, task)
    report(len(TASKS), len(TASKS))
    return {"passed": sum(done.values()), "total": len(TASKS), "tasks": done}


async def _passes(client: Client, rehearse: Rehearse, task: Task) -> bool:
    said, _ = await client.whole(
        Question(
            [{"role": "system", "content": _RULES}, {"role": "user", "content": task.asked}],
            MOST_TOKENS,
            temperature=0.0,
        )
    )
    code = code_in(said)
    if not code:
        return False
    word = secrets.token_hex(8)
    printed = await rehearse(f"{code}\n\n{task.check}\nprint({word!r})\n")
    return printed.rstrip().endswith(word)


def code_in(answer: str) -> str:
    """The first code block of an answer; a whole answer without any that looks like a function; '' otherwise."""
    found = _BLOCK.search(answer)
    code = found[1] if found else answer if answer.lstrip().startswith(("def ", "import ", "from ")) else ""
    return code if len(code) <= MOST_CODE else ""
