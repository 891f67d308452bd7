"""Programs that use /v1: their tokens, and OpenAI's client as they use it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import httpx2
from openai import AsyncOpenAI

from appliance.identity.api_tokens import ApiToken, checked
from appliance.identity.users import Role
from support.front import Front


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
