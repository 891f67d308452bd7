"""Event streams: they resume, they beat, they end with their session, and no reader can make them grow."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from support.front import Front
from support.waiting import until

from appliance.identity.sign_in import Caller
from appliance.identity.users import Role
from webui import streams
from webui.streams import STREAMS_MAX


async def event(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """The next event: its fields by name; comments are under ''."""
    fields: dict[str, str] = {}
    async with asyncio.timeout(5):
        while line := (await answer.content.readline()).decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            fields[name] = value
    return fields


async def ended(answer: aiohttp.ClientResponse) -> float:
    """Seconds until the stream ends."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(5):
            while await answer.content.read(65536):
                pass
    except aiohttp.ClientError:
        pass
    return time.monotonic() - began


async def test_a_stream_shows_everything_first_and_then_what_changes(door: Front) -> None:
    _, cookie = await door.sign_in_as("viewer")
    async with door.ask("GET", "/api/events", cookie) as answer:
        assert answer.content_type == "text/event-stream"
        assert "open" in (await event(answer))[""]
        first = await event(answer)
        assert {row["name"] for row in json.loads(first["data"])["services"]} == {"ide", "proxy", "ai"}
        assert "id" not in first
        await until(lambda: door.bus.watched("services"), "the stream listens")
        told = door.bus.publish("services", {})
        assert (await event(answer))["id"] == str(told.id)


async def test_a_returning_reader_is_told_what_it_missed(door: Front) -> None:
    _, cookie = await door.sign_in_as("viewer")
    seen = door.bus.publish("services", {})
    missed = door.bus.publish("services", {})
    for how in ({"headers": {"Last-Event-ID": str(seen.id)}}, {"query": f"?after={seen.id}"}):
        async with door.ask(
            "GET", "/api/events" + str(how.get("query", "")), cookie, headers=how.get("headers", {})
        ) as answer:
            await event(answer)
            await event(answer)
            assert (await event(answer))["id"] == str(missed.id)


@pytest.mark.parametrize("given", ["x", "-1", "1e9", "²", "9" * 40, "1, 2"])
async def test_an_odd_place_to_resume_from_is_no_error(door: Front, given: str) -> None:
    _, cookie = await door.sign_in_as("viewer")
    async with door.ask(
        "GET", "/api/events", cookie, headers={"Last-Event-ID": given.encode().decode("latin-1")}
    ) as answer:
        assert answer.status == 200


async def test_streams_end_with_their_session(door: Front) -> None:
    """DECIDED 19: within two seconds; those of others go on."""
    session, cookie = await door.sign_in_as("operator")
    _, other = await door.sign_in_as("admin")
    async with AsyncExitStack() as stack:

        async def opened(path: str, whose: str) -> aiohttp.ClientResponse:
            answer: aiohttp.ClientResponse = await stack.enter_async_context(door.ask("GET", path, whose))
            await event(answer)
            return answer

        mine = [await opened("/api/events", cookie), await opened("/api/services/ide/logs/stream", cookie)]
        theirs = await opened("/api/events", other)
        await event(theirs)
        async with door.ask("POST", "/sign-out", cookie, data={}) as answer:
            assert answer.status == 303
        for stream in mine:
            assert await ended(stream) < 2
        await until(lambda: door.bus.watched("services"), "the other one listens")
        door.bus.publish("services", {})
        assert "data" in await event(theirs)
    assert session.ended


async def test_a_stream_lost_to_a_demotion(door: Front) -> None:
    session, cookie = await door.sign_in_as("operator")
    user = await door.users.find(session.user.id)
    async with door.ask("GET", "/api/services/ide/logs/stream", cookie) as answer:
        await event(answer)
        await door.users.change(user, "test", role=Role.viewer)
        assert await ended(answer) < 2


async def test_what_an_admin_sees_ends_with_the_role(door: Front) -> None:
    """A stream is drawn for the role it was opened with: whoever has another one now opens another."""
    await door.member("admin")
    second = await door.users.create("second@example.org", "Second", Role.admin, "test")
    secret, _, _ = await door.links.create(second, "console")
    cookie = (await door.sign_in.by_link(secret, Caller("192.0.2.1", "test"))).cookie
    async with door.ask("GET", "/api/events", cookie) as answer:
        await event(answer)
        await door.users.change(second, "test", role=Role.operator)
        assert await ended(answer) < 2


