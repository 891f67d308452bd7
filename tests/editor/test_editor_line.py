"""The daemon's end of the line: what a window may say, whose it is, and what hostile programs of the workspace gain (nothing)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.editor import Line, connect, process_of_its_own
from support.front import Front, front
from support.waiting import until

from appliance.assembly import problems_of
from appliance.assembly_assistant import EDITOR_LINE_MAX, EDITOR_PLACES
from appliance.assistant.door import Door
from appliance.identity.sessions import Session
from appliance.sockets import listen

COUNTS = {"lines": 3, "line": 1, "selected": 4, "errors": 1, "warnings": 0}
FILE = {"path": "a.py", "language": "python", "dirty": False, **COUNTS}
CHIP = {"kind": "file", "path": "a.py", "language": "python", "text": "x = 1\n", "truncated": False, "from": 1, "to": 2}


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Front]:
    async with front(tmp_path) as running:
        yield running


def editor_socket(made: Front) -> Path:
    return made.settings.paths.run / "editor/editor.sock"


async def answer(made: Front, cookie: str, method: str, url: str, **body: Any) -> tuple[int, Any]:
    how = {"json": body} if body else {}
    async with made.ask(method, url, cookie, **how) as response:
        return response.status, await response.json()


@asynccontextmanager
async def window(made: Front, **greeting: Any) -> AsyncIterator[Line]:
    line = await connect(editor_socket(made))
    try:
        welcome = await line.greet(**greeting)
        assert welcome is not None
        assert welcome["type"] == "welcome"
        yield line
    finally:
        line.writer.close()


@asynccontextmanager
async def answering(line: Line, answers: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(line.serve(answers))
    try:
        yield
    finally:
        task.cancel()


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def is_ended(line: Line) -> bool:
    """Whether the daemon hangs up."""
    while await line.hear() is not None:
        continue
    return True


async def test_pages_see_state_and_get_texts_only_when_they_ask(made: Front) -> None:
    _, cookie = await made.sign_in_as("operator")
    assert await answer(made, cookie, "GET", "/api/editor") == (
        200,
        {"editor": {"windows": [], "asked": None, "diffs": []}},
    )
    async with window(made) as line:
        line.say(type="state", focused=True, file=FILE)

        async def shown() -> dict[str, Any]:
            return (await answer(made, cookie, "GET", "/api/editor"))[1]["editor"]["windows"][0]

        await until(lambda: made.editors.made and made.editors.made.windows("x")[0].state.file, "the state arrived")
        assert (await shown()) == {
            "id": line.id,
            "mine": False,
            "active_at": made.clock.now(),
            "focused": True,
            "file": FILE,
        }
        async with answering(line, lambda asked: {"chips": [CHIP]}):
            status, got = await answer(made, cookie, "POST", "/api/editor/context", kinds=["file"])
        assert (status, got["chips"][0]["text"]) == (200, "x = 1\n")
        assert got["chips"][0]["tokens"] >= 1


async def test_a_window_of_before_an_update_is_a_known_problem_until_it_has_gone(made: Front) -> None:
    def told() -> list[str]:
        assert made.editors.made is not None
        return [one.code for one in problems_of(made.monitor, made.mailer, old_window=made.editors.made.outdated())]

    async with window(made):
        assert told() == []
        async with window(made, version="0.0.9"):
            assert told() == ["editor_outdated"]
        await until(lambda: told() == [], "the old one is gone")


async def test_without_a_window_and_with_a_silent_one_the_answer_says_so(made: Front) -> None:
    _, cookie = await made.sign_in_as("operator")
    status, got = await answer(made, cookie, "POST", "/api/editor/insert", text="x")
    assert (status, got["error"]["code"]) == (409, "editor_away")
    async with window(made):
        status, got = await answer(made, cookie, "POST", "/api/editor/insert", text="x")
        assert (status, got["error"]["code"]) == (503, "editor_silent")
        made.clock.advance(-60)  # so that the next one is the one worked in before
        async with window(made) as lively, answering(lively, lambda asked: {"path": "a", "line": 1}):
            assert (await answer(made, cookie, "POST", "/api/editor/insert", text="x"))[0] == 200


async def test_a_window_that_ends_while_it_is_asked_ends_the_waiting(made: Front) -> None:
    _, cookie = await made.sign_in_as("operator")
    async with window(made) as line:
        asking = asyncio.create_task(answer(made, cookie, "POST", "/api/editor/insert", text="x"))
        assert (await line.hear() or {})["op"] == "insert"
    assert (await asyncio.wait_for(asking, 3))[1]["error"]["code"] == "editor_away"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b", ".", "", "a/./b", "nul\0"])
async def test_only_paths_of_the_workspace_are_opened_or_proposed(made: Front, path: str) -> None:
    """AI-8: by their letters, before the editor hears of them."""
    _, cookie = await made.sign_in_as("operator")
    async with window(made):
        for act, more in (("open", {}), ("diff", {"text": "x"})):
            status, got = await answer(made, cookie, "POST", f"/api/editor/{act}", path=path, **more)
            assert (status, got["error"]["code"]) == (400, "invalid")


async def test_a_viewer_learns_nothing_and_a_token_gets_in_nowhere(made: Front) -> None:
    """DECIDED 18"""
    _, cookie = await made.sign_in_as("viewer")
    async with window(made) as line:
        line.say(type="state", focused=True, file=FILE)
        assert (await answer(made, cookie, "GET", "/api/editor"))[0] == 403
        async with made.ask("GET", "/api/events?topics=editor", cookie) as stream:
            while not (event := await stream.content.readline()).startswith(b"data:"):
                continue
        assert json.loads(event[5:]) == {"windows": [], "asked": None, "diffs": []}


async def test_windows_belong_to_the_person_whose_browser_opened_them(made: Front) -> None:
    """Two people at once: each page has its own person's windows, and questions reach only the one who asked."""
    first, one = await made.sign_in_as("operator")
    second, two = await made.sign_in_as("admin")
    path = editor_socket(made)
    async with process_of_its_own(path) as (mine, pid), process_of_its_own(path) as (theirs, other):
        await mine.greet()
        await theirs.greet()
        browsers(made, {pid: first, other: second})
        rows = (await answer(made, one, "GET", "/api/editor"))[1]["editor"]["windows"]
        assert [(row["id"], row["mine"]) for row in rows] == [(mine.id, True)]
        mine.say(type="state", focused=True, file=FILE)
        mine.say(type="asked", kind="selection")
        heard = await mine.hear()
        assert heard == {"type": "heard", "whose": True, "page": False}
        asked = (await answer(made, one, "GET", "/api/editor"))[1]["editor"]["asked"]
        assert (asked["kind"], asked["window"], asked["path"]) == ("selection", mine.id, "a.py")
        assert (await answer(made, two, "GET", "/api/editor"))[1]["editor"]["asked"] is None
        status, got = await answer(made, two, "POST", "/api/editor/insert", text="x", window=mine.id)
        assert (status, got["error"]["code"]) == (409, "editor_away"), "not in another person's window"
        # A program that serves no browser is nobody's, while two people are here.
        async with window(made) as nobodys:
            nobodys.say(type="asked", kind="show")
            assert (await nobodys.hear() or {})["whose"] is False
        # Closed in the browser, it lives on for a while: still nobody else's.
        editors = await made.editors.get()
        await until(lambda: len(editors.windows(second.user.id)) == 1, "nobody's is gone")
        browsers(made, {other: second})
        rows = (await answer(made, two, "GET", "/api/editor"))[1]["editor"]["windows"]
        assert [row["id"] for row in rows] == [theirs.id]
    made.relay._open.clear()


