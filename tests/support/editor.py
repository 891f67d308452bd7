"""An editor for tests: a person before the real one, and a window of it that speaks by hand."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Frame, Page

from support.appliance import Appliance
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
        hello = {"protocol": 1, "window": self.id, "version": "0.1.0", "started": time.time()}
        self.say(type="hello", **(hello | more))
        return await self.hear()

    async def serve(self, answers: Callable[[dict[str, Any]], Any]) -> None:
        """Answer everything that is asked with what ``answers`` gives for it."""
        while (asked := await self.hear()) is not None:
            if asked["type"] == "ask":
                self.say(type="answer", id=asked["id"], ok=answers(asked))


async def connect(path: Path) -> Line:
    sock = socket.socket(socket.AF_UNIX)
    # Blocking: where many knock at once, this waits for room as asyncio's own way in would not.
    await asyncio.to_thread(sock.connect, str(path))
    return Line(*await asyncio.open_unix_connection(sock=sock, limit=4 * 1024 * 1024))
