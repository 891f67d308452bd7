"""Naming conversations: at once by the question's first words, and better by the model when nobody waits for it.

Rule: a name is never worth a wait: a question that comes meanwhile goes first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from appliance.assistant import prompts, titles
from appliance.assistant.asking import Asking
from appliance.assistant.caps import CapReached
from appliance.assistant.conversations import Conversations
from appliance.assistant.engine import Upstream
from appliance.assistant.messages import Conversation
from appliance.assistant.person import Person
from appliance.errors import CroftError, NotFound

if TYPE_CHECKING:
    from appliance.assistant.client import Question

log = logging.getLogger(__name__)

SECONDS = 90.0


class Naming:
    """``publish`` tells the readers of a conversation: its id, the event's name, its data."""

    def __init__(
        self, store: Conversations, asking: Asking, publish: Callable[[str, str, Mapping[str, Any]], object]
    ) -> None:
        self._store, self._asking, self._publish = store, asking, publish
        self._task: asyncio.Task[None] | None = None

    async def by_question(self, conversation: Conversation, text: str) -> None:
        """The first words of the first question."""
        await self._name(conversation, titles.of_question(text))

    def by_model(self, person: Person, conversation: Conversation) -> None:
        """A better one after the first exchange, if nobody waits for the engine. Returns at once."""
        self._task = asyncio.create_task(self._ask(person, conversation), name="title")
        self._task.add_done_callback(_seen)

    def step_aside(self) -> None:
        """Somebody has a question."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Stop asking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _name(self, conversation: Conversation, title: str) -> None:
        if title and not conversation.named:
            named = await self._store.rename(conversation, title, by_person=False)
            self._publish(conversation.id, "title", {"title": named.title})

    async def _ask(self, person: Person, conversation: Conversation) -> None:
        try:
            path = await self._store.path(conversation)
        except NotFound:
            return  # deleted meanwhile
        if len(path) != 2 or conversation.named or not self._asking.line.quiet:
            return
        said = prompts.title(prompts.turns(path))

        def compose(upstream: Upstream, question: type[Question]) -> Question:
            return question(said, titles.MAX_TOKENS, temperature=0.0)

        try:
            found = await self._asking.quietly(person, compose, SECONDS)
            await self._name(await self._store.get(person.id, conversation.id), titles.of_model(found))
        except (CroftError, TimeoutError, CapReached) as error:
            log.info("no title from the model; the question's first words stay", extra={"cause": str(error)})


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("naming a conversation failed on our side", exc_info=error)