class Browser:
    """An open socket of a window, as the relay keeps it."""

    def __init__(self, writer: int) -> None:
        self.writer = writer

    def cut(self) -> None:
        """Nothing: there is no socket."""


def browsers(made: Front, served: dict[int, Session]) -> None:
    """Open sockets by the process that serves each. (That the relay finds it out is tested with the real editor.)"""
    made.relay._open.clear()
    for pid, session in served.items():
        made.relay._open.setdefault(session.id, set()).add(Browser(pid))  # type: ignore[arg-type]
        made.relay._sessions[session.id] = session


async def test_a_window_speaks_its_persons_language(made: Front) -> None:
    session, _ = await made.sign_in_as("operator")
    await made.users.prefer(session.user, language="ar")
    browsers(made, {os.getpid(): made.sessions.get(session.id)})
    line = await connect(editor_socket(made))
    welcome = await line.greet() or {}
    line.writer.close()
    made.relay._open.clear()
    assert welcome["language"] == "ar"
    assert welcome["workspace"] == str(made.settings.paths.workspace)
    assert welcome["page"] == f"{made.settings.ui_origin}/assistant"


async def test_typing_keeps_a_session_alive_once_a_minute(made: Front) -> None:
    """DECIDED 14, AUTH-8"""
    session, _ = await made.sign_in_as("operator")
    browsers(made, {os.getpid(): session})
    async with window(made) as line:
        line.say(type="asked", kind="show")
        await line.hear()
        made.relay._open.clear()
        before = session.active
        made.clock.advance(120)
        line.say(type="active")
        line.say(type="asked", kind="show")
        await line.hear()
        assert session.active == before, "no browser of theirs has the editor open"
        browsers(made, {os.getpid(): session})
        made.clock.advance(120)
        before = session.active
        line.say(type="active")
        await until(lambda: session.active > before, "counted")
        before = session.active
        made.clock.advance(10)
        line.say(type="active")
        line.say(type="asked", kind="show")
        await line.hear()
        assert session.active == before, "not again within the minute"
        made.relay._open.clear()
        await made.sessions.end([session], "test", "test")
        browsers(made, {os.getpid(): session})
        made.clock.advance(120)
        line.say(type="active")
        line.say(type="asked", kind="show")
        assert await line.hear() is not None, "a session that has ended is nobody's trouble"
        made.relay._open.clear()


