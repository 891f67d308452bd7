"""Engines that lie, stall, babble or break, over real HTTP: the answer ends, says how, and keeps what came; nothing else is touched."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.front import front
from support.scripted_engine import Call, Cut, Delta, OverHttp, Raw, Say, ScriptedEngine, Step, scripted_engine
from support.talk import Talk
from support.waiting import until


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[ScriptedEngine]:
    async with scripted_engine(socket=tmp_path / "engine.sock") as running:
        yield running


@pytest.fixture
async def talk(tmp_path: Path, engine: ScriptedEngine) -> AsyncIterator[Talk]:
    async with front(tmp_path / "home", engine=OverHttp(engine)) as made:
        yield Talk(made, (await made.sign_in_as("operator"))[1])


def chunk(**delta: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


GOOD: dict[str, tuple[tuple[Step, ...], dict[str, object]]] = {
    "unknown events": ((Raw(b'event: exec\ndata: {"run": "rm -rf /"}\n\n'), Raw(b"event: ping\ndata: not json\n\n")), {}),
    "comments and fields": ((Raw(b": hello\n\nid: 7\nretry: 1\n\n"),), {}),
    "CRLF": ((Raw(chunk(content="").replace(b"\n", b"\r\n")),), {}),
    "invalid UTF-8": ((Raw(chunk(content="x").replace(b"x", b"\xff\xfe")),), {}),
    "no finish_reason": ((), {"finish": None}),
    "neither finish_reason nor [DONE]": ((), {"finish": None, "done": False}),
    "no usage": ((), {"usage": False}),
    "absurd usage": ((), {"usage_tokens": (-5, 10**30)}),
    "another choice in between": ((Delta({"content": "NOT OURS"}, 1),), {}),
    "choices of other shapes": (
        (Raw(b'data: {"choices": {"0": "x"}}\n\n'), Raw(b'data: {"choices": [7, null]}\n\n'), Raw(b'data: {"choices": []}\n\n')),
        {},
    ),
    "deltas of other shapes": ((Raw(chunk(content={"a": 1})), Raw(chunk(content=["x"])), Raw(chunk(tool_calls="no"))), {}),
    "an empty object": ((Raw(b"data: {}\n\n"),), {}),
    "thoughts": ((Delta({"reasoning_content": "hmm"}),), {}),
    "a long line": ((Raw(chunk(content=" " * 200_000)),), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
async def test_what_can_be_read_over(talk: Talk, engine: ScriptedEngine, name: str) -> None:
    """AI-9: a fixed schema; what is not in it is dropped, and the words around it are there."""
    steps, rest = GOOD[name]
    engine.script(Say("before "), *steps, Say("after"), **rest)
    conversation = await talk.begin()
    answer, reader = await talk.answer(conversation, "Well?")
    assert reader.states[answer] == "done", reader.usage
    text = (await talk.messages(conversation))[-1]["text"]
    assert text.startswith("before")
    assert text.endswith("after")
    assert "NOT OURS" not in text
    assert "rm -rf" not in text
    assert reader.usage[answer]["completion_tokens"] < 10**9


BAD: dict[str, tuple[tuple[Step, ...], str]] = {
    "cut off": ((Cut(),), "engine_cut"),
    "not JSON": ((Raw(b'data: {"choices": [{"index": 0,\n\n'),), "engine_garbled"),
    "a JSON of numbers": ((Raw(b"data: 17\n\n"),), ""),
    "an error event": ((Raw(b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'),), "engine_refused"),
    "a giant line": ((Raw(b"data: " + b"x" * 3_000_000),), "engine_garbled"),
    "a giant event of many lines": ((Raw(b"data: x\n" * 400_000),), "engine_garbled"),
    "calls without end": ((*(Call("read_file", {}, str(n), n) for n in range(40)),), "engine_garbled"),
    "a call with a negative index": ((Raw(chunk(tool_calls=[{"index": -1, "function": {"name": "x"}}])),), "engine_garbled"),
    "deep nesting": ((Raw(b"data: " + b"[" * 100_000 + b"]" * 100_000 + b"\n\n"),), "engine_garbled"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_what_cannot_be_read_ends_the_answer(talk: Talk, engine: ScriptedEngine, name: str) -> None:
    """AI-9: it fails with words for the person; what came before is kept, and the next question works."""
    steps, code = BAD[name]
    engine.script(Say("before "), *steps)
    conversation = await talk.begin()
    answer, reader = await talk.answer(conversation, "Well?")
    if code:
        assert reader.states[answer] == "failed"
        assert reader.usage[answer]["error"]["code"] == code
        assert next(data for data in reader.named("message") if data["state"] == "failed")["error"]
    assert (await talk.messages(conversation))[-1]["text"] == "before"
    await until(lambda: not engine.busy, "it was let go")
    engine.script(Say("fine"))
    await talk.answer(conversation, "And now?")
    assert (await talk.messages(conversation))[-1]["text"] == "fine"


async def test_words_without_end_are_ended(talk: Talk, engine: ScriptedEngine) -> None:
    """A stream of text that never stops is more than an answer holds."""
    engine.script(*(Raw(chunk(content="x" * 50_000)) for _ in range(12)))
    conversation = await talk.begin()
    answer, reader = await talk.answer(conversation, "Well?")
    assert reader.states[answer] == "failed"
    assert len((await talk.messages(conversation))[-1]["text"]) <= 450_000


async def test_no_redirect_is_followed(tmp_path: Path) -> None:
    """AI-10: the key goes to one address."""
    from support.scripted_engine import Fail

    async with scripted_engine() as thief, scripted_engine(socket=tmp_path / "engine.sock") as engine:
        engine.script(Fail(307, "{}", {"Location": f"{thief.base}/chat/completions"}))
        async with front(tmp_path / "home", engine=OverHttp(engine)) as made:
            talk = Talk(made, (await made.sign_in_as("operator"))[1])
            conversation = await talk.begin()
            answer, reader = await talk.answer(conversation, "Well?")
        assert reader.states[answer] == "failed"
        assert thief.requests == []


async def test_proxies_of_the_environment_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AI-10."""
    async with scripted_engine() as thief, scripted_engine() as engine:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, thief.base.removesuffix("/v1"))
        async with front(tmp_path / "home", engine=OverHttp(engine)) as made:
            talk = Talk(made, (await made.sign_in_as("operator"))[1])
            conversation = await talk.begin()
            answer, reader = await talk.answer(conversation, "Well?")
        assert reader.states[answer] == "done"
        assert thief.requests == []


async def test_the_connection_goes_to_the_address_that_was_judged(tmp_path: Path) -> None:
    """AI-10, NET-8: a name that leads elsewhere by now is not looked up again; the request still bears it."""
    async with scripted_engine() as engine:
        chosen = OverHttp(engine)
        port = engine.base.rpartition(":")[2]
        chosen.upstream = replace(chosen.upstream, base=f"http://model.example.invalid:{port}", address="127.0.0.1")
        async with front(tmp_path / "home", engine=chosen) as made:
            talk = Talk(made, (await made.sign_in_as("operator"))[1])
            conversation = await talk.begin()
            answer, reader = await talk.answer(conversation, "Well?")
        assert reader.states[answer] == "done", reader.usage
        assert engine.chats[0].headers["Host"].startswith("model.example.invalid:")
