"""Who answers the assistant's questions: how the engine is, and the key of one elsewhere. Rule: the key comes in and never goes out."""

from __future__ import annotations

from aiohttp import web

from webui import keys, views
from webui.answers import answer


async def state(request: web.Request) -> web.StreamResponse:
    """How the engine is, as topic ``assistant`` tells it."""
    return answer(views.engine_json(request.app[keys.ENGINE].status(), views.translator(request)))
