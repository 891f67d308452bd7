"""One running front for each test, and tokens made as people make them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.folders import fresh_front
from support.front import Front

from appliance.identity.api_tokens import ApiToken, checked
from appliance.identity.users import Role


class Keys:
    """``make`` gives a token of a person with a role; ``ask`` sends it as a program would: no cookie, no Origin."""

    def __init__(self, door: Front) -> None:
        self.door = door

    async def make(
        self, role: str = "admin", *scopes: str, cap: str = "admin", days: int = 30, name: str = ""
    ) -> tuple[ApiToken, str]:
        user = await self.door.member(role)
        title = name or f"test {len(self.door.api_tokens.of(user.id))}"
        wanted = checked(title, scopes or ("read",), days, Role[cap])
        return await self.door.api_tokens.create(user, wanted, user.id, "page")

    def ask(
        self, method: str, path: str, text: str, *, headers: dict[str, str | None] | None = None, **how: Any
    ) -> Any:
        sent: dict[str, str | None] = {"Authorization": f"Bearer {text}", "Origin": None, "Sec-Fetch-Site": None}
        return self.door.ask(method, path, headers=sent | (headers or {}), **how)

    async def status(self, method: str, path: str, text: str, **how: Any) -> tuple[int, str]:
        """Status and error code of the answer."""
        async with self.ask(method, path, text, **how) as answer:
            body = await answer.json() if answer.content_type == "application/json" else {}
            return answer.status, body.get("error", {}).get("code", "")


@pytest.fixture
async def door() -> AsyncIterator[Front]:
    """The web application, listening."""
    async with fresh_front() as opened:
        await opened.member("admin")
        yield opened


@pytest.fixture
def keys(door: Front) -> Keys:
    return Keys(door)
