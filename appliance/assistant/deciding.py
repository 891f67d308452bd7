"""What people do with an answer: a block as a file, a line of it as a command, and their word on what was proposed.

Rules: a line that a model wrote stays the model's, whoever picks it: it is asked for as actor ``ai`` in the person's name, and by a
tainted conversation as tainted (AI-1, AI-3). What a window of the editor says it did is no proof: the file is looked at.
"""

from __future__ import annotations

import logging

from appliance.assistant.conversations import Conversations
from appliance.assistant.loop import Hands, Ran
from appliance.assistant.messages import Conversation, Message, Role
from appliance.assistant.person import Person
from appliance.assistant.proposals import Proposal
from appliance.assistant.taint import tainted
from appliance.assistant.tools import MOST_COMMAND, Mistake
from appliance.errors import CroftError, Forbidden, Invalid

log = logging.getLogger(__name__)


class Deciding:
    """Use as ``Answers.deciding``."""

    def __init__(self, store: Conversations, hands: Hands) -> None:
        self._store, self._hands = store, hands

    # --- parts of an answer

    async def save(self, person: Person, conversation_id: str, message_id: str, path: str, text: str) -> Proposal:
        """A block of an answer as a file: proposed, so that the person sees what it changes. Raises CroftError."""
        conversation, message, foreign = await self._answer(person, conversation_id, message_id)
        try:
            return await self._hands.proposals.write(conversation.id, message.id, person, path, text, tainted=foreign)
        except Mistake as mistake:
            raise Invalid(str(mistake), hint="Choose another name, or save less at once.", code="file") from mistake

    async def run(
        self, person: Person, conversation_id: str, message_id: str, line: str
    ) -> tuple[Ran, Proposal | None]:
        """A line of an answer as a command; without a proposal where the policy refuses it. Raises CroftError."""
        conversation, message, foreign = await self._answer(person, conversation_id, message_id)
        if len(line) > MOST_COMMAND:
            raise Invalid("the command is too long", hint=f"At most {MOST_COMMAND} characters.", code="too_long")
        ran = await self._hands.shell.propose(person, conversation.id, line, "", tainted=foreign, picked=True)
        if ran.state == "refused":
            return ran, None
        made = await self._hands.proposals.command(
            conversation.id, message.id, person, ran.run, tainted=foreign, picked=True
        )
        return ran, made

    async def _answer(
        self, person: Person, conversation_id: str, message_id: str
    ) -> tuple[Conversation, Message, bool]:
        """The answer, and whether the conversation up to it holds what others may have written."""
        if not person.may_use_tools:
            raise Forbidden("files and commands need the role operator", hint="Ask an admin of this appliance.")
        conversation = await self._store.get(person.id, conversation_id)
        message = await self._store.message(conversation, message_id)
        if message.role is not Role.ASSISTANT:
            raise Invalid("only an answer has blocks", hint="Reload the page.")
        return conversation, message, tainted(await self._store.above(conversation, message.id))

    # --- what was proposed

    async def proposals(self, person: Person, conversation_id: str) -> list[Proposal]:
        """What was proposed in a conversation, the oldest first, without contents. Raises NotFound."""
        conversation = await self._store.get(person.id, conversation_id)
        return await self._hands.proposals.of(person.id, conversation.id)

    async def waiting(self, person: Person, proposal_id: str) -> Proposal:
        """A proposed file that waits for its decision, whole. Raises CroftError."""
        return await self._hands.proposals.open(person, proposal_id)

    async def decide(self, person: Person, proposal_id: str, accept: bool) -> Proposal:
        """Accept or reject a proposed file. Raises CroftError."""
        proposals = self._hands.proposals
        return await (proposals.accept if accept else proposals.reject)(person, proposal_id)

    async def decided_in_editor(self, person: Person, proposal_id: str, state: str) -> None:
        """A window of the editor says what became of the difference it showed. What it cannot have done stays open here."""
        try:
            proposal = await self._hands.proposals.open(person, proposal_id)
            await self._hands.shell.check(person, proposal.conversation)  # they may have lost their role meanwhile
            if state == "rejected":
                await self._hands.proposals.reject(person, proposal_id)
            elif state == "accepted":
                await self._hands.proposals.written_elsewhere(person, proposal_id)
        except CroftError as error:
            log.info("a decision in the editor changes nothing", extra={"proposal": proposal_id, "cause": str(error)})

    async def output(self, run: str, most: int) -> str:
        """The end of what a run wrote, as the assistant may see it."""
        return await self._hands.shell.output(run, most)
