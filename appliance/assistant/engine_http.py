"""What the daemon asks the engine itself, beside the questions of people: does it work on anything? And, of LocalAI, to let go of it.

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
# LocalAI asks its backend in turn, which keeps it waiting while it works on something, and ends none that LocalAI still waits for.
BACKEND_SECONDS = 0.3
MOST = 1 << 20
ALLOWED = frozenset({"/slots", "/backend/monitor", "/backend/shutdown"})
_OK, _NOT_THERE = 200, 404
# Gone, silent (a TimeoutError is an OSError), cut off, or no HTTP and no JSON.
_UNREADABLE = (OSError, EOFError, asyncio.LimitOverrunError, ValueError, LookupError, RecursionError)
_BUSY, _READY = 1, 2  # LocalAI's StatusResponse.State


async def idle_slots(place: Place, model: str) -> bool | None:
    """Whether no slot of llama.cpp's server works on anything; LocalAI in its place knows no slots, and may not say. Raises
    Unavailable."""
    status, slots = await _ask(place, "/slots")
    if status == _NOT_THERE:
        return await idle_backend(place, model)
    if status != _OK:
        raise Unavailable(f"cannot ask the engine: it answered with status {status}")
    if not isinstance(slots, list):
        raise Unavailable("cannot ask the engine: what it answered cannot be read")
    return not any(not isinstance(slot, dict) or slot.get("is_processing", True) for slot in slots)


async def idle_backend(place: Place, model: str) -> bool | None:
    """Whether LocalAI's backend works on nothing; None where LocalAI does not say. Of llama.cpp's it does not know (its source,
    2026-08: that backend does not tell its state), only of others."""
    try:
        status, found = await _ask(place, "/backend/monitor", f"?model={quote(model)}", seconds=BACKEND_SECONDS)
    except Unavailable:
        return None
    state = found.get("state") if status == _OK and isinstance(found, dict) else None
    return state == _READY if state in (_BUSY, _READY) else None


async def end_backend(place: Place, model: str) -> bool:
    """Have LocalAI end the backend that serves ``model``; the next question loads it again. Whether it says that it did: one that
    itself still waits for the backend lets it finish first, and llama.cpp's server knows no such address."""
    try:
        status, _ = await _ask(place, "/backend/shutdown", body={"model": model}, seconds=BACKEND_SECONDS)
    except Unavailable:
        return False
    return status == _OK


async def _ask(
    place: Place, path: str, query: str = "", *, body: object = None, seconds: float = SECONDS
) -> tuple[int, Any]:
    """Status and JSON it answers with to GET, or to POST of a ``body``. Raises Unavailable."""
    if path not in ALLOWED:
        raise ValueError("not an address that the daemon asks the engine for")
    try:
        async with asyncio.timeout(seconds):
            status, said = await _exchange(place, path + query, b"" if body is None else json.dumps(body).encode())
            return status, json.loads(said or b"null")
    except _UNREADABLE as error:
        raise Unavailable(f"cannot ask the engine: {error or 'no answer in time'}") from error


async def _exchange(place: Place, target: str, sent: bytes) -> tuple[int, bytes]:
    """HTTP/1.0: the answer ends with the connection, and is never in pieces."""
    if place.socket is not None:
        reader, writer = await asyncio.open_unix_connection(str(place.socket))
    else:
        reader, writer = await asyncio.open_connection(*place.address)
    try:
        key = f"Authorization: Bearer {place.key}\r\n" if place.key else ""
        kind = f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n" if sent else ""
        method = "POST" if sent else "GET"
        head = f"{method} {target} HTTP/1.0\r\nHost: engine\r\n{key}{kind}Connection: close\r\n\r\n"
        writer.write(head.encode() + sent)
        answer = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read(MOST)
        while len(body) < MOST and (more := await reader.read(MOST)):
            body += more
        return int(answer.split(None, 2)[1]), body
    finally:
        writer.transport.abort()
