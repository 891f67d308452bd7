"""The assistant as people meet it: the real web application over a real broker, a scripted engine, and Chromium before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from playwright.async_api import Browser, Locator, Page, expect

from appliance.assistant.conversations import Conversations
from appliance.assistant.messages import Conversation
from appliance.clock import SystemClock
from support.broker import Home
from support.commands import Room, forget, room_in
from support.screens import Booth, Screen, booth_of, member
from support.scripted_engine import OverHttp, ScriptedEngine, scripted_engine


@dataclass
class Place:
    """``engine`` says what a test wrote for it; ``over`` is what the daemon takes for its engine."""

    room: Room
    booth: Booth
    engine: ScriptedEngine
    over: OverHttp
    pages: list[Page] = field(default_factory=list)

    async def visit(self, path: str = "/assistant", role: str = "operator", lang: str = "en") -> Page:
        """A tab that shows ``path``, its scripts at work."""
        page = await self.booth.visit(Screen("", path, role=role), lang)
        page.set_default_timeout(15_000)
        self.pages.append(page)
        return page

    async def leave(self) -> None:
        """Close every tab: without HTTP/2 a browser has six connections, and each page keeps some open."""
        for page in self.pages:
            await page.close()
        self.pages.clear()

    async def named(self, *turns: str, role: str = "operator", lang: str = "en") -> Page:
        """A tab with a conversation that has a name already, so that nobody asks the engine for one."""
        made = await self.conversation(*turns, role=role, title="A name")
        return await self.visit(f"/assistant/{made.id}", role, lang)

    async def store(self) -> Conversations:
        return await self.room.front.conversations.get()

    async def conversation(self, *turns: str, role: str = "operator", title: str = "") -> Conversation:
        """One that is over: questions and answers in turn."""
        store = await self.store()
        made, last = await store.create((await member(self.room.front, role)).id, title), None
        for number, text in enumerate(turns):
            message = await store.add(made, last, ("user", "assistant")[number % 2], text)
            last = message.id
        return made


@asynccontextmanager
async def place_in(broker: Home, chromium: Browser) -> AsyncIterator[Place]:
    """A place of its own beside a running broker, whose settings name a free port for the web."""
    async with scripted_engine() as engine:
        over = OverHttp(engine)
        async with room_in(broker, clock=SystemClock(), engine=over) as room, booth_of(room.front, chromium) as booth:
            await room.front.policy_file.open()
            room.front.policy_file.current = room.front.policy
            yield Place(room, booth, engine, over)
    forget(broker)


async def ask(page: Page, text: str) -> Locator:
    """Type a question and send it with Enter. Returns the turn of the answer."""
    answers = page.locator(".turn.answer")
    before = await answers.count()
    await page.locator("[data-composer] textarea").fill(text)
    await page.locator("[data-composer] textarea").press("Enter")
    await expect(answers).to_have_count(before + 1)
    return answers.nth(before)


async def over(turn: Locator, state: str = "done") -> None:
    """Wait until an answer has come to its end."""
    # The first answer of an appliance waits for what talks to the engine to be loaded.
    await expect(turn).to_have_attribute("data-state", state, timeout=20_000)