async def test_one_session_holds_so_many_streams_and_no_more(door: Front) -> None:
    """WEB-16."""
    _, cookie = await door.sign_in_as("viewer")
    _, other = await door.sign_in_as("admin")
    async with AsyncExitStack() as stack:
        for _ in range(STREAMS_MAX):
            answer = await stack.enter_async_context(door.ask("GET", "/api/events", cookie))
            assert answer.status == 200
        async with door.ask("GET", "/api/events", cookie) as refused:
            assert refused.status == 429
            assert int(refused.headers["Retry-After"]) >= 1
        async with door.ask("GET", "/api/events", other) as fine:
            assert fine.status == 200

    async def free() -> bool:
        async with door.ask("GET", "/api/events", cookie) as again:
            return bool(again.status == 200)

    await until(lambda: not door.streams._open, "the streams are gone")
    assert await free()


async def test_asking_for_the_head_alone_holds_nothing_open(door: Front) -> None:
    _, cookie = await door.sign_in_as("operator")
    for path in ("/api/events", "/api/services/ide/logs/stream"):
        async with asyncio.timeout(3), door.ask("HEAD", path, cookie) as answer:
            assert answer.status == 200
    assert not door.streams._open


async def test_a_silent_stream_beats(door: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    real = streams.pump

    async def quick(
        request: Any, items: AsyncGenerator[tuple[str, Mapping[str, Any], int | None], None], heartbeat: float = 0.05
    ) -> Any:
        return await real(request, items, 0.05)

    monkeypatch.setattr(streams, "pump", quick)
    _, cookie = await door.sign_in_as("viewer")
    async with door.ask("GET", "/api/events", cookie) as answer:
        await event(answer)
        await event(answer)
        for _ in range(3):
            assert await event(answer) == {"": "beat"}


async def test_a_reader_that_does_not_read_costs_a_bounded_queue(door: Front) -> None:
    """DECIDED 19: what it missed collapses, and ending its session still ends it."""
    session, cookie = await door.sign_in_as("viewer")
    reader, writer = await door.raw()
    writer.write(f"GET /api/events HTTP/1.1\r\nHost: croft.localhost\r\nCookie: __Host-croft={cookie}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()
    await until(lambda: door.bus.watched("services"), "the stream listens")
    for number in range(3000):
        door.bus.publish("services", {})
        if number % 100 == 0:
            await asyncio.sleep(0)
    assert all(len(waiting._queue) <= 512 for waiting in door.bus._readers)
    await door.sessions.end([session], "revoked", "test")
    await until(lambda: not door.bus._readers, "the reader is gone", 2)
    writer.transport.abort()


@pytest.mark.parametrize("what", ["signed out", "demoted"])
async def test_a_stream_asked_for_in_the_last_moment_does_not_begin(
    door: Front, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """AUTH-9, DECIDED 19: who is let go while Croft looks for what to send would otherwise be sent it for ever."""
    session, cookie = await door.sign_in_as("operator")
    store = await door.conversations.get()
    conversation, real = await store.create(session.user.id, "x"), store.get
    looking, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*whose: str) -> Any:
        found = await real(*whose)
        looking.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(store, "get", slow)

    async def ask() -> int:
        async with door.ask("GET", f"/api/conversations/{conversation.id}/stream", cookie) as answer:
            return int(answer.status)

    asked = asyncio.ensure_future(ask())
    await looking.wait()
    if what == "demoted":
        await door.users.change(session.user, "test", role=Role.viewer)
    else:
        await door.sessions.end([session], "revoked", "test")
    go_on.set()
    assert await asked == 401


async def test_an_export_ends_with_the_session_it_was_asked_for_with(door: Front) -> None:
    """AUTH-9, LOG-9: who takes the audit log slowly does not go on taking it."""
    session, cookie = await door.sign_in_as("admin")
    async with door.store.database.transaction() as tx:
        for _ in range(4_000):
            await door.audit.append(tx, "session.end", "test", session="0" * 16, user="0" * 16, why="x" * 1000)
    reader, writer = await door.raw()
    writer.write(
        f"GET /api/audit/export?format=jsonl HTTP/1.1\r\nHost: croft.localhost\r\nCookie: __Host-croft={cookie}\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()
    await until(lambda: bool(door.streams._open), "it is under way")
    await door.sessions.end([session], "revoked", "test")
    writer.transport.resume_reading()
    async with asyncio.timeout(10):
        rest = await reader.read()
    assert not rest.endswith(b"0\r\n\r\n")
    writer.close()
