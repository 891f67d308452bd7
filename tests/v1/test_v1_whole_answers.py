"""A whole answer made of a stream: nothing is lost, doubled or out of place, whatever the engine streams."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from itertools import pairwise
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scripted_engine import Call, Delta, Raw, Say, Script, ScriptedEngine
from support.waiting import until

from appliance.assistant import whole_answer
from appliance.assistant.faults import EngineFault
from appliance.assistant.whole_answer import WholeAnswer

QUESTION: Any = [{"role": "user", "content": "What is a fork?"}]
TOOLS: Any = [{"type": "function", "function": {"name": "read_file", "parameters": {"type": "object"}}}]


def event(*choices: Any, **rest: Any) -> bytes:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    return b"data: " + json.dumps(head | {"choices": list(choices)} | rest).encode() + b"\n\n"


def piece(delta: Any, index: int = 0, **rest: Any) -> Any:
    return {"index": index, "delta": delta, "finish_reason": None} | rest


def whole(*events: bytes, ended: bool = True) -> Any:
    answer = WholeAnswer()
    for one in events:
        answer.add(one)
    return json.loads(answer.body(ended=ended))


async def test_tool_calls(engine: ScriptedEngine, programs: Any) -> None:
    engine.script(
        Call("read_file", {"path": "a.py"}, id="call_a"), Call("read_file", {"path": "ب.py"}, id="call_b", index=1)
    )
    said = await (await programs.client()).chat.completions.create(model="croft", messages=QUESTION, tools=TOOLS)
    choice = said.choices[0]
    assert (choice.message.content, choice.finish_reason, said.object) == (None, "tool_calls", "chat.completion")
    found = [(call.id, call.type, call.function.name, call.function.arguments) for call in choice.message.tool_calls]
    assert found == [
        ("call_a", "function", "read_file", '{"path": "a.py"}'),
        ("call_b", "function", "read_file", json.dumps({"path": "ب.py"})),
    ]


async def test_several_choices_and_what_was_read_and_written(engine: ScriptedEngine, programs: Any) -> None:
    engine.script(
        Delta({"content": "one"}, 1), Say("zero "), Delta({"content": " more"}, 1), Say("end"), usage_tokens=(7, 4)
    )
    said = await (await programs.client()).chat.completions.create(model="croft", messages=QUESTION, n=2)
    assert [(choice.index, choice.message.content) for choice in said.choices] == [(0, "zero end"), (1, "one more")]
    assert (said.usage.prompt_tokens, said.usage.completion_tokens, said.usage.total_tokens) == (7, 4, 11)


async def test_options_of_a_stream_do_not_make_one(engine: ScriptedEngine, programs: Any) -> None:
    engine.script(Say("whole"))
    said = await (await programs.client()).chat.completions.create(
        model="croft", messages=QUESTION, stream=False, extra_body={"stream_options": {"include_usage": False}}
    )
    assert (said.choices[0].message.content, said.usage.completion_tokens) == ("whole", 1)


async def test_a_server_that_does_not_stream_is_taken_as_it_is(engine: ScriptedEngine, programs: Any) -> None:
    """Some endpoints elsewhere answer in one piece whatever they are asked for."""

    def in_one_piece(body: dict[str, Any]) -> Script:
        del body["stream"]
        return Script((Say("all of it"),))

    engine.otherwise = in_one_piece
    said = await (await programs.client()).chat.completions.create(model="croft", messages=QUESTION)
    assert said.choices[0].message.content == "all of it"


@pytest.mark.parametrize(
    "steps",
    [
        (Say("half"), Raw(b'data: {"error": {"message": "out of memory"}}\n\n')),
        (Say("half"), Raw(b'data: {"choices":[{"delta":{"content":{"a":"b"}}}]}\n\n')),
        (Raw(b'data: {"choices":5}\n\n'),),
        (Raw(b"data: {" + b"x" * (2 << 20)),),
    ],
)
async def test_what_breaks_off_is_an_error_with_a_status(engine: ScriptedEngine, programs: Any, steps: Any) -> None:
    """A stream can only say so in the middle; a whole answer has not begun yet."""
    engine.script(*steps)
    with pytest.raises(openai.InternalServerError) as told:
        await (await programs.client()).chat.completions.create(model="croft", messages=QUESTION)
    assert (told.value.status_code, told.value.code) == (502, "engine_failed")
    await until(lambda: not engine.busy, "the engine is free")


async def test_half_an_answer_is_none(engine: ScriptedEngine, programs: Any) -> None:
    client = await programs.client()
    engine.script(Say("half"), finish=None, done=False)
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="croft", messages=QUESTION)
    for rest in ({"finish": None}, {"done": False}):  # old engines leave out one or the other
        engine.script(Say("whole"), **rest)
        said = await client.chat.completions.create(model="croft", messages=QUESTION)
        assert said.choices[0].message.content == "whole"


def test_probabilities_and_thoughts_and_unknown_fields_stay() -> None:
    row = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    found = whole(
        event(piece({"role": "assistant", "content": None, "reasoning_content": "hm"})),
        event(piece({"reasoning_content": "m", "content": "a"}, logprobs={"content": [row], "refusal": None})),
        event(piece({"content": "b", "audio": {"id": "x", "data": "AA"}}, logprobs={"content": [row]})),
        event(piece({"audio": {"data": "BB", "at": {"n": 1}}}, finish_reason="length")),
        event(usage={"prompt_tokens": 1, "completion_tokens": 2, "details": {"cached": 1}}, timings={"ms": 3}),
    )
    (choice,) = found["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "ab",
        "reasoning_content": "hmm",
        "audio": {"id": "x", "data": "AABB", "at": {"n": 1}},
    }
    assert choice["logprobs"] == {"content": [row, row], "refusal": []}
    assert choice["finish_reason"] == "length"
    assert found["usage"]["details"] == {"cached": 1}
    assert (found["id"], found["created"], found["model"], found["object"]) == ("c1", 5, "m", "chat.completion")


@given(st.text(), st.lists(st.integers(0, 40), max_size=6))
def test_a_text_is_the_same_however_it_was_cut(text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[begin:end] for begin, end in pairwise(edges)]
    assert whole(*(event(piece({"content": one})) for one in pieces))["choices"][0]["message"]["content"] == text


def test_a_name_that_is_told_again_is_not_doubled() -> None:
    """Some servers repeat it with every piece of the arguments, or leave it empty there."""
    calls = [
        {"index": 0, "id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id_, name, arguments in (("a", "f", "{"), ("a", "f", '"x":'), ("", "", "1}"))
    ]
    found = whole(*(event(piece({"tool_calls": [call]})) for call in calls))
    (call,) = found["choices"][0]["message"]["tool_calls"]
    assert call == {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}


def test_no_more_is_kept_than_an_answer_may_be_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """WEB-16: an engine without end."""
    monkeypatch.setattr(whole_answer, "ANSWER_MAX", 10_000)
    answer = WholeAnswer()
    with pytest.raises(EngineFault, match="too large"):
        answer.add(event(piece({"content": "word "})) * 1000)


@pytest.mark.parametrize(
    "said",
    [
        lambda number: piece({}, finish_reason="a" * 300_000),
        lambda number: piece({}, logprobs={"content": [1] * 10_000}),
        lambda number: piece({}, logprobs={f"{number}-{field}": [] for field in range(3000)}),
        lambda number: piece({f"{number}-{field}": "" for field in range(3000)}),
        lambda number: piece({"x": {f"{number}-{field}": 1 for field in range(3000)}}),
        lambda number: piece({"tool_calls": [{"index": 1, f"{number}-{field}": ""} for field in range(3000)]}),
    ],
    ids=["reasons", "rows", "kinds of rows", "fields", "fields within", "fields of a call"],
)
def test_what_is_kept_is_weighed_as_the_memory_it_takes(monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    """WEB-16: of a field or a row the least part is what it says, and the daemon has half a gigabyte."""
    monkeypatch.setattr(whole_answer, "ANSWER_MAX", 4 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(EngineFault, match="too large"):
            whole(*(event(said(number)) for number in range(16)))
        assert tracemalloc.get_traced_memory()[1] < 3 * whole_answer.ANSWER_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("place", [-1, 128, 10**30])
@pytest.mark.parametrize("of", ["choice", "call"])
def test_choices_and_calls_are_numbered_as_openai_does(of: str, place: int) -> None:
    """WEB-16: nobody asks for more, and each takes memory though nothing is said of it."""
    said = piece({}, index=place) if of == "choice" else piece({"tool_calls": [{"index": place}]})
    with pytest.raises(EngineFault, match="cannot be read"):
        WholeAnswer().add(event(said))


@pytest.mark.parametrize("first", ["a", 1, {"b": "c"}, {"b": 1}])
@pytest.mark.parametrize("then", ["a", 1, {"b": "c"}, {"b": 1}])
def test_a_field_of_another_kind_all_at_once_is_no_fault_of_ours(first: Any, then: Any) -> None:
    """WEB-16."""
    answer = WholeAnswer()
    with contextlib.suppress(EngineFault):
        answer.add(event(piece({"content": first})))
        answer.add(event(piece({"content": then})))
        answer.body(ended=True)


def test_nothing_deep_stops_it() -> None:
    """WEB-16."""
    deep = b'data: {"choices":[{"index":0,"delta":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}]}\n\n"
    with pytest.raises(EngineFault):
        WholeAnswer().add(deep)
