"""An editor for tests: a person before the real one, and a window of it that speaks by hand."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Frame, Page

from support.appliance import Appliance
from support.browser import editor_frame, person, sign_in
from support.journey import run_command
from support.waiting import poll


@dataclass
class Seat:
    """A person before the workspace page, with the editor in its frame."""

    appliance: Appliance
    page: Page
    frame: Frame

    @property
    def workspace(self) -> Path:
        return self.appliance.paths.workspace

    def file(self, name: str, text: str) -> Path:
        """A file of the workspace that the editor's account may write."""
        path = self.workspace / name
        path.write_text(text)
        path.chmod(0o666)
        return path

    def ask(self, method: str, url: str, **body: Any) -> tuple[int, Any]:
        """What the page itself would send: (status, answer)."""
        return tuple(
            self.page.evaluate(
                """async ([method, path, body]) => {
                    const headers = { "Content-Type": "application/json" };
                    const how = method === "GET" ? {} : { headers, body: JSON.stringify(body) };
                    const answer = await fetch(path, { method, ...how });
                    return [answer.status, await answer.json()];
                }""",
                [method, url, body],
            )
        )

    def done(self, url: str, **body: Any) -> Any:
        status, answer = self.ask("POST", url, **body)
        assert status in (200, 201), answer
        return answer

    def editor(self) -> dict[str, Any]:
        status, answer = self.ask("GET", "/api/editor")
        assert status == 200
        return answer["editor"]

    def front(self) -> dict[str, Any] | None:
        """The file in front of this person's window."""
        windows = self.editor()["windows"]
        return windows[0]["file"] if windows else None

    def window_is_there(self) -> bool:
        return any(row["mine"] for row in self.editor()["windows"])

    def open(self, path: str, line: int = 1, column: int = 1) -> None:
        self.done("/api/editor/open", path=path, line=line, column=column)
        poll(lambda: (file := self.front()) and (file["path"], file["line"]) == (path, line), f"{path} is in front", 30)

    def command(self, words: str) -> None:
        """Run a command of the palette, wherever the keys went before."""
        self.page.locator(".editor iframe").focus()
        run_command(self.page, self.frame, words)


@contextmanager
def seat_at(appliance: Appliance, browser: Browser) -> Iterator[Seat]:
    """The owner signs in and opens the workspace; the extension has greeted."""
    context = person(browser)
    page = context.new_page()
    sign_in(page, appliance.croft("login-link")["url"])
    page.goto(f"{appliance.url}/workspace")
    made = Seat(appliance, page, editor_frame(page))
    poll(made.window_is_there, "the extension has greeted", 40)
    yield made
    context.close()


def two_people_at_once(seat: Seat, browser: Browser) -> None:
    """A second person, and windows of both opened at the same moment: each page has its own person's, and what is sent to one lands
    in that one's file alone."""
    appliance = seat.appliance
    appliance.control.call("POST", "/api/users", {"email": "nur@example.org", "name": "Nur", "role": "operator"})
    context = person(browser)
    page = context.new_page()
    sign_in(page, appliance.croft("login-link", "nur@example.org")["url"])
    for each in (seat.page, page):
        each.goto(f"{appliance.url}/workspace", wait_until="commit")
    seat.frame, other = editor_frame(seat.page), Seat(appliance, page, editor_frame(page))
    mine, theirs = (
        poll(lambda one=one: {row["id"] for row in one.editor()["windows"] if row["mine"]}, "a window is known", 40)
        for one in (seat, other)
    )
    assert mine
    assert not mine & theirs
    seat.file("hers.txt", "")
    seat.file("his.txt", "")
    seat.open("hers.txt")
    other.open("his.txt")
    assert seat.front()["path"] == "hers.txt"
    assert all(row["mine"] for one in (seat, other) for row in one.editor()["windows"])
    other.done("/api/editor/insert", text="for him")
    poll(lambda: (seat.workspace / "his.txt").read_text() == "for him", "it is in his window's file")
    assert (seat.workspace / "hers.txt").read_text() == ""
    context.close()


class Line:
    """A window's end of the line, spoken by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.id = secrets.token_hex(16)

    def say(self, **message: Any) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def hear(self) -> dict[str, Any] | None:
        """The next message, None at the end."""
        try:
            line = await asyncio.wait_for(self.reader.readline(), 10)
        except ConnectionResetError:
            return None
        return json.loads(line) if line else None

    async def greet(self, **more: Any) -> dict[str, Any] | None:
        hello = {"protocol": 1, "window": self.id, "version": "0.1.0"}
        self.say(type="hello", **(hello | more))
        return await self.hear()

    async def serve(self, answers: Callable[[dict[str, Any]], Any]) -> None:
        """Answer everything that is asked with what ``answers`` gives for it."""
        while (asked := await self.hear()) is not None:
            if asked["type"] == "ask":
                self.say(type="answer", id=asked["id"], ok=answers(asked))


# Connects, hands the connection over, and lives on as the process that it is of. argv: the socket.
PROCESS = """
import socket, sys
window, test = socket.socket(socket.AF_UNIX), socket.socket(fileno=0)
window.connect(sys.argv[1])
socket.send_fds(test, [b"x"], [window.fileno()])
test.recv(1)
"""


@asynccontextmanager
async def process_of_its_own(path: Path) -> AsyncIterator[tuple[Line, int]]:
    """A line whose other end is a process of its own, as each window's is, and its pid."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-c", PROCESS, str(path), stdin=theirs)
        _, (number,), _, _ = await asyncio.to_thread(socket.recv_fds, ours, 1, 1)
        line = Line(*await asyncio.open_unix_connection(sock=socket.socket(fileno=number)))
        try:
            yield line, process.pid
        finally:
            line.writer.close()
    await process.wait()


async def connect(path: Path) -> Line:
    sock = socket.socket(socket.AF_UNIX)
    # Blocking: where many knock at once, this waits for room as asyncio's own way in would not.
    await asyncio.to_thread(sock.connect, str(path))
    return Line(*await asyncio.open_unix_connection(sock=sock, limit=4 * 1024 * 1024))
