"""What the daemon asks the engine itself, beside the questions of people: is it idle, how much does it hold.

Rule: a request here is one of :data:`ALLOWED`, and ends within its time limit (NET-3).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from appliance.assistant.local_engine import Place
from appliance.errors import Unavailable

SECONDS = 5.0
MOST = 1 << 20
ALLOWED = frozenset({("GET", "/slots"), ("GET", "/health")})


async def idle_slots(place: Place) -> bool:
    """Whether no slot of llama.cpp's server works on anything. Raises Unavailable."""
    slots = await ask(place, "GET", "/slots")
    return not any(slot.get("is_processing", True) for slot in slots)


async def ask(place: Place, method: str, path: str) -> Any:
    """The JSON it answers. Raises Unavailable."""
    if (method, path) not in ALLOWED:
        raise ValueError("not an address that the daemon asks the engine for")
    try:
        async with asyncio.timeout(SECONDS):
            status, body = await _exchange(place, method, path)
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
        raise Unavailable(f"cannot ask the engine: {error or 'no answer in time'}") from error
    if status != 200:
        raise Unavailable(f"cannot ask the engine: it answered with status {status}")
    return json.loads(body)


async def _exchange(place: Place, method: str, path: str) -> tuple[int, bytes]:
    """HTTP/1.0: the answer ends with the connection, and is never in pieces."""
    reader, writer = await connect(place)
    try:
        key = f"Authorization: Bearer {place.key}\r\n" if place.key else ""
        writer.write(f"{method} {path} HTTP/1.0\r\nHost: engine\r\n{key}Connection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read(MOST)
        while len(body) < MOST and (more := await reader.read(MOST)):
            body += more
        return int(head.split(None, 2)[1]), body
    finally:
        writer.transport.abort()


async def connect(place: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare connection to the engine. Raises OSError."""
    if place.socket is not None:
        return await asyncio.open_unix_connection(str(place.socket))
    return await asyncio.open_connection(*place.address)
