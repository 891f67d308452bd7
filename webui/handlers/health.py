"""What supervisors and monitors ask, often and from the first moment: this page brings none of what pages are made of (F1, F2)."""

from __future__ import annotations

from aiohttp import web

from webui import keys
from webui.answers import answer


async def healthz(request: web.Request) -> web.Response:
    """The daemon answers."""
    return answer({"ok": True})


async def readyz(request: web.Request) -> web.Response:
    """The daemon can do its work: store and supervisor answer."""
    ready = request.app[keys.SERVICES].is_ready("proxy")
    return answer({"ok": ready}, 200 if ready else 503)
