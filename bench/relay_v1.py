"""R1 to R5: what ``/v1`` adds to an engine, against a relay that uses OpenAI's own client, LiteLLM, and Caddy alone.

The engine is a few lines that stream events over real HTTP, for R4 llama.cpp with a model of half a megabyte, which is as fast as it can
be. Everything shares the machine, so what is compared is measured in turn and CPU is that of the relaying processes alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import ssl
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from footprint import first_answer
from measure import Figure, NotRun, cpu_seconds, free_port, interleave, medians, pss_mb, ratio, tree, wait_for
from stage import HOST, caddy, peers, scratch, whole_appliance

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.tiny_model import tiny_model

LITELLM = "1.106.2"
STREAMS, RATE, TOKENS = 32, 50, 300  # six seconds of paced tokens

# An engine: ``max_tokens`` events (400 at most), ``seed`` of them a second (0: as fast as they go). argv: port.
ENGINE = """
import asyncio, json, re, sys
HEAD = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench","choices":'
EVENT = HEAD + b'[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\\n\\n'
END = HEAD + b'[{"index":0,"delta":{},"finish_reason":"stop"}]}\\n\\ndata: [DONE]\\n\\n'
CHUNK = b"%x\\r\\n%b\\r\\n" % (len(EVENT), EVENT)

async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            body = await reader.readexactly(int(re.search(rb"(?i)content-length: *(\\d+)", head)[1]))
            asked = json.loads(body)
            count, rate = min(asked["max_tokens"], 400), asked.get("seed", 50)
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
            began = asyncio.get_running_loop().time()
            for number in range(count):
                if rate:
                    await asyncio.sleep(max(0, began + number / rate - asyncio.get_running_loop().time()))
                writer.write(CHUNK)
                await writer.drain()
            writer.write(b"%x\\r\\n%b\\r\\n0\\r\\n\\r\\n" % (len(END), END))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=512)
    await server.serve_forever()

asyncio.run(main())
"""

# What one would write first: a handler around OpenAI's client. argv: the engine's base, port.
WITH_OPENAI = """
import sys
from aiohttp import web
from openai import AsyncOpenAI

client = AsyncOpenAI(base_url=sys.argv[1], api_key="x", max_retries=0, timeout=600)

async def chat(request):
    body = await request.json()
    stream = await client.chat.completions.create(**body)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    async for chunk in stream:
        await response.write(b"data: " + chunk.model_dump_json(exclude_unset=True).encode() + b"\\n\\n")
    await response.write(b"data: [DONE]\\n\\n")
    return response

app = web.Application()
app.router.add_post("/v1/chat/completions", chat)
app.router.add_get("/health", lambda request: None)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None)
"""

# llama.cpp as the engine of an appliance, with eight answers at once. argv: model file, port.
LLAMA = """
import signal, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx, params.n_parallel = sys.argv[1], int(sys.argv[2]), 8 * 1024, 8
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # more would only wait for each other
params.hostnames, params.ui, params.offline, params.verbosity = ["127.0.0.1"], False, True, 0
server = xllamacpp.Server(params)
while True:
    signal.pause()
