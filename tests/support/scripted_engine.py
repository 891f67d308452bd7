"""An OpenAI-compatible engine that says what a test wrote for it, over real HTTP.

Rule: nothing here is patched into the product: it is another program's server, as strict or as hostile as its script. Every chat
request takes the next script (:meth:`ScriptedEngine.script`), or ``otherwise`` once there is none left.

``python -m support.scripted_engine --port N --rate 50`` (in tests/) runs one by itself, for measurements.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from appliance.assistant.engine import EngineState, EngineStatus, Upstream

WORDS = re.compile(r"\s*\S+|\s+")
FOREVER = 3600.0


@dataclass(frozen=True)
class Say:
    """Text, ``rate`` tokens (words) a second; 0 sends them as fast as they go."""

    text: str
    rate: float = 0.0


@dataclass(frozen=True)
class Call:
    """A tool call, its arguments streamed in ``pieces``. A text as ``arguments`` is sent as it is: malformed if it is."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str = "call_1"
    index: int = 0
    pieces: int = 4

    @property
    def text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True)
class Stall:
    """Silence, until the client goes if no time is given."""

    seconds: float = FOREVER


@dataclass(frozen=True)
class Hold:
    """Silence until ``go`` is set."""

    go: asyncio.Event


@dataclass(frozen=True)
class Raw:
    """Bytes of the event stream as they stand: giant lines, unknown events, invalid UTF-8, malformed JSON."""

    data: bytes


@dataclass(frozen=True)
class Delta:
    """A chunk with this delta, in choice ``choice``."""

    delta: Mapping[str, Any]
    choice: int = 0


@dataclass(frozen=True)
class Cut:
    """The connection ends here without a word."""


@dataclass(frozen=True)
class Fail:
    """An answer that is an error, instead of a stream; only as the first step."""

    status: int = 500
    body: str = '{"error": {"message": "the engine failed", "type": "server_error", "code": 500}}'
    headers: Mapping[str, str] = field(default_factory=dict)


Step = Say | Call | Stall | Hold | Raw | Delta | Cut | Fail


@dataclass(frozen=True)
class Script:
    """One answer. ``finish``: the finish_reason, None leaves it out (old engines do); ``done``: ends with [DONE]; ``usage``: sends
    the usage where the client asked for it, ``usage_tokens`` instead of what was counted."""

    steps: tuple[Step, ...] = ()
    finish: str | None = "stop"
    done: bool = True
    usage: bool = True
    usage_tokens: tuple[int, int] | None = None


@dataclass
class Asked:
    """One request. ``gone``: the client went before the answer was whole; ``over``: the engine is done with it."""

    path: str
    body: dict[str, Any]
    headers: Mapping[str, str]
    at: float
    sent: int = 0  # tokens
    gone: bool = False
    over: bool = False
    ended_at: float = 0.0

    @property
    def said(self) -> str:
        """All texts of the messages, for looking something up in them."""
        return "\n".join(json.dumps(message, ensure_ascii=False) for message in self.body.get("messages", []))


