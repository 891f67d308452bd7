"""Reading what a request carries. Rule: whatever arrives, and however slowly, the answer is fields or a refusal, never a
fault of ours."""

from __future__ import annotations

import asyncio
from typing import TypeVar
from urllib.parse import parse_qsl
from weakref import WeakValueDictionary

import msgspec
from aiohttp import web

from appliance.errors import Invalid

FORM = "application/x-www-form-urlencoded"
FIELDS_MAX = 32
# In which the largest body (1 MiB) comes over a line of 18 KiB a second.
BODY_SECONDS = 60.0
BODIES_MAX = 8

Body = TypeVar("Body", bound=msgspec.Struct)


async def read_body(request: web.Request) -> bytes:
    """The whole body. Raises Invalid when it does not come in time: who sends a byte a minute must not hold a connection
    and a change under way for ever."""
    if request.content.is_eof():
        return await request.read()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError as error:
        raise Invalid("the request did not come in time", hint="Send it again.", code="too_slow") from error


class Bodies:
    """Bodies, a few at a time of each sender: the others wait where they are sent from, and not in our memory."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def read(self, request: web.Request, tag: str) -> bytes:
        """As :func:`read_body`, when it is the turn of a body of ``tag``."""
        turn = self._turns.setdefault(tag, asyncio.Semaphore(BODIES_MAX))
        async with turn:
            return await read_body(request)


async def read_form(request: web.Request) -> dict[str, str]:
    """The fields of a form in UTF-8, the last of equal names; empty without a form. Raises Invalid."""
    if request.content_type != FORM:
        return {}
    return unpacked(await read_body(request))


def unpacked(data: bytes) -> dict[str, str]:
    """The fields of a form as it is sent, as :func:`read_form` has them. Raises Invalid, for more than FIELDS_MAX too."""
    try:
        fields = parse_qsl(data.decode("utf-8"), keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError as error:
        raise Invalid("cannot read the form", hint="Reload the page and send it again.") from error
    return dict(fields)


async def read_json(request: web.Request, kind: type[Body]) -> Body:
    """The request's JSON body as ``kind``. Raises Invalid naming the field."""
    try:
        return msgspec.json.decode(await read_body(request) or b"{}", type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Invalid(f"cannot read the request: {error}", hint="The OpenAPI page names every field.") from error
