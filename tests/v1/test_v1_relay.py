"""The relay by itself: connections that are kept, pieces however they are cut, and the real llama.cpp behind it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scripted_engine import Say, Stall, scripted_engine
from support.waiting import until

from appliance.assistant import relay
from appliance.assistant.engine import Upstream
from appliance.assistant.faults import EngineFault
from appliance.assistant.relay import Connections, Exchange
from appliance.assistant.tally import Tally

BODY = b'{"model": "m", "messages": [], "stream": true}'
STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"content":"\xd9\x85\xd8\xb1\xd8\xad\xd8\xa8\xd8\xa7"}}]}\n\n'
    b": ping\n\n"
    b'data: {"choices":[{"index":0,"delta":{"content":" \\"usage\\""}}],"usage":null}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.booleans(), st.booleans())
def test_an_answer_is_the_same_however_it_is_cut(cuts: list[int], wants_usage: bool, returns: bool) -> None:
    """TCP cuts where it likes: inside a letter, a field's name, a line's end."""
    stream = STREAM.replace(b"\n", b"\r\n") if returns else STREAM
    tally = Tally(99, wants_usage=wants_usage)
    tally.asked("")
    edges = [0, *sorted(cut for cut in cuts if cut <= len(stream)), len(stream)]
    out = b"".join(tally.feed(stream[begin:end]) for begin, end in pairwise(edges))
    events = [event for event in STREAM.split(b"\n\n") if event.startswith(b"data:")]
    assert out.split(b"\n\n")[:-1] == [event for number, event in enumerate(events) if wants_usage or number != 2]
    assert (tally.tokens_in, tally.tokens_out, tally.ended) == (7, 2, True)


def test_without_usage_the_events_count() -> None:
    tally = Tally(40, wants_usage=False)
    assert (tally.tokens_in, tally.tokens_out) == (0, 0), "an engine that was never asked has used nothing"
    tally.asked("")
    for _ in range(5):
        tally.feed(b'data: {"choices":[{}]}\n\ndata: {"choices":[{}]}\n\n')
    assert (tally.tokens_in, tally.tokens_out) == (40, 10)


async def ask(links: Connections, upstream: Upstream, *, whole: bool = True) -> None:
    async with links.ask(upstream, "/chat/completions", BODY) as reply:
        assert reply.head.result().status == 200
        if whole:
            await reply.read(1 << 20)


async def test_a_connection_is_kept_only_after_a_whole_answer(tmp_path: Path) -> None:
    links = Connections()
    async with scripted_engine(key="") as engine:
        upstream = engine.upstream()
        for _ in range(3):
            await ask(links, upstream)
        assert _sockets(links) == 1
        engine.script(Say("word " * 50, 100))
        await ask(links, upstream, whole=False)
        assert _sockets(links) == 0, "what is left of an answer must not be read as the next one"
        await asyncio.gather(*(ask(links, upstream) for _ in range(3)))
        assert _sockets(links) == 3
        links.close()
        assert _sockets(links) == 0
    async with scripted_engine(key="", socket=tmp_path / "e.sock") as engine:
        await ask(links, engine.upstream())
        assert _sockets(links) == 0, "one to the engine on this machine would hold one of its threads"


def _kept(links: Connections) -> list[Exchange]:
    return [link for idle in links._idle.values() for link in idle if link.reusable]


def _sockets(links: Connections) -> int:
    return len(_kept(links))


async def test_a_kept_connection_that_has_ended_is_noticed() -> None:
    """The engine was restarted: the next request goes over a new connection, and nobody hears of it."""
    links = Connections()
    async with scripted_engine(key="") as engine:
        await ask(links, engine.upstream())
        port = int(engine.base.rsplit(":", 1)[1].split("/")[0])
    async with scripted_engine(key="", port=port) as engine:
        await ask(links, engine.upstream())
    with pytest.raises(EngineFault):
        await ask(links, engine.upstream())
    links.close()


async def test_a_kept_connection_watches_each_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that falls silent is noticed on every request, and the time between two of them is no silence."""
    monkeypatch.setattr(relay, "SILENCE_SECONDS", 0.3)
    links = Connections()
    async with scripted_engine(key="") as engine:
        await ask(links, engine.upstream())
        kept = _kept(links)
        await asyncio.sleep(0.5)
        await ask(links, engine.upstream())
        assert _kept(links) == kept
        engine.script(Stall(60))
        with pytest.raises(EngineFault) as told:
            await ask(links, engine.upstream())
        assert told.value.status == 504
    links.close()


async def test_a_connection_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "IDLE_SECONDS", 0.1)
    links = Connections()
    async with scripted_engine(key="") as engine:
        for _ in range(2):
            await ask(links, engine.upstream())
            assert _sockets(links) == 1
            await until(lambda: _sockets(links) == 0, "the engine is left alone")
