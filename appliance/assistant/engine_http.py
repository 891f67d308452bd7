"""What the daemon asks the engine itself, beside the questions of people: does it work on anything?

Rule: a request here is one of :data:`ALLOWED`, and ends within its time limit (NET-3).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

from appliance.assistant.local_engine import Place
from appliance.errors import Unavailable

SECONDS = 5.0
MOST = 1 << 20
ALLOWED = frozenset({"/slots", "/backend/monitor"})
_OK, _NOT_THERE = 200, 404
# Gone, silent (a TimeoutError is an OSError), cut off, or no HTTP and no JSON.
_UNREADABLE = (OSError, EOFError, asyncio.LimitOverrunError, ValueError, LookupError, RecursionError)
_BUSY = 1  # LocalAI's StatusResponse.State


async def idle_slots(place: Place, model: str) -> bool:
    """Whether no slot of llama.cpp's server works on anything; LocalAI in its place knows no slots. Raises Unavailable."""
    status, slots = await _ask(place, "/slots")
    if status == _NOT_THERE:
        return await idle_backend(place, model)
    if status != _OK:
        raise Unavailable(f"cannot ask the engine: it answered with status {status}")
    if not isinstance(slots, list):
        raise Unavailable("cannot ask the engine: what it answered cannot be read")
    return not any(not isinstance(slot, dict) or slot.get("is_processing", True) for slot in slots)


async def idle_backend(place: Place, model: str) -> bool:
    """Whether LocalAI's backend works on nothing; one that is not loaded does not. Raises Unavailable."""
    status, found = await _ask(place, "/backend/monitor", f"?model={quote(model)}")
    return status != _OK or not isinstance(found, dict) or found.get("state") != _BUSY


async def _ask(place: Place, path: str, query: str = "") -> tuple[int, Any]:
    """Status and JSON it answers with. Raises Unavailable."""
    if path not in ALLOWED:
        raise ValueError("not an address that the daemon asks the engine for")
    try:
        async with asyncio.timeout(SECONDS):
            status, body = await _exchange(place, path + query)
            return status, json.loads(body or b"null")
    except _UNREADABLE as error:
        raise Unavailable(f"cannot ask the engine: {error or 'no answer in time'}") from error


async def _exchange(place: Place, target: str) -> tuple[int, bytes]:
    """HTTP/1.0: the answer ends with the connection, and is never in pieces."""
    if place.socket is not None:
        reader, writer = await asyncio.open_unix_connection(str(place.socket))
    else:
        reader, writer = await asyncio.open_connection(*place.address)
    try:
        key = f"Authorization: Bearer {place.key}\r\n" if place.key else ""
        writer.write(f"GET {target} HTTP/1.0\r\nHost: engine\r\n{key}Connection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read(MOST)
        while len(body) < MOST and (more := await reader.read(MOST)):
            body += more
        return int(head.split(None, 2)[1]), body
    finally:
        writer.transport.abort()
