"""What the first question costs everybody else: nothing that they notice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]

# In a process of its own: what was imported once cannot be imported for the first time again.
PROBE = """
import asyncio, sys, time
from pathlib import Path
from support.front import front
from support.scripted_engine import OverHttp, Say, scripted_engine
from support.talk import Talk

async def probe(lags):
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.002)
        lags.append(time.perf_counter() - before - 0.002)

async def main(folder):
    async with scripted_engine(socket=folder / "engine.sock") as engine, front(folder / "home", engine=OverHttp(engine)) as door:
        talk = Talk(door, (await door.sign_in_as("operator"))[1])
        conversation = await talk.begin()
        async with talk.reading(conversation) as reader:  # a page is open
            assert "openai" not in sys.modules and "httpx2" not in sys.modules
            lags = []
            task = asyncio.create_task(probe(lags))
            engine.script(Say("word " * 40, 50))
            answer = await talk.ask(conversation, "Hello")
            assert await reader.over(answer, 60) == "done"
            task.cancel()
        assert "openai" in sys.modules
        lags.sort()
        print(f"{lags[-1] * 1000:.1f}")

asyncio.run(main(Path(sys.argv[1])))
"""


def test_the_first_question_stalls_nobody(tmp_path: Path) -> None:
    """The figure of issue 5: imports happen off the loop; no other request waits more than 50 ms. The best of three tries counts,
    since a busy machine delays any loop."""
    found = []
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", PROBE, str(folder)],
            cwd=TESTS,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(float(done.stdout))
        if found[-1] <= 50:
            break
    assert min(found) <= 50, found
