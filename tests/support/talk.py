"""Talking to the assistant over HTTP as its pages do: questions, the stream of an answer, decisions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from support.front import Front


class Reader:
    """What one reader of a conversation's stream has been told so far; ``turns`` are its blocks put together."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.blocks: dict[str, dict[int, str]] = {}
        self.states: dict[str, str] = {}
        self.usage: dict[str, dict[str, Any]] = {}
        self.steps: dict[int, dict[str, Any]] = {}
        self.proposals: dict[str, dict[str, Any]] = {}
        self.last_id = ""
        self._stirred = asyncio.Event()

    def take(self, name: str, data: dict[str, Any]) -> None:
        self.events.append((name, data))
        if name == "block":
            blocks = self.blocks.setdefault(data["message"], {})
            blocks[data["n"]] = blocks.get(data["n"], "") + data["add"] if "add" in data else data["html"]
        elif name == "message":
            self.states[data["message"]] = data["state"]
            self.usage[data["message"]] = data["usage"]
        elif name == "step":
            self.steps[data["n"]] = data
        elif name == "proposal":
            self.proposals[data["id"]] = data
        self._stirred.set()

    def html(self, message: str) -> str:
        return "".join(html for _, html in sorted(self.blocks.get(message, {}).items()))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [data for event, data in self.events if event == name]

    async def until(self, look: Callable[[Reader], Any], what: str, seconds: float = 15.0) -> Any:
        """What ``look`` returns once that is true."""
        try:
            async with asyncio.timeout(seconds):
                while not (found := look(self)):
                    self._stirred.clear()
                    await self._stirred.wait()
        except TimeoutError:
            raise AssertionError(f"not within {seconds:g} s: {what}; seen: {self.events[-6:]}") from None
        return found

    async def over(self, message: str, seconds: float = 15.0) -> str:
        """The state the answer ended in."""
        return await self.until(
            lambda now: now.states.get(message, "running") != "running" and now.states[message],
            "the answer is over",
            seconds,
        )


class Talk:
    """One person at a front."""

    def __init__(self, front: Front, cookie: str) -> None:
        self.front, self.cookie = front, cookie

    async def call(self, method: str, path: str, status: int | None = None, /, **body: Any) -> Any:
        """The JSON answer, after checking its status."""
        sent = {"json": body} if method != "GET" else {}
        async with self.front.ask(method, path, self.cookie, **sent) as response:
            text = await response.text()
            assert status is None or response.status == status, (response.status, text)
            return json.loads(text)

    async def begin(self, title: str = "A test") -> str:
        """A new conversation; without a title the model is asked for one after the first answer."""
        return (await self.call("POST", "/api/conversations", 201, title=title))["conversation"]["id"]

    async def ask(self, conversation: str, text: str, **more: Any) -> str:
        """Put a question; the id of the answer."""
        path = f"/api/conversations/{conversation}/messages"
        return (await self.call("POST", path, 201, text=text, **more))["answer"]["id"]

    async def stop(self, conversation: str) -> dict[str, Any]:
        return await self.call("POST", f"/api/conversations/{conversation}/stop", 200)

    async def messages(self, conversation: str) -> list[dict[str, Any]]:
        return (await self.call("GET", f"/api/conversations/{conversation}", 200))["messages"]

    async def decide(self, conversation: str, proposal: str, how: str, status: int | None = 200) -> Any:
        return await self.call("POST", f"/api/conversations/{conversation}/proposals/{proposal}/{how}", status)

    @asynccontextmanager
    async def reading(self, conversation: str, query: str = "", after: str = "") -> AsyncIterator[Reader]:
        """Follow a conversation."""
        reader, headers = Reader(), {"Last-Event-ID": after} if after else {}
        async with self.front.ask(
            "GET", f"/api/conversations/{conversation}/stream{query}", self.cookie, headers=headers, timeout=None
        ) as response:
            assert response.status == 200, await response.text()
            task = asyncio.create_task(_follow(response, reader))
            try:
                yield reader
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def answer(self, conversation: str, text: str, **more: Any) -> tuple[str, Reader]:
        """Ask and read to the end; the answer's id and all that was told."""
        async with self.reading(conversation) as reader:
            answer = await self.ask(conversation, text, **more)
            await reader.over(answer)
        return answer, reader


async def _follow(response: Any, reader: Reader) -> None:
    name = ""
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("id: "):
            reader.last_id = line[4:]
        elif line.startswith("data: "):
            reader.take(name, json.loads(line[6:]))