GREETING = {"type": "hello", "protocol": 1, "window": "0" * 32, "version": "1"}
GARBAGE = [
    b"\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\xff\xfe\x00\n",
    b"[" * 20000 + b"\n",
    b'{"type":"state","focused":true,"file":null}\n',
    json.dumps(GREETING | {"window": "../../etc"}).encode() + b"\n",
    json.dumps(GREETING | {"version": 1}).encode() + b"\n",
    json.dumps(GREETING | {"version": "v" * 65}).encode() + b"\n",
    b'{"type":"hello","type":"hello"}\n',
    b"x" * (2 * EDITOR_LINE_MAX),
]


@pytest.mark.parametrize("said", GARBAGE, ids=range(len(GARBAGE)))
async def test_a_wrong_first_line_ends_the_line(made: Front, said: bytes) -> None:
    line = await connect(editor_socket(made))
    line.writer.write(said)
    assert await is_ended(line)
    line.writer.close()
    assert made.editors.made is not None
    assert made.editors.made.windows("x") == []


@pytest.mark.parametrize(
    "said",
    [
        {"type": "hello", **GREETING},
        {"type": "ask", "id": 1, "op": "insert"},
        {"type": "asked", "kind": "everything"},
        {"type": "state", "focused": 1, "file": None},
        {"type": "state", "focused": True, "file": FILE | {"path": "p" * 5000}},
        {"type": "state", "focused": True, "file": FILE | {"lines": -1}},
        {"type": "state", "focused": True, "file": FILE | {"lines": 1e300}},
        {"type": "decided", "diff": "x", "state": "accepted"},
        {"type": "answer", "id": "1", "ok": {}},
        {"type": "answer", "id": 1, "error": "e" * 100},
    ],
)
async def test_a_wrong_line_later_ends_it_too_and_nothing_stays(made: Front, said: dict[str, Any]) -> None:
    line = await connect(editor_socket(made))
    await line.greet()
    line.say(**said)
    assert await is_ended(line)
    line.writer.close()
    await until(lambda: made.editors.made and not made.editors.made.windows("x"), "the window is forgotten")


async def test_answers_nobody_asked_for_and_answers_of_another_shape_are_refusals(made: Front) -> None:
    _, cookie = await made.sign_in_as("operator")
    wrong: list[Any] = [
        {},
        [],
        None,
        "x",
        {"chips": [CHIP] * 5},
        {"chips": [CHIP | {"kind": "passwd"}]},
        {"chips": [CHIP | {"text": "t" * 200_000}]},
    ]
    async with window(made) as line:
        line.say(type="answer", id=77, ok={"chips": []})
        for shape in wrong:
            async with answering(line, lambda asked, shape=shape: shape):
                status, got = await answer(made, cookie, "POST", "/api/editor/context", kinds=["file"])
            assert (status, got["error"]["code"]) == (409, "editor_failed")


