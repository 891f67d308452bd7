"""Everything live, by topic, over one stream a page."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from aiohttp import web

from appliance.errors import Invalid
from webui import keys, streams, views
from webui.guard import principal_of

TOPICS = frozenset({"services"})


Item = tuple[str, Mapping[str, Any], int | None]


async def events(request: web.Request) -> web.StreamResponse:
    """Everything live, by topic (SSE). Resumes after ``Last-Event-ID``."""
    topics = set(request.query.get("topics", "services").split(","))
    if not topics <= TOPICS:
        raise Invalid("there is no such topic", hint=f"There are {', '.join(sorted(TOPICS))}.")
    translate = views.translator(request)
    services = request.app[keys.SERVICES]

    async def items() -> AsyncGenerator[Item, None]:
        yield "services", views.services_event(services, translate), None
        after = streams.last_event_id(request)
        async with request.app[keys.EVENTS].subscribe(topics, after, tag=tag_of(request)) as reader:
            async for event in reader:
                # Rendered now, in this reader's language: a "lost" event then costs nothing but one fresh picture.
                yield "services", views.services_event(services, translate), event.id

    return await until_signed_out(request, items())


async def until_signed_out(request: web.Request, items: AsyncGenerator[Item, None]) -> web.StreamResponse:
    return await request.app[keys.STREAMS].run(tag_of(request), streams.pump(request, items))


def tag_of(request: web.Request) -> str:
    return principal_of(request).tag
