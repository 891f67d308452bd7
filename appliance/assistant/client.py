"""One conversation with the engine over HTTP, through the `openai` client.

Rules: this page is imported in a thread, never on the event loop (it brings in hundreds of modules). What an engine sends is read by
a fixed schema: unknown events are dropped, lines and answers have a largest size, nothing is fetched because of what it says (AI-9).
The key goes to one address: no redirect is followed and no proxy of the environment is used (AI-10).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
from openai import AsyncOpenAI

from appliance.assistant.engine import Upstream
from appliance.errors import Unavailable

MOST_EVENT = 1 << 20  # bytes of one event
MOST_ANSWER = 64 << 20  # bytes of one answer
CONNECT_SECONDS = 10.0
# A small machine reads a full context for minutes before its first word.
FIRST_SECONDS = 900.0
STALL_SECONDS = 180.0
REJECTED = (400, 415, 422, 500, 501)  # how servers answer what they do not know: tools, a schema
_EVENTS = (b"", b"message", b"error")


class EngineFault(Unavailable):
    """The engine did not answer as it should; ``code`` says how: ``engine_refused`` ``engine_rejected`` (what was asked for)
    ``engine_garbled`` ``engine_cut``
    ``engine_stalled`` ``engine_unreachable``."""


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A part of a tool call; ``id`` and ``name`` come with its first part."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event of the stream adds. ``thinking`` is what a model says to itself. ``usage``: tokens read and written."""

    text: str = ""
    thinking: str = ""
    calls: tuple[CallPiece, ...] = ()
    finish: str = ""
    usage: tuple[int, int] | None = None


@dataclass(frozen=True)
class Question:
    """One request to the model. ``schema``: its answer is JSON of this schema; ``tools`` as OpenAI describes them."""

    messages: Sequence[Mapping[str, Any]]
    max_tokens: int
    tools: Sequence[Mapping[str, Any]] = ()
    schema: Mapping[str, Any] | None = None
    temperature: float | None = None


class Client:
    """Connections to one engine. Use :func:`connected`."""

    def __init__(self, client: AsyncOpenAI, model: str) -> None:
        self._client, self._model = client, model

    async def pieces(self, question: Question) -> AsyncGenerator[Piece, None]:
        """The answer as it comes. Closing the iterator closes the connection, and with it the engine's work.

        Raises EngineFault.
        """
        try:
            async with asyncio.timeout(FIRST_SECONDS) as limit:
                stream = await self._client.chat.completions.create(**_body(self._model, question))
                try:
                    async for chunk in stream:
                        limit.reschedule(asyncio.get_running_loop().time() + STALL_SECONDS)
                        if found := _piece(chunk):
                            yield found
                finally:
                    await stream.close()
        except TimeoutError as error:
            raise EngineFault(
                "the model has stopped answering",
                hint="Ask again; a restart of the service helps.",
                code="engine_stalled",
            ) from error
        except openai.APIStatusError as error:
            raise _refused(error) from error
        except openai.APITimeoutError as error:
            raise _unreachable() from error
        except openai.APIConnectionError as error:
            cut = isinstance(error.__cause__, (httpx2.ReadError, httpx2.RemoteProtocolError))
            raise (_cut() if cut else _unreachable()) from error
        except openai.APIError as error:
            raise EngineFault(
                "the model server gave up in the middle of the answer", hint="Ask again.", code="engine_refused"
            ) from error
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise _cut() from error
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            # Bytes that are no JSON, JSON that is no answer: the client library raises whatever it stumbles over.
            raise EngineFault(
                "the model server sent something that cannot be read", hint="Ask again.", code="engine_garbled"
            ) from error

    async def whole(self, question: Question) -> tuple[str, tuple[int, int] | None]:
        """All the text of an answer, and its usage. Raises EngineFault."""
        text, usage = "", None
        async for piece in self.pieces(question):
            text += piece.text
            usage = piece.usage or usage
        return text, usage


@asynccontextmanager
async def connected(upstream: Upstream) -> AsyncIterator[Client]:
    """A client for ``upstream``, closed afterwards with all its connections."""
    made = await asyncio.to_thread(_make, upstream)  # reading the authorities' certificates takes its time
    try:
        yield Client(made, upstream.model)
    finally:
        await made.close()


async def warm() -> None:
    """Have all that the first question brings in be brought in, off the loop: the library builds its models and chooses its
    connections when it first uses them."""
    with contextlib.suppress(OSError):  # a disk that takes no socket: the first question brings it in
        await asyncio.to_thread(lambda: asyncio.run(_rehearse()))


async def _rehearse() -> None:
    """A question and its answer, over a socket of our own."""
    chunk = {"id": "", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "."}}]}
    body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.read(65536)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + body)
        writer.close()

    with tempfile.TemporaryDirectory(prefix="croft-") as folder:
        socket = Path(folder) / "s"
        server = await asyncio.start_unix_server(reply, socket)
        async with server, connected(Upstream("http://engine/v1", "", "none", 0, socket=socket)) as client:
            await client.whole(Question([{"role": "user", "content": "."}], 1))


