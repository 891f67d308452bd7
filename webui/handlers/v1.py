"""``/v1``: the engine for other programs, as OpenAI's interface has it. The answer is relayed, not read.

Rules: every request passes the quotas before the engine is woken; a client that goes ends the engine's work for it at once; neither
question nor answer is kept, logged or put into the audit log.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Middleware

from appliance.assistant import v1_request
from appliance.assistant.engine import Engine, EngineState
from appliance.assistant.faults import EngineFault, said_by_engine
from appliance.assistant.quotas import Client, Quotas, Use
from appliance.assistant.relay import Connections, Exchange
from appliance.assistant.room import Late
from appliance.assistant.tally import DONE, Tally
from appliance.assistant.v1_request import Ask
from appliance.errors import CroftError
from webui import keys
from webui.answers import answer
from webui.forms import Bodies, read_body
from webui.guard import Handler, as_error, principal_of
from webui.openai_shape import error_body
from webui.outlet import Outlet
from webui.streams import Streams

ANSWER_MAX = 16 << 20
ERROR_MAX = 64 << 10
EVENTS = "text/event-stream"


@dataclass(frozen=True)
class Caller:
    """Who asks: ``client`` has the quota; streams of ``tag`` end when it does (a session, a token)."""

    client: Client
    tag: str


# Set where everybody who comes is the same one: on the socket of the IDE's terminals.
CALLER: web.AppKey[Caller] = web.AppKey("v1_caller")


def add_to(app: web.Application, engine: Engine, quotas: Late[Quotas], streams: Streams, caller: Caller) -> None:
    """Serve ``/v1`` from another application, for ``caller`` alone. Make it with ``client_max_size=webui.routes.V1_MAX``."""
    app[keys.ENGINE], app[keys.QUOTAS], app[keys.STREAMS], app[CALLER] = engine, quotas, streams, caller
    app[keys.SHARED] = {}
    app.middlewares.extend((_errors, _reader(caller)))
    app.router.add_get("/v1/models", models)
    app.router.add_get("/v1/models/{model:.+}", model)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/embeddings", embeddings)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (ConnectionResetError, ConnectionAbortedError):
        raise
    except Exception as error:  # noqa: BLE001 - as_error logs what it does not know
        status, words, extra = as_error(error)
        return web.json_response(error_body(words, status), status=status, headers=extra)


def _reader(caller: Caller) -> Middleware:
    bodies = Bodies()

    @web.middleware
    async def read(request: web.Request, handler: Handler) -> web.StreamResponse:
        await bodies.read(request, caller.tag)
        return await handler(request)

    return read


async def models(request: web.Request) -> web.Response:
    """The model in use, under our name and under its own."""
    return answer({"object": "list", "data": [_model(name) for name in _names(request)]})


async def model(request: web.Request) -> web.Response:
    """One of them."""
    name = request.match_info["model"]
    if name not in _names(request):
        v1_request.check_model(name, request.app[keys.ENGINE].status().model)
    return answer(_model(name))


def _names(request: web.Request) -> list[str]:
    status = request.app[keys.ENGINE].status()
    if status.state is EngineState.NONE:
        return []
    return [v1_request.OWN_NAME, *([status.model] if status.model not in ("", v1_request.OWN_NAME) else [])]


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "croft"}


async def chat(request: web.Request) -> web.StreamResponse:
    """An answer, whole or as it comes."""
    return await _relay(request, v1_request.chat(await read_body(request)))


async def embeddings(request: web.Request) -> web.StreamResponse:
    """Vectors of texts."""
    return await _relay(request, v1_request.embeddings(await read_body(request)))


async def _relay(request: web.Request, ask: Ask) -> web.StreamResponse:
    caller = _caller(request)
    v1_request.check_model(ask.model, request.app[keys.ENGINE].status().model)
    use = (await request.app[keys.QUOTAS].get()).begin(caller.client, ask.estimate)
    tally = Tally(ask.prompt, wants_usage=ask.wants_usage or not ask.stream)
    try:
        work = _stream if ask.stream else _whole
        return await request.app[keys.STREAMS].run(caller.tag, work(request, ask, tally, use))
    finally:
        use.end(tally.tokens_in, tally.tokens_out)


def _links(request: web.Request) -> Connections:
    """The connections that all requests share."""
    links: Connections = request.app[keys.SHARED].get("v1") or Connections()
    request.app[keys.SHARED]["v1"] = links
    return links


def _caller(request: web.Request) -> Caller:
    if CALLER in request.app:
        return request.app[CALLER]
    principal = principal_of(request)
    person = principal.user.id if principal.user else ""
    kind = "workspace" if principal.access else "page"
    subject = principal.actor if principal.token else f"{kind}:{person}"
    return Caller(Client(subject, person), principal.tag)


async def _whole(request: web.Request, ask: Ask, tally: Tally, use: Use) -> web.StreamResponse:
    async with _asked(request.app[keys.ENGINE], _links(request), ask, tally) as reply:
        if reply.head.result().kind == EVENTS:
            body = await _folded(reply, tally, use)
        else:
            body = tally.whole(await reply.read(ANSWER_MAX))
    return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})


async def _folded(reply: Exchange, tally: Tally, use: Use) -> bytes:
    """A streamed answer as a whole one: for a client that does not stream, of an engine that works on till it does (AI-13)."""
    from appliance.assistant.whole_answer import WholeAnswer

    answer = WholeAnswer()

    def fold(data: bytes) -> None:
        answer.add(tally.feed(data))
        _end_with(tally, use, reply)

    reply.into(fold)
    await reply.end()
    return tally.without_key(answer.body(ended=tally.ended))


async def _stream(request: web.Request, ask: Ask, tally: Tally, use: Use) -> web.StreamResponse:
    """Events as they come. Once the head is out, an error is told as an event, as OpenAI does."""
    async with Outlet(request) as outlet:
        try:
            async with _asked(request.app[keys.ENGINE], _links(request), ask, tally) as reply:
                await _pour(reply, tally, use, outlet)
        except CroftError as error:
            if not outlet.opened:
                raise
            outlet.send(b"data: " + json.dumps(error_body(error, error.status)).encode() + b"\n\n" + DONE)
        return await outlet.end()


async def _pour(reply: Exchange, tally: Tally, use: Use, outlet: Outlet) -> None:
    def pass_on(data: bytes) -> None:
        outlet.send(tally.feed(data))
        _end_with(tally, use, reply)

    if reply.head.result().kind != EVENTS:
        raise EngineFault("it does not answer in pieces")
    await outlet.open(tally.feed(reply.come()))
    _end_with(tally, use, reply)
    outlet.source = reply
    reply.into(pass_on)
    await reply.end()


def _end_with(tally: Tally, use: Use, reply: Exchange) -> None:
    """Take nothing after the end of an answer, or of what its client may use. Raises what the engine says went wrong, QuotaReached."""
    use.going_on(tally.tokens_out)
    if tally.fault:
        raise tally.fault
    if tally.ended:
        reply.finish()


@asynccontextmanager
async def _asked(engine: Engine, links: Connections, ask: Ask, tally: Tally) -> AsyncIterator[Exchange]:
    """The engine awake, asked, and beginning to answer with success. Raises CroftError."""
    async with engine.hold("v1") as upstream:
        try:
            async with links.ask(upstream, ask.path, ask.body(upstream.model)) as reply:
                tally.asked(upstream.key)
                head = reply.head.result()
                if head.status != 200:
                    raise said_by_engine(head.status, await reply.read(ERROR_MAX), upstream.key, head.retry_after)
                yield reply
        except asyncio.CancelledError:
            tally.asked(upstream.key)  # it had begun to read, maybe for minutes
            raise
