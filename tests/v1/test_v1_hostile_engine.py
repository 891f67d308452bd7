"""An engine that stalls, lies, floods or breaks off: its client gets an answer or an error, and never the engine's key (AI-9, AI-10)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from support.front import Front
from support.scripted_engine import Cut, Fail, OverHttp, Raw, Say, ScriptedEngine, Stall
from support.waiting import until

from appliance.assistant.engine import NoEngine, Upstream
from appliance.assistant.tally import Tally
from webui import keys, outlet

KEY = "sk-the-engine-s-own-key"
QUESTION: Any = [{"role": "user", "content": "Hello"}]
BODY = {"model": "croft", "messages": QUESTION}
STREAM = {**BODY, "stream": True}


async def stream_of(programs: Any) -> str:
    _, text = await programs.token()
    async with programs.ask("POST", "/v1/chat/completions", text, json=STREAM) as answer:
        assert answer.status == 200
        return str(await answer.text())


async def test_only_answers_pass(engine: ScriptedEngine, programs: Any) -> None:
    """Events of other kinds, fields that steer a browser's reader, and what is no JSON are left out."""
    good = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
    bad = (
        b"event: update\ndata: {}\n\n",
        b"retry: 1\n\n",
        b"id: 5\ndata: {}\n\n",
        b": a comment\n\n",
        b"data: nonsense\n\n",
        b"data: {\n\n",
        b"data: 5\n\n",
        b"\x00\xff\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
    )
    engine.script(*(Raw(piece + good) for piece in bad), Raw(good.replace(b"\n", b"\r\n")))
    text = await stream_of(programs)
    events = [line for line in text.split("\n\n") if line]
    assert all(event.startswith("data: {") or event == "data: [DONE]" for event in events)
    assert text.count('"content":"hi"') == len(bad) + 1
    assert "retry" not in text


async def test_what_is_not_utf8_is_mended(engine: ScriptedEngine, programs: Any) -> None:
    engine.script(Raw(b'data: {"choices":[{"index":0,"delta":{"content":"a\xff\xfeb"}}]}\n\n'))
    assert '"a\ufffd\ufffdb"' in await stream_of(programs)


def test_an_event_that_comes_byte_by_byte_costs_no_more_for_it() -> None:
    """WEB-16: a quarter of a megabyte in single bytes; looked at from its start each time, that took twenty seconds."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * (256 << 10) + b'"}}]}\n\n'
    tally, came, begun = Tally(1, wants_usage=False), [], time.process_time()
    for at in range(2 * len(event)):
        came.append(tally.feed(event[at % len(event)].to_bytes()))
    assert b"".join(came) == event * 2
    assert tally.tokens_out == 2
    assert time.process_time() - begun < 5


async def test_nothing_after_the_end_passes(engine: ScriptedEngine, programs: Any) -> None:
    engine.script(Raw(b'data: [DONE]\n\ndata: {"choices":[]}\n\n'), Stall())
    assert (await stream_of(programs)).endswith("data: [DONE]\n\n")
    await until(lambda: not engine.busy, "the engine was let go")


@pytest.mark.parametrize("stream", [True, False])
async def test_the_key_is_never_told(engine: ScriptedEngine, programs: Any, stream: bool, caplog: Any) -> None:
    """AI-10: an engine that repeats it in an error, in an answer or in an event."""
    said = json.dumps({"error": {"message": f"Incorrect API key {KEY}", "type": "x"}})
    client = await programs.client()
    for status in (400, 401, 403, 500):
        engine.script(Fail(status, said))
        with pytest.raises(openai.APIStatusError) as told:
            await client.chat.completions.create(**BODY, stream=stream)
        assert KEY not in str(told.value.body)
    engine.script(Say(f"your key is {KEY} "), *([Raw(f"data: {said}\n\n".encode())] if stream else []))
    _, text = await programs.token()
    async with programs.ask("POST", "/v1/chat/completions", text, json={**BODY, "stream": stream}) as answer:
        whole = await answer.text()
    assert "your" in whole
    assert KEY not in whole + caplog.text


async def test_an_answer_that_breaks_off_is_an_error(engine: ScriptedEngine, programs: Any) -> None:
    """A client must not take half an answer for a whole one."""
    client = await programs.client()
    for step in (Cut(), Raw(b'data: {"error": {"message": "out of memory"}}\n\n'), Raw(b"data: {" + b"x" * (2 << 20))):
        engine.script(Say("word "), step)
        stream = await client.chat.completions.create(**STREAM)
        with pytest.raises(openai.APIError):
            await _rest(stream)
    engine.script(Say("word "))


async def _rest(stream: Any) -> None:
    async for _ in stream:
        pass


@asynccontextmanager
async def raw_engine(answer: Callable[[asyncio.StreamWriter], Any]) -> AsyncIterator[Upstream]:
    """A server that says what it likes after any request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Upstream(f"http://127.0.0.1:{port}/v1", KEY, "scripted-7b", 4096)
    finally:
        server.close()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: "


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
        HEAD + b"text/html\r\nContent-Length: 2\r\n\r\nhi",
        HEAD + b"text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nnot a number\r\n",
        HEAD + b"text/event-stream\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_no_answer(door: Front, programs: Any, said: bytes, stream: bool) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()

    async with raw_engine(answer) as upstream:
        door.engine.upstream = upstream  # type: ignore[attr-defined]
        _, text = await programs.token()
        async with programs.ask("POST", "/v1/chat/completions", text, json={**BODY, "stream": stream}) as found:
            told = await found.text()
            assert found.status >= 500 or '"error"' in told