"""

# The same bytes through Caddy, which asks somebody for each request: the least a relay with a check can cost.
CHECKED = """
http://127.0.0.1:{port} {{
	forward_auth 127.0.0.1:{check} {{
		uri /
	}}
	reverse_proxy 127.0.0.1:{engine}
}}
http://127.0.0.1:{check} {{
	respond 200
}}
"""


@dataclass(frozen=True)
class Way:
    """A way to the engine: where to connect, which processes pass the bytes on, and what a request must carry."""

    where: int | Path
    pids: tuple[int, ...] = ()
    token: str = "x"  # noqa: S105 - what asks for none takes any
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None

    def request(self, tokens: int, rate: int) -> bytes:
        body = json.dumps(
            {
                "model": "bench",
                "messages": [{"role": "user", "content": "word " * 50}],
                "stream": True,
                "max_tokens": tokens,
                "seed": rate,
            }
        ).encode()
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.token}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode() + body


async def _stream(way: Way, tokens: int, rate: int) -> tuple[float, int]:
    """Seconds to the first token, and how many came."""
    began = time.perf_counter()
    if isinstance(way.where, Path):
        reader, writer = await asyncio.open_unix_connection(str(way.where))
    else:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", way.where, ssl=way.tls, server_hostname=HOST if way.tls else None
        )
    try:
        writer.write(way.request(tokens, rate))
        first, count, rest, head = 0.0, 0, b"", b""
        while data := await reader.read(65536):
            if not first:
                head += data
                if b'"content"' in head:
                    first = time.perf_counter() - began
            data = rest + data
            count += data.count(b'"content"')
            rest = data[-8:] if not data.endswith(b"\n") else b""
            if b"[DONE]" in data:
                break
        if not first:
            raise RuntimeError(f"no answer: {head[:300]!r}")
        return first, count
    finally:
        writer.transport.abort()


async def _streams(way: Way, count: int, tokens: int, rate: int) -> list[tuple[float, int]]:
    return list(await asyncio.gather(*(_stream(way, tokens, rate) for _ in range(count))))


def first_token(way: Way, streams: int, times: int) -> float:
    """Median milliseconds to the first token."""
    found: list[float] = []
    for _ in range(times):
        found += [first for first, _ in asyncio.run(_streams(way, streams, 8, RATE))]
    return statistics.median(found) * 1000


def cpu_per_token(way: Way) -> float:
    """Microseconds of the relaying processes for each token, at 32 streams of 50 a second."""
    before = cpu_seconds(way.pids)
    came = sum(count for _, count in asyncio.run(_streams(way, STREAMS, TOKENS, RATE)))
    if came < STREAMS * TOKENS * 0.99:
        raise RuntimeError(f"{came} of {STREAMS * TOKENS} tokens came")
    return (cpu_seconds(way.pids) - before) / came * 1e6


def events_per_second(way: Way) -> float:
    """Events of eight streams at once, as fast as they come."""
    began = time.perf_counter()
    came = sum(count for _, count in asyncio.run(_streams(way, 8, 400, 0)))
    return came / (time.perf_counter() - began)


def cpu(rounds: int) -> list[Figure]:
    """R1."""
    with engine_of(ENGINE) as engine, _ours(engine) as ours, _with_openai(engine) as naive, _checked(engine) as bare:
        ways = {"ours": ours, "openai": naive, "caddy": bare}
        for way in ways.values():
            first_token(way, 4, 1)
        found = interleave({name: lambda way=way: cpu_per_token(way) for name, way in ways.items()}, rounds)
    detail = {f"{name} us": value for name, value in medians(found).items()}
    return [
        Figure("R1", "/v1, CPU per token / a relay with OpenAI's client", 0.13, 0.09, True,
               ratio(found, "ours", "openai"), detail=detail),
        Figure("R1b", "the same / Caddy with forward_auth", 1.2, 0.9, True, ratio(found, "ours", "caddy")),
    ]  # fmt: skip


def waiting(rounds: int) -> list[Figure]:
    """R2, R3: added time to the first token."""
    with ExitStack() as stack:
        engine = stack.enter_context(engine_of(ENGINE))
        ways = {
            "direct": Way(engine),
            "ours": stack.enter_context(_ours(engine)),
            "openai": stack.enter_context(_with_openai(engine)),
        }
        why = ""
        try:
            ways["litellm"] = stack.enter_context(_litellm(engine))
        except NotRun as reason:
            why = str(reason)
        for way in ways.values():
            first_token(way, 4, 2)
        one = interleave({name: lambda way=way: first_token(way, 1, 30) for name, way in ways.items()}, rounds)
        many = interleave({name: lambda way=way: first_token(way, STREAMS, 3) for name, way in ways.items()}, rounds)
    return [
        *_added("R2", "1 stream", one, (0.30, 0.18), (0.05, 0.03), why),
        *_added("R3", "32 streams", many, (0.15, 0.10), (0.025, 0.015), why),
    ]


def _added(
    name: str,
    what: str,
    found: dict[str, list[float]],
    naive: tuple[float, float],
    proxy: tuple[float, float],
    why: str,
) -> list[Figure]:
    added = {key: [a - b for a, b in zip(found[key], found["direct"], strict=True)] for key in found if key != "direct"}
    detail = {f"{key} ms": value for key, value in medians(found).items()}
    middle = medians(added)
    second = (f"{name}b", "the same / LiteLLM", *proxy, True)
    return [
        Figure(name, f"/v1, added time to first token, {what} / a relay with OpenAI's client", *naive, True,
               max(0.0, middle["ours"]) / middle["openai"], detail=detail),
        Figure(*second, why=why) if why else Figure(*second, max(0.0, middle["ours"]) / middle["litellm"]),
    ]  # fmt: skip


def through_everything(rounds: int) -> list[Figure]:
    """R4: browser's side of Caddy to llama.cpp and back, with TLS ended by Caddy."""
    with (
        scratch() as folder,
        engine_of(LLAMA, str(tiny_model(folder, 1024))) as engine,
        _ours(engine, front=True) as ours,
    ):
        direct = Way(engine)
        for way in (direct, ours):
            events_per_second(way)
        found = interleave(
            {"direct": lambda: events_per_second(direct), "chain": lambda: events_per_second(ours)}, rounds
        )
    detail = {f"{name}/s": value for name, value in medians(found).items()}
    return [
        Figure("R4", "llama.cpp events/s through Caddy and /v1 / direct, 8 streams", 0.85, 0.92, False,
               ratio(found, "chain", "direct"), detail=detail)
    ]  # fmt: skip


