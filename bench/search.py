"""SEARCH: finding words in 100,000 messages of conversations, in English and Arabic, as `GET /api/conversations?q=` does it."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path

from measure import Figure

from appliance.assembly_assistant import build_conversations
from appliance.assistant import word_index
from appliance.assistant.conversations import Conversations
from appliance.assistant.messages import MOST_MESSAGES, Role, State
from appliance.settings import Paths, load
from appliance.store import Store, open_store

MESSAGES, EACH, PEOPLE = 100_000, 20, 4
ENGLISH = (  # noqa: SIM905 - one a line they would fill the page
    "the a disk file server error memory container image docker workspace proxy certificate token session message command policy "
    "python function class import return value string number list key write read open close start stop restart install update"
).split()
ARABIC = (  # noqa: SIM905
    "الملف والملف بالملف القرص الخادم خطأ الخطأ ذاكرة الحاوية المكتبة للمكتبة المستخدم مسؤول مسئول الصلاحيات الأمر أوامر السياسة "
    "بايثون دالة قيمة نص رقم قائمة مفتاح اكتب اقرأ افتح أغلق ابدأ أوقف أعد تثبيت تحديث في من على إلى هذا ثم لا"
).split()
# Rare words, common ones, beginnings, both languages, quotes, and nothing at all.
ASKED = (
    "quokka",
    "the",
    "e",
    "disk",
    "dis",
    "ملف",
    "المكتبة",
    "مسئول",
    "ال",
    "error خطأ docker",
    '"disk file"',
    "م",
    "zzz",
    "in the disk file",
)


def searching(rounds: int) -> list[Figure]:
    """The slowest of several kinds of questions, each by the quickest of its rounds: what is slow because the machine was busy is
    quick another time."""
    return asyncio.run(_measure(max(rounds, 5)))


async def _measure(rounds: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="croft-bench-") as folder:
        async with open_store(load(Paths.under(Path(folder)))) as store:
            chats = await build_conversations(store).get()
            await _fill(store, chats)
            took = {asked: [await _once(chats, asked) for _ in range(rounds)] for asked in ASKED}
    best = {asked: min(each) for asked, each in took.items()}
    slowest = max(best, key=best.__getitem__)
    detail = {"slowest question": slowest, **{asked: round(value, 1) for asked, value in best.items()}}
    return [
        Figure(
            "SEARCH",
            "search over 100,000 messages, slowest question, ms",
            50,
            20,
            True,
            best[slowest],
            detail=detail,
        ),
    ]


async def _once(chats: Conversations, asked: str) -> float:
    began = time.perf_counter()
    await chats.search("person0", asked, limit=30)
    return (time.perf_counter() - began) * 1000


async def _fill(store: Store, chats: Conversations) -> None:
    """Conversations of several people, half of each in either language, with one rare word."""
    chance = random.Random(5)  # noqa: S311 - words, not secrets
    for number in range(MESSAGES // EACH):
        owner = f"person{number % PEOPLE}"
        seq = number + 1
        texts = [_text(chance, number, place) for place in range(EACH)]
        indexed = [word_index.columns(Role.USER, State.DONE, text) for text in texts]
        async with store.database.transaction() as tx:
            await tx.execute(
                "INSERT INTO conversations (seq, id, owner, title, created_at, changed_at) VALUES (?, ?, ?, 'title', ?, ?)",
                (seq, f"chat-{seq:016x}", owner, number, number),
            )
            first = seq * MOST_MESSAGES + 1
            await tx.executemany(
                "INSERT INTO messages VALUES (?, ?, ?, NULL, 'user', ?, 'done', '', '{}', '[]', '[]', ?, ?)",
                [
                    (first + n, f"msg-{first + n:016x}", first + n - 1 if n else None, text, n, n)
                    for n, text in enumerate(texts)
                ],
            )
            await tx.executemany(
                "INSERT INTO conversation_words (rowid, owner, words, forms) VALUES (?, ?, ?, ?)",
                [(first + n, owner, *words) for n, words in enumerate(indexed) if words],
            )


def _text(chance: random.Random, number: int, place: int) -> str:
    words = chance.choices(ENGLISH if number % 2 else ARABIC, k=40) + chance.choices(ENGLISH + ARABIC, k=5)
    return " ".join([*words, f"w{chance.randrange(20_000)}", *(["quokka"] if (number, place) == (1000, 3) else [])])
