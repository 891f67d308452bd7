"""Conversations, for pages and programs on them: list, search, read, change, delete, take along.

Rule: each is its owner's alone; for everybody else, admins too, there is none. Texts are rendered in a thread, for a long conversation
takes longer than others should wait.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from appliance.assistant.conversations import Conversations
from appliance.assistant.export import as_data, as_markdown, head
from appliance.assistant.messages import Conversation, Message, Role
from appliance.assistant.person import CONSOLE, Person
from appliance.assistant.word_index import Hit
from appliance.errors import Invalid
from webui import keys, views
from webui.answers import answer
from webui.forms import read_json
from webui.guard import principal_of
from webui.i18n import Translator
from webui.markup import render
from webui.rendering import rendered

PAGE, MOST = 30, 100
FORMATS = {"md": "text/markdown; charset=utf-8", "json": "application/json; charset=utf-8"}


class _New(msgspec.Struct, forbid_unknown_fields=True):
    title: str = ""


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    title: str | None = None
    pinned: bool | None = None
    archived: bool | None = None


def person_of(request: web.Request) -> Person:
    """Who asks, as the assistant's room knows people."""
    principal = principal_of(request)
    user = principal.user
    if user is None:
        return Person(CONSOLE, CONSOLE, principal.role.name, principal.actor)
    return Person(user.id, user.name or user.email, principal.role.name, principal.actor)


def owner_of(request: web.Request) -> str:
    """Whose conversations a request is about: those of who asks."""
    return person_of(request).id


async def store_of(request: web.Request) -> Conversations:
    """The store, built with the first who asks."""
    return await request.app[keys.CONVERSATIONS].get()


async def asked_for(request: web.Request) -> tuple[Conversations, Conversation]:
    """The store, and the conversation that the address names. Raises NotFound."""
    store = await store_of(request)
    return store, await store.get(owner_of(request), request.match_info["id"])


async def create(request: web.Request) -> web.Response:
    """A new conversation; 201."""
    body = await read_json(request, _New)
    made = await (await store_of(request)).create(owner_of(request), body.title)
    return answer({"conversation": head(made)}, 201)


async def list_conversations(request: web.Request) -> web.Response:
    """One's own, pinned ones first, then the newest; with ``q`` those in which every word of it is found."""
    store, owner, query = await store_of(request), owner_of(request), request.query
    limit, before, typed = _limit(query.get("limit", "")), query.get("before", ""), query.get("q", "").strip()
    if typed:
        found = await store.search(owner, typed, before=before, limit=limit)
        return answer({"conversations": [_hit_json(hit) for hit in found.hits], "next": found.next})
    page = await store.page(owner, archived=query.get("archived") == "yes", before=before, limit=limit)
    return answer({"conversations": [head(one) for one in page.conversations], "next": page.next})


async def get_conversation(request: web.Request) -> web.Response:
    """One with its active path, as blocks of HTML."""
    store, conversation = await asked_for(request)
    path = await store.path(conversation)
    return answer({"conversation": head(conversation), "messages": await told(request, path)})


async def change(request: web.Request) -> web.Response:
    """Another title, pinned or not, archived or not; what is left out stays."""
    body = await read_json(request, _Change)
    store, conversation = await asked_for(request)
    if body.title is not None:
        conversation = await store.rename(conversation, body.title)
    if body.pinned is not None:
        conversation = await store.pin(conversation, body.pinned)
    if body.archived is not None:
        conversation = await store.archive(conversation, body.archived)
    return answer({"conversation": head(conversation)})


async def delete(request: web.Request) -> web.Response:
    """Delete one for good."""
    await (await request.app[keys.ANSWERS].get()).delete(person_of(request), request.match_info["id"])
    return answer({"ok": True})


async def export(request: web.Request) -> web.Response:
    """One as a file: ``md`` is the active path to read, ``json`` everything there is; recorded before it is told (LOG-9)."""
    form = request.query.get("format", "md")
    if form not in FORMATS:
        raise Invalid("there is no such format", hint="There are md and json.")
    store, conversation = await asked_for(request)
    await request.app[keys.AUDIT].note(
        "conversation.export", principal_of(request).actor, conversation=conversation.id, format=form
    )
    whole = form == "json"
    messages = await (store.all_messages if whole else store.path)(conversation)
    names = _names(views.translator(request))

    def written() -> bytes:
        if not whole:
            return as_markdown(conversation, messages, names).encode()
        return (json.dumps(as_data(conversation, messages), ensure_ascii=False, indent=2) + "\n").encode()

    return web.Response(
        body=await rendered(request, owner_of(request), written),
        headers={
            "Content-Type": FORMATS[form],
            "Content-Disposition": f'attachment; filename="croft-{conversation.id}.{form}"',
            "Cache-Control": "no-store",
        },
    )


async def told(request: web.Request, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages, rendered."""
    return await rendered(request, owner_of(request), lambda: [message_json(message) for message in messages])


def message_json(message: Message) -> dict[str, Any]:
    """One message; what a person typed keeps its line ends, what a tool answered is not rendered."""
    blocks = [] if message.role is Role.TOOL else render(message.text, breaks=message.role is Role.USER)
    return {
        "id": message.id,
        "parent": message.parent,
        "role": str(message.role),
        "state": str(message.state),
        "text": message.text,
        "blocks": [block.data() for block in blocks],
        "model": message.model,
        "usage": dict(message.usage),
        "context": [dict(chip) for chip in message.context],
        "steps": [dict(step) for step in message.steps],
        "position": message.position,
        "siblings": message.siblings,
        "created_at": message.created_at,
        "finished_at": message.finished_at,
    }


def _hit_json(hit: Hit) -> dict[str, Any]:
    pieces = [{"text": piece.text, "hit": piece.hit} for piece in hit.pieces]
    return head(hit.conversation) | {"hit": {"message": hit.message, "pieces": pieces}}


def _names(t: Translator) -> dict[Role, str]:
    return {role: t(f"conversations.role.{role}") for role in Role}


def _limit(text: str) -> int:
    if not text:
        return PAGE
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MOST:
        raise Invalid(f"limit must be a number from 1 to {MOST}", hint="Leave it out for a usual page.")
    return int(text)