def beside_litellm(rounds: int) -> list[Figure]:
    """R5: memory after relaying, and time from start to the first answer, each of one start a round."""
    found: dict[str, list[float]] = {name: [] for name in ("ours MB", "litellm MB", "ours s", "litellm s")}
    with engine_of(ENGINE) as engine:
        for _ in range(min(rounds, 3)):
            began = time.monotonic()
            with _litellm(engine) as way:
                found["litellm s"].append(time.monotonic() - began)
                first_token(way, 4, 2)
                found["litellm MB"].append(pss_mb(way.pids))
            with _ours(engine) as way:
                first_token(way, 4, 2)
                found["ours MB"].append(pss_mb(way.pids))
            found["ours s"].append(first_answer())
    return [
        Figure("R5", "daemon after relaying, PSS / LiteLLM proxy", 0.17, 0.13, True,
               ratio(found, "ours MB", "litellm MB"), detail=medians(found)),
        Figure("R5b", "start to the first answer, broker included / LiteLLM proxy", 0.07, 0.045, True,
               ratio(found, "ours s", "litellm s")),
    ]  # fmt: skip


@contextmanager
def engine_of(script: str, *words: str) -> Iterator[int]:
    port = free_port()
    with _program([sys.executable, "-c", script, *words, str(port)], port):
        yield port


@contextmanager
def _program(argv: list[str], port: int, seconds: float = 60, **how: object) -> Iterator[int]:
    """A program that listens on ``port``; its pid."""
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **how)  # type: ignore[call-overload]

    def up() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{argv[0]} ended with {process.returncode}")
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(up, f"{argv[0]} listens", seconds)
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def _ours(engine: int, *, front: bool = False) -> Iterator[Way]:
    """The daemon of a real appliance, asked on the socket that Caddy asks it on; with ``front`` through its Caddy and TLS."""
    settings = (
        f'[ai]\nengine = "remote"\nurl = "http://127.0.0.1:{engine}/v1"\nnetwork = "private"\nmodel = "bench"\n'
        "rate_minute = 0\nparallel = 0\ntoken_day = 0\nperson_day = 0\n"
    )
    with whole_appliance(settings) as appliance:
        appliance.control.call("POST", "/api/users", {"email": "a@example.org", "name": "A", "role": "admin"})
        token = appliance.croft("tokens", "create", "bench", "--scope", "ai")["text"]
        if front:
            trust = ssl.create_default_context(cafile=str(appliance.root_certificate))
            yield Way(appliance.https_port, (appliance.daemon_pid(),), token, HOST, trust)
        else:
            yield Way(appliance.paths.socket("web"), (appliance.daemon_pid(),), token, HOST)


@contextmanager
def _with_openai(engine: int) -> Iterator[Way]:
    port = free_port()
    with _program([sys.executable, "-c", WITH_OPENAI, f"http://127.0.0.1:{engine}/v1", str(port)], port) as pid:
        yield Way(port, (pid,))


@contextmanager
def _checked(engine: int) -> Iterator[Way]:
    port, check = free_port(), free_port()
    text = "{\n\tadmin off\n}\n" + CHECKED.format(port=port, check=check, engine=engine)
    with scratch() as folder, caddy(folder, text) as process:
        yield Way(port, (process.pid,))


@contextmanager
def _litellm(engine: int) -> Iterator[Way]:
    folder = peers() / "litellm"
    program = folder / "bin/litellm"
    if not program.exists():
        raise NotRun(
            f"LiteLLM is not installed in {folder} (python -m venv, then pip install litellm[proxy]=={LITELLM})"
        )
    port = free_port()
    with scratch() as scratch_folder:
        config = scratch_folder / "config.yaml"
        config.write_text(
            "model_list:\n  - model_name: bench\n    litellm_params:\n      model: openai/bench\n"
            f"      api_base: http://127.0.0.1:{engine}/v1\n      api_key: x\n"
        )
        argv = [
            str(program),
            "--config",
            str(config),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--telemetry",
            "False",
        ]
        key = f"sk-{secrets.token_hex(16)}"  # it does not start without one
        env = {
            "LITELLM_MASTER_KEY": key,
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "HOME": str(scratch_folder),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        with _program(argv, port, 120, env=env) as pid:
            wait_for(lambda: _answers(f"http://127.0.0.1:{port}/health/liveliness"), "LiteLLM answers", 60)
            yield Way(port, tuple(tree(pid)), key)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own address
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":  # python bench/relay_v1.py cpu|waiting|through_everything|beside_litellm [ROUNDS]
    item: Callable[[int], list[Figure]] = globals()[sys.argv[1]]
    for figure in item(int(sys.argv[2]) if len(sys.argv) > 2 else 3):
        print(figure.id, figure.value, figure.verdict, figure.detail)