class ScriptedEngine:
    """Use :func:`scripted_engine`. ``base`` is what clients take as their base URL."""

    def __init__(self, *, model: str, context: int, key: str) -> None:
        self.model, self.context, self.key = model, context, key
        self.base = ""
        self.socket: Path | None = None
        self.requests: list[Asked] = []
        self.otherwise: Callable[[dict[str, Any]], Script] = lambda body: Script((Say("Hello from the engine."),))
        self._scripts: deque[Script] = deque()

    def script(self, *steps: Step, **rest: Any) -> None:
        """The answer to the next chat request that has none yet."""
        self._scripts.append(Script(steps, **rest))

    def forget(self) -> None:
        """Scripts that nobody took."""
        self._scripts.clear()

    @property
    def busy(self) -> int:
        """How many answers are under way."""
        return sum(not asked.over for asked in self.requests)

    @property
    def chats(self) -> list[Asked]:
        return [asked for asked in self.requests if asked.path == "/v1/chat/completions"]

    def upstream(self, *, tools: bool = True, remote: bool = False) -> Upstream:
        """Where the appliance's own parts find it."""
        return Upstream(self.base, self.key, self.model, self.context, remote, self.socket, tools=tools)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_get("/health", self._health)
        app.router.add_get("/slots", self._slots)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_post("/tokenize", self._tokenize)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        return await _json({"status": "ok"})

    async def _slots(self, request: web.Request) -> web.Response:
        return await _json([{"id": n, "is_processing": n < self.busy} for n in range(max(1, self.busy))])

    async def _models(self, request: web.Request) -> web.Response:
        return await _json({"object": "list", "data": [{"id": self.model, "object": "model", "owned_by": "tests"}]})

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        rows = [
            {"object": "embedding", "index": n, "embedding": [float(len(text)), 1.0]} for n, text in enumerate(texts)
        ]
        used = sum(len(tokens(str(text))) for text in texts)
        usage = {"prompt_tokens": used, "total_tokens": used}
        return await _json({"object": "list", "data": rows, "model": self.model, "usage": usage})

    async def _tokenize(self, request: web.Request) -> web.Response:
        return await _json({"tokens": list(range(len(tokens((await request.json())["content"]))))})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request.path, await request.json(), dict(request.headers), time.monotonic())
        self.requests.append(asked)
        try:
            if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
                return await _json({"error": {"message": "Incorrect API key", "type": "auth"}}, 401)
            script = self._scripts.popleft() if self._scripts else self.otherwise(asked.body)
            first = script.steps[0] if script.steps else None
            if isinstance(first, Fail):
                return web.Response(
                    status=first.status, text=first.body, content_type="application/json", headers=first.headers
                )
            if not asked.body.get("stream"):
                return await self._whole(asked, script)
            return await self._stream(request, asked, script)
        except (asyncio.CancelledError, ConnectionResetError):
            asked.gone = True
            raise
        finally:
            asked.over, asked.ended_at = True, time.monotonic()

    async def _whole(self, asked: Asked, script: Script) -> web.Response:
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        calls = []
        for step in script.steps:
            if isinstance(step, Say):
                if step.rate:
                    await asyncio.sleep(len(tokens(step.text)) / step.rate)
                message["content"] += step.text
                asked.sent += len(tokens(step.text))
            elif isinstance(step, Stall):
                await asyncio.sleep(step.seconds)
            elif isinstance(step, Hold):
                await step.go.wait()
            elif isinstance(step, Call):
                calls.append(
                    {"id": step.id, "type": "function", "function": {"name": step.name, "arguments": step.text}}
                )
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "finish_reason": script.finish}
        head = self._head("chat.completion")
        return await _json({**head, "choices": [choice], "usage": self._usage(asked, script)})

    async def _stream(self, request: web.Request, asked: Asked, script: Script) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        out = _Out(response, self._head("chat.completion.chunk"), asked)
        await out.delta({"role": "assistant", "content": None})
        finish = script.finish
        for step in script.steps:
            match step:
                case Say():
                    await out.say(step)
                case Call():
                    await out.call(step)
                    finish = "tool_calls" if finish == "stop" else finish
                case Delta():
                    await out.delta(step.delta, step.choice)
                case Raw():
                    await response.write(step.data)
                case Stall():
                    await asyncio.sleep(step.seconds)
                case Hold():
                    await step.go.wait()
                case Cut():
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                case Fail():
                    raise AssertionError("a Fail can only be the first step")
        if finish is not None:
            await out.send({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        if script.usage and (asked.body.get("stream_options") or {}).get("include_usage"):
            await out.send({"choices": [], "usage": self._usage(asked, script)})
        if script.done:
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{len(self.requests)}",
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
        }

    def _usage(self, asked: Asked, script: Script) -> dict[str, int]:
        prompt, completion = script.usage_tokens or (len(tokens(asked.said)), asked.sent)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@dataclass
class _Out:
    """The chunks of one stream."""

    response: web.StreamResponse
    head: dict[str, Any]
    asked: Asked

    async def send(self, rest: dict[str, Any]) -> None:
        await self.response.write(b"data: " + json.dumps({**self.head, **rest}).encode() + b"\n\n")

    async def delta(self, delta: Mapping[str, Any], choice: int = 0) -> None:
        await self.send({"choices": [{"index": choice, "delta": delta, "finish_reason": None}]})

    async def say(self, step: Say) -> None:
        begin = time.monotonic()
        for number, token in enumerate(tokens(step.text)):
            if step.rate:
                # By the clock, not by pauses: what one token was late the next one is not.
                await asyncio.sleep(max(0.0, begin + number / step.rate - time.monotonic()))
            await self.delta({"content": token})
            self.asked.sent += 1

    async def call(self, step: Call) -> None:
        head = {
            "index": step.index,
            "id": step.id,
            "type": "function",
            "function": {"name": step.name, "arguments": ""},
        }
        await self.delta({"tool_calls": [head]})
        size = max(1, -(-len(step.text) // step.pieces))
        for at in range(0, len(step.text), size):
            piece = {"index": step.index, "function": {"arguments": step.text[at : at + size]}}
            await self.delta({"tool_calls": [piece]})


class OverHttp:
    """An `Engine` (appliance.assistant.engine) over a scripted server: awake at once unless ``asleep`` seconds are given."""

    def __init__(
        self, server: ScriptedEngine, *, tools: bool = True, remote: bool = False, asleep: float = 0.0
    ) -> None:
        self._server, self._asleep = server, asleep
        self.upstream = server.upstream(tools=tools, remote=remote)
        self.held = 0

    def status(self) -> EngineStatus:
        state = EngineState.ASLEEP if self._asleep else EngineState.READY
        return EngineStatus(state, self.upstream.remote, "", self.upstream.model, self.upstream.context)

    @asynccontextmanager
    async def hold(self, purpose: str, *, wait: float = 900.0) -> AsyncIterator[Upstream]:
        self.held += 1
        try:
            await asyncio.sleep(self._asleep)
            self._asleep = 0.0
            yield self.upstream
        finally:
            self.held -= 1

    async def idle(self) -> bool:
        return self._server.busy == 0


def tokens(text: str) -> list[str]:
    """The words of a text with the blanks before them: what this engine calls tokens."""
    return WORDS.findall(text)


async def _json(value: Any, status: int = 200) -> web.Response:
    return web.json_response(value, status=status)


@asynccontextmanager
async def scripted_engine(
    *, socket: Path | None = None, port: int = 0, model: str = "scripted", context: int = 4096, key: str = "sk-scripted"
) -> AsyncIterator[ScriptedEngine]:
    """A running engine on loopback, or on a unix socket if one is given."""
    engine = ScriptedEngine(model=model, context=context, key=key)
    runner = web.AppRunner(engine.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    try:
        if socket is not None:
            await web.UnixSite(runner, str(socket)).start()
            engine.base, engine.socket = "http://engine/v1", socket
        else:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            engine.base = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield engine
    finally:
        await runner.cleanup()


@contextmanager
def engine_in_thread(port: int, **how: Any) -> Iterator[ScriptedEngine]:
    """The same for tests that have no event loop of their own: it runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="engine", daemon=True)
    thread.start()
    running = scripted_engine(port=port, **how)
    try:
        yield asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result(10)
        asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _serve(port: int, rate: float, words: int) -> None:
    async with scripted_engine(port=port, key="") as engine:
        engine.otherwise = lambda body: Script((Say("word " * (body.get("max_tokens") or words), rate),))
        print(engine.base, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An engine that says the same word over and over.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=float, default=50.0, help="tokens a second; 0 is as fast as it goes")
    parser.add_argument("--words", type=int, default=500, help="length of an answer without max_tokens")
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(given.port, given.rate, given.words))
