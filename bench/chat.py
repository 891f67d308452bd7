"""CHAT: eight people read answers of the assistant, rendered as they come, against the same engine read directly. FIRST: how long
the very first answer of a fresh daemon keeps others waiting.

The web application runs in a process of its own, over the real store, OpenAI's client and the renderer; its line is as wide as the engine.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from measure import Figure, cpu_seconds, interleave, medians, ratio
from relay_v1 import ENGINE, Way, engine_of

PEOPLE, TOKENS = 8, 400
TESTS = str(Path(__file__).resolve().parents[1] / "tests")

# argv: the engine's port, folder of the tests. Prints the socket's path and a cookie for each person.
APPLICATION = """
import asyncio, json, sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from appliance.assistant.line import Line
from appliance.clock import SystemClock
from appliance.identity.sign_in import Caller
from appliance.identity.users import Role
from support.front import front

async def main():
    async with front(Path(tempfile.mkdtemp(prefix="croft-")), SystemClock()) as door:
        await door.use_endpoint(f"http://127.0.0.1:{sys.argv[1]}/v1", "bench", context=8192)
        await door.desk.change({"ai.person_day": "0"}, "console")
        answers = await door.answering.answers.get()
        answers._asking.line = Line(lambda: 8)
        await door.member("admin")
        cookies = []
        for number in range(8):
            person = await door.users.create(f"p{number}@example.org", f"P{number}", Role.operator, "bench")
            secret, _, _ = await door.links.create(person, "console")
            cookies.append((await door.sign_in.by_link(secret, Caller("192.0.2.1", "bench"), remember=False)).cookie)
        print(json.dumps([str(door.settings.paths.socket("web")), cookies]), flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def eight_answers(rounds: int) -> list[Figure]:
    """CHAT."""
    with engine_of(ENGINE) as engine, _application(engine) as (pid, socket, cookies):
        used: list[float] = []

        def chat() -> float:
            before = cpu_seconds([pid])
            rate = asyncio.run(_rendered(socket, cookies))
            used.append((cpu_seconds([pid]) - before) / (PEOPLE * TOKENS) * 1e6)
            return rate

        found = interleave(
            {
                "direct": lambda: asyncio.run(_direct(Way(engine))),
                "chat": chat,
            },
            rounds,
        )
    detail = {f"{name} tokens/s": value for name, value in medians(found).items()}
    detail["CPU us/token"] = statistics.median(used)
    return [
        Figure("CHAT", "8 answers of 50 tokens/s, rendered: rate / direct", 0.97, 0.99, False,
               ratio(found, "chat", "direct"), detail=detail)
    ]  # fmt: skip


@contextmanager
def _application(engine: int) -> Iterator[tuple[int, str, list[str]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", APPLICATION, str(engine), TESTS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        socket, cookies = json.loads(process.stdout.readline() if process.stdout else "")
        yield process.pid, socket, cookies
    finally:
        process.kill()
        process.wait()


# argv: the socket. Asks for the smallest answer there is every 5 ms until its input ends; prints the longest wait in ms.
OTHERS = """
import select, socket, sys, time
link = socket.socket(socket.AF_UNIX)
link.connect(sys.argv[1])
waits = []
def ask():
    begun = time.perf_counter()
    link.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: croft.localhost\\r\\n\\r\\n")
    if not link.recv(65536).startswith(b"HTTP/1.1 200"):
        raise SystemExit("not an answer")
    waits.append((time.perf_counter() - begun) * 1000)
for _ in range(50):
    ask()
waits.clear()
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    ask()
print(max(waits), len(waits), flush=True)
"""


def first_answer(rounds: int) -> list[Figure]:
    """FIRST. Each round has a daemon of its own, whose first question this is; the same time without a question stands beside it."""
    found, quiet = [], []
    for _ in range(rounds):
        with engine_of(ENGINE) as engine, _application(engine) as (_pid, socket, cookies):
            quiet.append(_longest_wait(socket, lambda: time.sleep(2)))
            found.append(_longest_wait(socket, lambda: asyncio.run(_rendered(socket, cookies[:1]))))
    return [
        Figure("FIRST", "longest wait of others during the first answer of all, ms", 50, 25, True,
               statistics.median(found), detail={"worst round": max(found), "without a question": statistics.median(quiet)})
    ]  # fmt: skip


def _longest_wait(socket: str, meanwhile: Callable[[], object]) -> float:
    others = subprocess.Popen(
        [sys.executable, "-I", "-c", OTHERS, socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        if others.stdout is None or others.stdin is None or others.stdout.readline() != "ready\n":
            raise RuntimeError("the others do not get in")
        meanwhile()
        others.stdin.close()
        return float(others.stdout.readline().split()[0])
    finally:
        others.kill()
        others.wait()


async def _direct(way: Way) -> float:
    return statistics.median(await asyncio.gather(*(_read(way) for _ in range(PEOPLE))))


async def _read(way: Way) -> float:
    """Tokens a second between the first and the last."""
    reader, writer = await asyncio.open_connection("127.0.0.1", way.where, limit=1 << 20)
    writer.write(way.request(TOKENS, 50))
    await reader.readuntil(b'"content"')
    began = time.perf_counter()
    await reader.readuntil(b"[DONE]")
    writer.transport.abort()
    return TOKENS / (time.perf_counter() - began)


async def _rendered(socket: str, cookies: list[str]) -> float:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket, limit=0)) as web:
        return statistics.median(await asyncio.gather(*(_conversation(web, cookie) for cookie in cookies)))


async def _conversation(web: aiohttp.ClientSession, cookie: str) -> float:
    """Tokens a second of one answer, from its first block to its end."""
    sent = {
        "Host": "croft.localhost",
        "Sec-Fetch-Site": "same-origin",
        "Origin": "https://croft.localhost",
        "Cookie": f"__Host-croft={cookie}",
    }
    how: dict[str, Any] = {"headers": sent}
    async with web.post("http://x/api/conversations", json={}, **how) as answer:
        number = (await answer.json())["conversation"]["id"]
    async with web.post(f"http://x/api/conversations/{number}/messages", json={"text": "Go on."}, **how) as answer:
        if answer.status != 201:
            raise RuntimeError(f"not asked: {await answer.text()}")
    began = 0.0
    async with web.get(
        f"http://x/api/conversations/{number}/stream", timeout=aiohttp.ClientTimeout(120), **how
    ) as answer:
        event = ""
        async for line in answer.content:
            if line.startswith(b"event: "):
                event = line[7:].strip().decode()
            if event == "block" and not began:
                began = time.perf_counter()
            if event == "message" and line.startswith(b"data: ") and json.loads(line[6:])["state"] == "done":
                return TOKENS / (time.perf_counter() - began)
    raise RuntimeError("the answer did not end")


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    for figure in (*first_answer(rounds), *eight_answers(rounds)):
        print(figure.id, figure.value, figure.verdict, figure.detail)
