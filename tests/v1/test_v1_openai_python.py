"""OpenAI's own Python client works unchanged: what it asks for arrives, and what goes wrong comes as its exceptions."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import openai
import pytest
from support.front import Front
from support.scripted_engine import Call, Delta, Fail, Say, ScriptedEngine, Stall
from support.waiting import until

QUESTION: Any = [{"role": "user", "content": "What is a fork?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a file",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
    },
}


async def test_the_model_in_use_has_two_names(programs: Any) -> None:
    client = await programs.client()
    assert [model.id async for model in client.models.list()] == ["croft", "scripted-7b"]
    assert (await client.models.retrieve("scripted-7b")).owned_by == "croft"
    for name in ("gpt-4o", "scripted-7b/../x", "croft "):
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve(name)


async def test_a_whole_answer(engine: ScriptedEngine, programs: Any) -> None:
    engine.script(Say("A fork is a copy."))
    said = await (await programs.client()).chat.completions.create(
        model="croft", messages=QUESTION, temperature=0.5, user="somebody", metadata={"a": "b"}
    )
    assert said.choices[0].message.content == "A fork is a copy."
    assert said.usage is not None
    assert said.usage.completion_tokens == 5
    got = engine.chats[-1].body
    assert got == {
        "model": "scripted-7b",
        "messages": QUESTION,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }, "what is for the provider stays here; asked for a stream, the engine notices that nobody waits"


@pytest.mark.parametrize("asked", [False, True])
async def test_a_streamed_answer_brings_its_usage_to_who_asked_for_it(
    engine: ScriptedEngine, programs: Any, asked: bool
) -> None:
    engine.script(Say("one two three"))
    options: Any = {"stream_options": {"include_usage": True}} if asked else {}
    stream = await (await programs.client()).chat.completions.create(
        model="scripted-7b", messages=QUESTION, stream=True, **options
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "one two three"
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == ([3] if asked else [])
    assert all(chunk.choices for chunk in chunks) is not asked
    assert engine.chats[-1].body["stream_options"] == {"include_usage": True}, "the quotas need it either way"


async def test_words_in_any_script_arrive_whole(engine: ScriptedEngine, programs: Any) -> None:
    text = 'مرحبًا "usage" \\ "error" \r\n\n data: {} 🧵 ' + "x" * 200_000
    engine.script(Delta({"content": text}))
    stream = await (await programs.client()).chat.completions.create(model="croft", messages=QUESTION, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == text


async def test_tools_pass_through_both_ways(engine: ScriptedEngine, programs: Any) -> None:
    engine.script(Call("read_file", {"path": "a.py"}))
    client = await programs.client()
    call = {"id": "call_0", "type": "function", "function": {"name": "read_file", "arguments": "{}"}}
    messages: Any = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": "print(1)"},
    ]
    stream = await client.chat.completions.create(
        model="croft", messages=messages, tools=[TOOL], tool_choice="auto", stream=True
    )
    arguments, finish = "", None
    async for chunk in stream:
        for piece in chunk.choices[0].delta.tool_calls or []:
            arguments += (piece.function.arguments if piece.function else "") or ""
        finish = chunk.choices[0].finish_reason or finish
    assert (arguments, finish) == ('{"path": "a.py"}', "tool_calls")
    got = engine.chats[-1].body
    assert (got["tools"], got["tool_choice"], got["messages"]) == ([TOOL], "auto", messages)


async def test_embeddings(engine: ScriptedEngine, programs: Any) -> None:
    client = await programs.client()
    found = await client.embeddings.create(model="croft", input=["ab", "abc"], encoding_format="float")
    assert [row.embedding for row in found.data] == [[2.0, 1.0], [3.0, 1.0]]


async def test_errors_are_the_client_s_own_exceptions(door: Front, engine: ScriptedEngine, programs: Any) -> None:
    """AI-10: that the engine refuses Croft's key is no 401 for the client, whose token is good."""
    client = await programs.client()

    async def ask(of: Any = client, **how: Any) -> Any:
        return await of.chat.completions.create(**({"model": "croft", "messages": QUESTION} | how))

    with pytest.raises(openai.AuthenticationError) as told:
        await ask(await programs.client("croft_api_" + "x" * 43))
    assert (told.value.code, told.value.type) == ("invalid_api_key", "invalid_request_error")
    reader = (await programs.token("read"))[1]
    with pytest.raises(openai.PermissionDeniedError) as denied:
        await ask(await programs.client(reader))
    assert denied.value.code == "token_scope"
    with pytest.raises(openai.NotFoundError) as missing:
        await ask(model="gpt-4o")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        await ask(messages="not a list")
    for status, kind in (
        (400, openai.BadRequestError),
        (401, openai.InternalServerError),
        (307, openai.InternalServerError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ):
        for stream in (False, True):
            engine.script(Fail(status, headers={"Location": "http://127.0.0.1:1/", "Retry-After": "3"}))
            with pytest.raises(kind) as failed:
                await ask(stream=stream)
            assert failed.value.body is not None
            assert failed.value.response.headers.get("Retry-After") == ("3" if status == 429 else None)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_ends_the_engine_s_work(
    door: Front, engine: ScriptedEngine, programs: Any, stream: bool
) -> None:
    """AI-13: within two seconds, of an answer that streams and of one that does not."""
    engine.script(Say("word " * 5, 1000), Stall())
    client = await programs.client()
    asking = asyncio.ensure_future(client.chat.completions.create(model="croft", messages=QUESTION, stream=stream))  # type: ignore[call-overload]
    await until(lambda: engine.busy, "the engine works")
    if stream:
        answer = await asking
        await anext(aiter(answer))
        await answer.close()
    else:
        asking.cancel()
    began = time.monotonic()
    await until(lambda: not engine.busy, "the engine is free")
    assert time.monotonic() - began < 2
    assert engine.chats[-1].gone
    assert engine.chats[-1].body["stream"] is True, "llama.cpp notices it only where it streams"
    quotas = await door.quotas.get()
    await until(lambda: not quotas.under_way, "the request is over here too")


async def test_a_stream_ends_with_its_token(door: Front, engine: ScriptedEngine, programs: Any) -> None:
    """AUTH-9: revoked in the middle of an answer."""
    engine.script(Say("word "), Stall())
    token, text = await programs.token()
    stream = await (await programs.client(text)).chat.completions.create(model="croft", messages=QUESTION, stream=True)
    await anext(aiter(stream))
    await door.api_tokens.revoke([token], "test")
    with pytest.raises(openai.APIConnectionError):
        await asyncio.wait_for(_rest(stream), 2)
    await until(lambda: not engine.busy, "the engine is free")


async def _rest(stream: Any) -> None:
    async for _ in stream:
        pass