async def test_a_window_cannot_put_words_into_our_mouth(made: Front) -> None:
    _, cookie = await made.sign_in_as("operator")
    async with window(made) as line:
        asking = asyncio.create_task(answer(made, cookie, "POST", "/api/editor/insert", text="x"))
        asked = await line.hear() or {}
        line.say(type="answer", id=asked["id"], error="<b>call 555</b>")
        assert (await asking)[1]["error"]["code"] == "editor_failed"


async def test_too_many_lines_a_second_end_the_line(made: Front) -> None:
    line = await connect(editor_socket(made))
    await line.greet()
    for _ in range(300):
        line.say(type="active")
    assert await is_ended(line)
    line.writer.close()


async def test_a_line_that_says_nothing_is_ended(made: Front) -> None:
    line = await connect(editor_socket(made))
    line.writer.write(b'{"type":"hel')
    assert await is_ended(line)
    line.writer.close()


async def test_a_window_that_never_reads_is_let_go(made: Front) -> None:
    _, cookie = await made.sign_in_as("operator")
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(str(editor_socket(made)))
    raw.sendall(json.dumps(GREETING).encode() + b"\n")
    await until(lambda: made.editors.made and made.editors.made.windows("x"), "it is there")
    asking = [
        asyncio.create_task(answer(made, cookie, "POST", "/api/editor/diff", path="a", text="x" * 500_000))
        for _ in range(8)
    ]
    codes = {(await each)[1]["error"]["code"] for each in asking}
    assert codes <= {"editor_away", "editor_silent", "too_many_requests"}
    await until(lambda: made.editors.made and not made.editors.made.windows("x"), "let go")
    raw.close()


async def test_a_hundred_connections_leave_the_pages_alone(made: Front) -> None:
    """WEB-16: no more are taken than there are places; those who wait cost nothing, and the next one gets in when one leaves."""
    _, cookie = await made.sign_in_as("operator")
    crowd = []
    for _ in range(EDITOR_PLACES):
        line = await connect(editor_socket(made))
        assert (await line.greet() or {})["type"] == "welcome"
        crowd.append(line)
    before = descriptors()
    waiting = []
    for _ in range(100):
        raw = socket.socket(socket.AF_UNIX)
        raw.setblocking(False)
        raw.connect_ex(str(editor_socket(made)))
        waiting.append(raw)
    assert (await answer(made, cookie, "GET", "/api/me"))[0] == 200
    assert descriptors() <= before + 100 + 8, "only this test's own ends are open"
    for raw in waiting:
        raw.close()
    for line in crowd:
        line.writer.close()
    await until(lambda: made.editors.made and not made.editors.made.windows("x"), "all are gone")
    async with window(made):
        assert made.editors.made is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_only_the_workspaces_account_is_let_in(tmp_path: Path) -> None:
    """The kernel says who it is; anybody else is turned away before a byte is read."""
    served: list[bool] = []

    async def behind() -> asyncio.Protocol:
        served.append(True)
        return asyncio.Protocol()

    path = tmp_path / "door.sock"
    door = asyncio.create_task(Door(listen(path, 0o666), 12345, 4, behind).run())
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'x'); print(s.recv(1))"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, path], capture_output=True, text=True, check=False, timeout=10
    )
    assert done.stdout.strip() == "b''" or done.stderr.strip().split("\n")[-1].startswith(
        ("BrokenPipe", "ConnectionReset")
    )
    assert served == []
    door.cancel()
    await asyncio.gather(door, return_exceptions=True)


async def test_terminals_reach_the_model_and_nothing_else(made: Front) -> None:
    """NET-2: what is behind v1.sock is /v1 alone, whoever the path or the headers claim to be."""
    reader, writer = await asyncio.open_unix_connection(str(made.settings.paths.run / "editor/v1.sock"))
    for path, status in (("/v1/models", b"200"), ("/api/me", b"404"), ("/", b"404"), ("/v1/../api/users", b"404")):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: croft.localhost\r\nX-Croft-User: admin\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.split(b" ")[1] == status, path
        length = int(
            next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split(b":")[1]
        )
        await reader.readexactly(length)
    writer.close()
