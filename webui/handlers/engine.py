"""Who answers the assistant's questions: how the engine is, and the key of one elsewhere. Rule: the key comes in and never goes out."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from appliance.assistant import remote_engine
from webui import keys, views
from webui.answers import answer
from webui.forms import read_json
from webui.guard import principal_of


class Key(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``PUT /api/assistant/key``."""

    key: str


async def state(request: web.Request) -> web.StreamResponse:
    """How the engine is, as topic ``assistant`` tells it."""
    return answer(views.engine_json(request.app[keys.ENGINE].status(), views.translator(request)))


async def set_key(request: web.Request) -> web.Response:
    """Keep the key of the endpoint elsewhere; an empty one forgets it."""
    await keep(request, (await read_json(request, Key)).key)
    return answer({"ok": True})


async def keep(request: web.Request, key: str) -> None:
    """The same, for the page too. Raises Invalid."""
    await asyncio.to_thread(remote_engine.write_key, request.app[keys.DESK].current, key)
    await request.app[keys.AUDIT].note("assistant.key", principal_of(request).actor)