def _make(upstream: Upstream) -> AsyncOpenAI:
    # A context of its own authorities costs some 30 ms; nothing local speaks TLS.
    verify = upstream.base.startswith("https:")
    socket = str(upstream.socket) if upstream.socket else None
    http = httpx2.AsyncClient(
        transport=_Guarded(
            httpx2.AsyncHTTPTransport(verify=verify, trust_env=False, uds=socket, retries=0), upstream.address
        ),
        trust_env=False,
        follow_redirects=False,
        verify=False,  # the transport's is what counts; this one would build a context that nothing uses
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
    )
    made = AsyncOpenAI(
        api_key=upstream.key or "none", base_url=upstream.base, http_client=http, max_retries=0, timeout=http.timeout
    )
    made.organization = made.project = None  # which it would take from the environment
    return made


class _Guarded(httpx2.AsyncBaseTransport):
    """A transport to one address, whose answers have a largest size and whose event streams hold only events we know."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, address: str) -> None:
        self._inner, self._address = inner, address

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._address:
            # The name was looked up and its address judged before (NET-8): it is not looked up again.
            request.extensions = {**request.extensions, "sni_hostname": request.url.host}
            request.url = request.url.copy_with(host=self._address)
        response = await self._inner.handle_async_request(request)
        streams = response.headers.get("content-type", "").startswith("text/event-stream")
        response.stream = _Events(response.stream, streams)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Events(httpx2.AsyncByteStream):
    """Event by event (WHATWG HTML 9.2.6); one of another name than ours, or without data, is left out. Other bodies pass whole."""

    def __init__(self, inner: Any, streams: bool) -> None:
        self._inner, self._streams = inner, streams

    async def __aiter__(self) -> AsyncIterator[bytes]:
        held, seen = bytearray(), 0
        async for chunk in self._inner:
            seen += len(chunk)
            held += chunk
            while self._streams and (end := _end(held)) >= 0:
                event = bytes(held[:end])
                del held[:end]
                if _known(event):
                    yield _text(event)
            if len(held) > MOST_EVENT or seen > MOST_ANSWER:
                raise ValueError("the answer is larger than anything a model says")
        if held:
            yield _text(bytes(held))

    async def aclose(self) -> None:
        await self._inner.aclose()


def _end(held: bytearray) -> int:
    """Where the first event ends, its blank line included; -1 if it goes on."""
    found = [at + len(mark) for mark in (b"\n\n", b"\r\n\r\n", b"\r\r") if (at := held.find(mark)) >= 0]
    return min(found, default=-1)


def _known(event: bytes) -> bool:
    lines = event.splitlines()
    names = [line[6:].strip() for line in lines if line.startswith(b"event:")]
    return all(name in _EVENTS for name in names) and any(line.startswith(b"data:") for line in lines)


def _text(event: bytes) -> bytes:
    return event.decode("utf-8", "replace").encode()


def _body(model: str, question: Question) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": list(question.messages),
        "max_tokens": question.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if question.temperature is not None:
        body["temperature"] = question.temperature
    if question.tools:
        body["tools"] = list(question.tools)
    if question.schema is not None:
        described = {"name": "answer", "schema": question.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": described}
    return body


def _piece(chunk: Any) -> Piece | None:
    """What a chunk says, whatever it holds: the library does not check types."""
    usage = _usage(getattr(chunk, "usage", None))
    choices = getattr(chunk, "choices", None)
    for choice in choices if isinstance(choices, list) else ():
        if getattr(choice, "index", None) not in (0, None):
            continue  # we ask for one answer
        delta = getattr(choice, "delta", None)
        thinking = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
        return Piece(
            _string(getattr(delta, "content", None)),
            _string(thinking),
            tuple(_calls(getattr(delta, "tool_calls", None))),
            _string(getattr(choice, "finish_reason", None)),
            usage,
        )
    return Piece(usage=usage) if usage else None


def _calls(found: Any) -> list[CallPiece]:
    pieces = []
    for one in found if isinstance(found, list) else ():
        function, index = getattr(one, "function", None), getattr(one, "index", None)
        pieces.append(
            CallPiece(
                index if isinstance(index, int) else 0,
                _string(getattr(one, "id", None)),
                _string(getattr(function, "name", None)),
                _string(getattr(function, "arguments", None)),
            )
        )
    return pieces


def _usage(found: Any) -> tuple[int, int] | None:
    read, written = getattr(found, "prompt_tokens", None), getattr(found, "completion_tokens", None)
    sane = isinstance(read, int) and isinstance(written, int) and 0 <= read < 1 << 31 and 0 <= written < 1 << 31
    return (read, written) if sane else None  # type: ignore[return-value]  # two integers by now


def _string(found: Any) -> str:
    return found if isinstance(found, str) else ""


def _refused(error: openai.APIStatusError) -> EngineFault:
    known = {
        401: ("the model server does not accept the key", "An admin can set it again in the settings."),
        403: ("the model server does not accept the key", "An admin can set it again in the settings."),
        404: ("the model server does not know this model", "An admin can choose another one."),
        429: ("the model server has too much to do", "Wait a moment, then ask again."),
    }
    words, hint = known.get(
        error.status_code, (f"the model server refused with status {error.status_code}", "Its log says why.")
    )
    code = "engine_rejected" if error.status_code in REJECTED else "engine_refused"
    return EngineFault(words, hint=hint, code=code)


def _cut() -> EngineFault:
    return EngineFault(
        "the model server hung up in the middle of the answer",
        hint="What came so far is kept; ask again.",
        code="engine_cut",
    )


def _unreachable() -> EngineFault:
    return EngineFault("the model server cannot be reached", hint="Ask again in a moment.", code="engine_unreachable")
