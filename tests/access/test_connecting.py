"""What a program on another machine asks for in a browser: the question, and the code that it gets for a token."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from support import screens
from support.front import Front

VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()

HOSTILE: list[dict[str, str]] = [
    {"port": "80"},
    {"port": "0"},
    {"port": "65536"},
    {"port": "08080"},
    {"port": "-8080"},
    {"port": "8080@evil.example"},
    {"port": "8080/../"},
    {"port": "8080#"},
    {"port": "٨٠٨٠"},
    {"port": ""},
    {"port": "evil.example"},
    {"state": ""},
    {"state": "short"},
    {"state": "x" * 200},
    {"state": "a" * 20 + "&code=1"},
    {"state": "a" * 20 + "\r\nX: y"},
    {"challenge": ""},
    {"challenge": "plain"},
    {"challenge": CHALLENGE + "="},
    {"scopes": ""},
    {"scopes": "read root"},
    {"days": "0"},
    {"days": "9999"},
    {"days": "x"},
    {"name": ""},
    {"name": "a\u202eb"},
]


def asking(**changed: str) -> dict[str, str]:
    asked = {"port": "50000", "state": "s" * 24, "challenge": CHALLENGE, "name": "x", "scopes": "read", "days": "30"}
    return asked | changed


@pytest.mark.parametrize("changed", HOSTILE, ids=str)
async def test_hostile_questions_are_refused(door: Front, changed: dict[str, str]) -> None:
    """No address but 127.0.0.1 on a port is ever written into a page or sent a code."""
    cookie = await screens.sign_in(door, "viewer")
    async with door.ask("GET", f"/connect?{urlencode(asking(**changed))}", cookie) as answer:
        assert answer.status == 400
    form = asking(**changed) | {"decision": "allow"}
    async with door.ask("POST", "/connect", cookie, data=form) as answer:
        assert answer.status == 400


async def code_for(door: Front, cookie: str, **changed: str) -> str:
    form = asking(**changed) | {"decision": "allow"}
    async with door.ask("POST", "/connect", cookie, data=form, headers={"Accept": "text/html"}) as answer:
        assert answer.status == 200
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        found = re.search(r'content="0;url=(http://127\.0\.0\.1:50000/[^"]+)"', await answer.text())
    assert found is not None
    fields = parse_qs(urlsplit(found[1].replace("&amp;", "&")).query)
    assert fields["state"] == ["s" * 24]
    return fields["code"][0]


async def collected(door: Front, code: str, verifier: str = VERIFIER) -> tuple[int, dict[str, Any]]:
    async with door.ask(
        "POST", "/api/connect/token", json={"code": code, "verifier": verifier}, headers={"Origin": None}
    ) as answer:
        return answer.status, await answer.json()


async def test_a_code_counts_once_for_its_own_program_and_for_a_minute(door: Front) -> None:
    """PKCE: a thief of the code gets nothing, and spoils it; of fifty collectors one gets a token."""
    cookie = await screens.sign_in(door, "viewer")
    code = await code_for(door, cookie)
    assert (await collected(door, code, "w" * 43))[0] == 400
    assert (await collected(door, code))[0] == 400
    code = await code_for(door, cookie)
    answers = await asyncio.gather(*(collected(door, code) for _ in range(50)))
    assert sorted(status for status, _ in answers) == [201] + [400] * 49
    await door.api_tokens.revoke(door.api_tokens.of(), "test")
    code = await code_for(door, cookie)
    session = door.sessions.check(cookie)
    assert session is not None
    await door.sessions.end([session], "sign-out", "test")
    assert (await collected(door, code))[0] == 400, "the session that approved it has ended"
    assert door.api_tokens.of() == []


async def test_guessing_short_codes_is_throttled(door: Front) -> None:
    """AUTH-4: by person; and the number of waiting programs by network."""
    cookie = await screens.sign_in(door, "operator")
    statuses = []
    for number in range(7):
        letters = "BCDFGHJKLM"[number] * 8
        async with door.ask("POST", "/connect/code", cookie, data={"code": letters}) as answer:
            statuses.append(answer.status)
    assert statuses == [400] * 5 + [429] * 2
    body = {"name": "x", "scopes": ["read"], "challenge": CHALLENGE}
    waiting = []
    for _ in range(7):
        async with door.ask("POST", "/api/connect", json=body, headers={"X-Forwarded-For": "198.51.100.7"}) as answer:
            waiting.append(answer.status)
    assert waiting == [201] * 5 + [429] * 2
