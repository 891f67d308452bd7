"""What a question would cost, said before it is asked.

Rule: a guess in the open: seconds are only given where this model's speed has been measured.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.assistant import prompts
from appliance.assistant.asking import Asking
from appliance.assistant.bounds import check_chips
from appliance.assistant.conversations import Conversations
from appliance.assistant.person import Person

LIKELY_TOKENS = 200  # of an answer


@dataclass(frozen=True)
class Estimate:
    """``tokens`` of the prompt, of which ``context`` can be held; ``seconds`` to the end of a usual answer, None where nothing is
    known of this model's speed."""

    tokens: int
    context: int
    seconds: float | None


class Estimates:
    """``speed`` gives tokens a second measured elsewhere, if any."""

    def __init__(self, store: Conversations, asking: Asking, speed: Callable[[], Awaitable[float | None]]) -> None:
        self._store, self._asking, self._speed = store, asking, speed

    async def of(
        self, person: Person, text: str, context: Sequence[Mapping[str, Any]], conversation_id: str = ""
    ) -> Estimate:
        """What asking this would cost. Raises CroftError."""
        check_chips(context)
        status, tokens = self._asking.engine.status(), self._asking.tokens
        said = [prompts.chip(one) for one in context]
        turns: list[dict[str, Any]] = [{"role": "user", "content": "\n\n".join([*said, text])}]
        if conversation_id:
            conversation = await self._store.get(person.id, conversation_id)
            turns = prompts.turns(await self._store.path(conversation)) + turns
        first = {"role": "system", "content": prompts.system(tools=False, data=bool(context))}
        found = tokens.of_prompt([first, *turns], status.model)
        return Estimate(found, status.context, await self._seconds(min(found, status.context or found), status.model))

    async def _seconds(self, tokens: int, model: str) -> float | None:
        if speed := self._asking.speeds.get(model):
            return tokens / speed.reading + LIKELY_TOKENS / speed.writing
        writing = await self._speed()
        # A prompt is read some times faster than an answer is written; how many is only known once it was measured.
        return tokens / (writing * 4) + LIKELY_TOKENS / writing if writing else None