@pytest.mark.parametrize("field", [b"X: " + b"y" * 60_000, b"X%d: y\r\n"])
@pytest.mark.parametrize("stream", [True, False])
async def test_fields_behind_an_answer_end_soon(door: Front, programs: Any, field: bytes, stream: bool) -> None:
    """WEB-16: trailers (RFC 9112 7.1.2) are kept until they are whole, so an engine may not send them for ever."""
    sent = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD + b"text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        for number in range(1 << 20):
            writer.write(field % number if b"%d" in field else field)
            await writer.drain()
            sent += len(field)
            if sent > 8 << 20:
                return

    async with raw_engine(answer) as upstream:
        door.engine.upstream = upstream  # type: ignore[attr-defined]
        _, text = await programs.token()
        async with programs.ask("POST", "/v1/chat/completions", text, json={**BODY, "stream": stream}) as found:
            told = await found.text()
            assert found.status >= 500 or '"error"' in told
    assert sent < 8 << 20, "nobody listens to the end"


async def test_a_slow_client_slows_the_engine_and_not_the_daemon(door: Front, programs: Any) -> None:
    """WEB-16: what nobody takes is not read; after a minute the client is cut off."""
    sent = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD + b"text/event-stream\r\n\r\n")
        event = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 10_000 + b'"}}]}\n\n'
        while True:
            writer.write(event)
            await writer.drain()
            sent += len(event)

    async with raw_engine(answer) as upstream:
        door.engine.upstream = upstream  # type: ignore[attr-defined]
        _, text = await programs.token()
        reader, writer = await door.raw()
        body = json.dumps(STREAM).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: croft.localhost\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (text.encode(), len(body), body)
        )
        await reader.readuntil(b"data: ")
        before = -1
        while sent != before:  # until it stands still
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 24 << 20, "kernel buffers, ours, and no more"
        stood = sent
        for _ in range(200):
            await reader.read(1 << 20)
        await until(lambda: sent > stood, "it goes on when the client does")
        writer.transport.abort()
        quotas = await door.quotas.get()
        await until(lambda: not quotas.under_way, "the request is over")


async def test_while_the_engine_starts_a_stream_is_kept_alive(
    engine: ScriptedEngine, door: Front, programs: Any, monkeypatch: Any
) -> None:
    """A client would take silence for a dead server; what fails later is told as an event."""
    monkeypatch.setattr(outlet, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(outlet, "BEAT_SECONDS", 0.1)
    door.app[keys.ENGINE]._asleep = 1.0  # type: ignore[attr-defined]
    text = await stream_of(programs)
    assert text.startswith(": waiting\n\n: waiting\n\n")
    assert "Hello" in text
    door.app[keys.ENGINE]._asleep = 1.0  # type: ignore[attr-defined]
    engine.script(Fail(500))
    text = await stream_of(programs)
    assert '"error"' in text
    assert text.endswith("data: [DONE]\n\n")
    client = await programs.client()
    door.app[keys.ENGINE]._asleep = 1.0  # type: ignore[attr-defined]
    stream = await client.chat.completions.create(**STREAM)
    assert [chunk async for chunk in stream], "OpenAI's client reads past the comments"


class NoneThere(OverHttp):
    @asynccontextmanager
    async def hold(self, purpose: str, *, wait: float = 900.0) -> AsyncIterator[Upstream]:
        raise NoEngine("no_model", "no model is installed", hint="Install one on the Models page.")
        yield self.upstream


async def test_without_an_engine_it_says_so(door: Front, engine: ScriptedEngine, programs: Any) -> None:
    door.engine.hold = NoneThere(engine).hold  # type: ignore[method-assign]
    client = await programs.client()
    for stream in (True, False):
        with pytest.raises(openai.InternalServerError) as told:
            await client.chat.completions.create(**BODY, stream=stream)
        assert told.value.status_code == 503
        assert told.value.code == "ai_no_model"
        assert "Models page" in str(told.value)
