"""The whole way: OpenAI's clients, unchanged, over TLS through the real Caddy to the daemon's own process and an engine."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from support import screens
from support.appliance import Appliance, free_port, ide_tree, whole_appliance
from support.scripted_engine import Call, Fail, Say, Stall, scripted_engine
from support.waiting import until

pytestmark = pytest.mark.timeout(240)

NODE_CLIENT = "7.57.0"
QUESTION: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def port() -> int:
    """Where the engine listens, in the tests that have one."""
    return free_port()


@pytest.fixture(scope="module")
def whole(port: int) -> Iterator[Appliance]:
    settings = (
        f'[ai]\nengine = "remote"\nurl = "http://127.0.0.1:{port}/v1"\nnetwork = "private"\nmodel = "scripted-7b"\n'
        "rate_minute = 60\nrate_burst = 30\n"
    )
    with whole_appliance(settings) as running:
        running.control.call("POST", "/api/users", {"email": "a@example.org", "name": "A", "role": "admin"})
        yield running


def token(whole: Appliance, name: str, scope: str) -> str:
    return str(whole.croft("tokens", "create", name, "--scope", scope, "--days", "1")["text"])


class ToThisMachine(httpx2.AsyncHTTPTransport):
    """Names are answered as a name server would; the request itself stays as it is."""

    async def handle_async_request(self, request: Any) -> Any:
        request.extensions["sni_hostname"] = request.url.host
        request.url = request.url.copy_with(host="127.0.0.1")
        return await super().handle_async_request(request)


async def test_openai_python(whole: Appliance, port: int) -> None:
    """FWD-2, AI-13: what the proxy takes away is not needed, and a client that goes is noticed behind it."""
    trust = ssl.create_default_context(cafile=str(whole.root_certificate))
    http = httpx2.AsyncClient(transport=ToThisMachine(verify=trust, trust_env=False), trust_env=False)
    async with (
        scripted_engine(port=port, model="scripted-7b", key="") as engine,
        AsyncOpenAI(
            base_url=f"{whole.url}/v1", api_key=token(whole, "python", "ai"), max_retries=0, http_client=http
        ) as client,
    ):
        assert [model.id async for model in client.models.list()] == ["croft", "scripted-7b"]
        engine.script(Say("one two three"))
        stream = await client.chat.completions.create(model="croft", messages=QUESTION, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "one two three"
        engine.script(Call("read_file", {"path": "a"}))
        said = await client.chat.completions.create(model="croft", messages=QUESTION)
        calls = said.choices[0].message.tool_calls or []
        assert [call.function.arguments for call in calls if call.type == "function"] == ['{"path": "a"}']
        assert said.usage is not None
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="gpt-4o", messages=QUESTION)
        engine.script(Say("word "), Stall())
        stream = await client.chat.completions.create(model="croft", messages=QUESTION, stream=True)
        await anext(aiter(stream))
        await stream.close()
        await until(lambda: not engine.busy, "the engine is free", 2)


async def test_openai_node(whole: Appliance, port: int) -> None:
    """TLS, HTTP parsing and errors of another client altogether."""
    program = await asyncio.to_thread(screens.npm, "openai", NODE_CLIENT, "index.mjs", 200)
    good, reader = token(whole, "node", "ai"), token(whole, "node reader", "read")
    async with scripted_engine(port=port, model="scripted-7b", key="") as engine:
        engine.script(Say("whole answer"))
        engine.script(Say("streamed answer"))
        engine.script(Call("read_file", {"path": "a"}))
        engine.script(Call("read_file", {"path": "b"}))
        engine.script(Fail(500))
        engine.script(Say("word " * 3, 100), Stall())
        said = await asyncio.to_thread(_node, whole, program.parent, good, reader)
        await until(lambda: not engine.busy, "the engine is free", 5)
        assert engine.chats[-1].gone
    limited = said.pop("limited")
    assert limited == "RateLimitError 429 rate_limit_exceeded"
    assert said == {
        "models": ["croft", "scripted-7b"],
        "whole": "whole answer",
        "streamed": "streamed answer",
        "usage": 2,
        "called": '{"path": "a"}',
        "asked": ["tool_calls", ['{"path": "b"}'], "chat.completion"],
        "vector": [3, 1],
        "errors": [
            "AuthenticationError 401 invalid_api_key",
            "PermissionDeniedError 403 token_scope",
            "NotFoundError 404 model_not_found",
            "BadRequestError 400 invalid",
            "InternalServerError 502 engine_failed",
        ],
    }
    written = b"".join(path.read_bytes() for path in whole.folder.rglob("*.log"))
    assert good.encode() not in written


def _node(whole: Appliance, client: Path, good: str, reader: str) -> dict[str, Any]:
    script = Path(__file__).with_name("openai_node.mjs")
    done = subprocess.run(
        [str(ide_tree() / "node/bin/node"), str(script), str(client), f"{whole.url}/v1", good, reader],
        env={"PATH": os.environ["PATH"], "NODE_EXTRA_CA_CERTS": str(whole.root_certificate)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found
