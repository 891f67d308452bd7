"""The two answers that are not a page: JSON for programs, and the way on after a form."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web


def answer(data: Any, status: int = 200) -> web.Response:
    """``data`` as JSON, never cached."""
    return web.json_response(
        data,
        status=status,
        headers={"Cache-Control": "no-store"},
        dumps=lambda value: json.dumps(value, ensure_ascii=False),
    )


def see(location: str) -> web.Response:
    """Send a browser on after a form (303: the next request is a GET)."""
    return web.Response(status=303, headers={"Location": location, "Cache-Control": "no-store"})
