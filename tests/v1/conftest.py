"""The real web application over a scripted engine, and OpenAI's own client in front of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI
from support.front import Front, front
from support.scripted_engine import OverHttp, ScriptedEngine, scripted_engine

from appliance.identity.api_tokens import ApiToken, checked
from appliance.identity.users import Role

KEY = "sk-the-engine-s-own-key"


class Programs:
    """Tokens as people make them, and clients that use them as programs do."""

    def __init__(self, door: Front, stack: AsyncExitStack) -> None:
        self.door, self._stack = door, stack

    async def token(self, *scopes: str, role: str = "operator", days: int = 1) -> tuple[ApiToken, str]:
        user = await self.door.member(role)
        wanted = checked(f"v1 {len(self.door.api_tokens.of(user.id))}", scopes or ("ai",), days, Role.admin)
        return await self.door.api_tokens.create(user, wanted, user.id, "page")

    async def client(self, text: str = "", **how: Any) -> AsyncOpenAI:
        """OpenAI's client as it comes, but for the socket it goes through."""
        text = text or (await self.token())[1]
        transport = httpx2.AsyncHTTPTransport(uds=str(self.door.settings.paths.socket("web")))
        made = AsyncOpenAI(
            api_key=text,
            base_url=f"http://{self.door.settings.host}/v1",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=transport, timeout=30, trust_env=False),
            **how,
        )
        return await self._stack.enter_async_context(made)

    def ask(self, method: str, path: str, text: str, **how: Any) -> Any:
        """A bare request with a token."""
        headers = {"Authorization": f"Bearer {text}", "Origin": None, "Sec-Fetch-Site": None}
        return self.door.ask(method, path, headers=headers | how.pop("headers", {}), **how)


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with scripted_engine(model="scripted-7b", key=KEY) as running:
        yield running


@pytest.fixture
async def door(engine: ScriptedEngine) -> AsyncIterator[Front]:
    folder = Path(tempfile.mkdtemp(prefix="croft-"))  # not tmp_path: its length would not fit a socket's address
    try:
        async with front(folder, engine=OverHttp(engine)) as opened:
            await opened.member("admin")
            yield opened
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def programs(door: Front) -> AsyncIterator[Programs]:
    async with AsyncExitStack() as stack:
        yield Programs(door, stack)
