"""Reading along: a conversation's last answer and what was proposed, as it is and as it changes.

Rule: whoever comes, or comes back, is given what they may have missed; nobody's reading slows an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from appliance.assistant.conversations import Conversations
from appliance.assistant.live import Live, Painter
from appliance.assistant.messages import Conversation, Message, Role, State
from appliance.assistant.person import Person
from appliance.assistant.proposals import Proposals
from appliance.events import LOST, EventBus

Event = tuple[str, Mapping[str, Any], int | None]


class Watching:
    """``live`` are the answers under way, by conversation; ``painter`` is asked for each answer that is drawn."""

    def __init__(
        self,
        store: Conversations,
        proposals: Proposals,
        feed: EventBus,
        live: Mapping[str, Live],
        painter: Callable[[], Painter],
    ) -> None:
        self._store, self._proposals, self._feed, self._live, self._painter = store, proposals, feed, live, painter

    async def events(self, person: Person, conversation_id: str, *, text: bool = False) -> AsyncGenerator[Event, None]:
        """Everything as it is, then what changes: ``message`` ``status`` ``step`` ``proposal`` ``title``, and the words as ``block``, or
        with ``text`` as ``text``, whole each time. Raises NotFound."""
        conversation = await self._store.get(person.id, conversation_id)
        async with self._feed.subscribe({conversation.id}) as changes:
            left_out = "block" if text else "text"
            picture, seen = await self._picture(conversation, text)
            for name, data in picture:
                yield name, data, seen
            async for event in changes:
                if event.topic == LOST:
                    picture, seen = await self._picture(conversation, text)
                    for name, data in picture:
                        yield name, data, seen
                elif (name := event.data["event"]) == "proposal" or (event.id > seen and name != left_out):
                    # A proposal comes whole, so that one too many does no harm; one decided while the picture was made must not be missed.
                    yield event.data["event"], event.data["data"], event.id

    async def _picture(self, conversation: Conversation, text: bool) -> tuple[list[tuple[str, Mapping[str, Any]]], int]:
        """The state of the last answer and of what was proposed, and the event it is as of."""
        proposed = [("proposal", one) for one in await self._proposals.standing(conversation.owner, conversation.id)]
        seen, found = self._feed.last_id, []
        if conversation.id not in self._live:
            path = await self._store.path(conversation)
            # In a thread, for a long answer takes longer than others should wait; what is told meanwhile comes after it.
            found = await asyncio.to_thread(self._finished, path, text)
        if live := self._live.get(conversation.id):
            # Nothing is awaited between such a picture and its number, so nothing happens there.
            seen, found = self._feed.last_id, live.events(text=text)
        return found + proposed, seen

    def _finished(self, path: Sequence[Message], text: bool) -> list[tuple[str, Mapping[str, Any]]]:
        if not path or path[-1].role is not Role.ASSISTANT:
            return []
        last = path[-1]
        if last.state is State.RUNNING:
            last = replace(last, state=State.INTERRUPTED)  # how it ended could not be saved
        live = Live(last, self._painter(), lambda name, data: None, lambda text, steps: None)
        live.text, live.usage, live.model = last.text, dict(last.usage), last.model
        live.steps = [dict(step) for step in last.steps]
        live.ended(last)
        return live.events(text=text)
