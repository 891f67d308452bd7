"""The first run: in order, resumable, skippable, and over for good once anyone has finished it; hints that stay away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.front import Front, front

from webui.handlers.welcome import STEPS

PAGE = {"Accept": "text/html"}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Front]:
    async with front(tmp_path) as opened:
        yield opened


async def go(door: Front, cookie: str, to: str) -> str:
    async with door.ask("POST", "/welcome", cookie, data={"to": to}) as answer:
        assert answer.status == 303
        return str(answer.headers["Location"])


async def seen(door: Front, path: str, cookie: str, lang: str = "en") -> str:
    async with door.ask("GET", path, cookie, headers=PAGE | {"Accept-Language": lang}) as answer:
        assert answer.status == 200, answer.headers.get("Location")
        return str(await answer.text())


async def test_five_screens_in_order_and_never_again(door: Front) -> None:
    """With the ways in (/account/start) there are five; each leads to the next, the last one Home."""
    _, cookie = await door.sign_in_as("admin")
    for number, step in enumerate(STEPS, 2):
        text = await seen(door, "/welcome", cookie)
        assert f"Step {number} of 5" in text
        onward = STEPS[number - 1] if number <= len(STEPS) else "done"
        assert f'name="to" value="{onward}"' in text
        assert await go(door, cookie, onward) == ("/" if onward == "done" else "/welcome"), step
    async with door.ask("GET", "/welcome", cookie, headers=PAGE) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/")


async def test_it_goes_on_where_it_was_left_and_home_says_so(door: Front) -> None:
    _, cookie = await door.sign_in_as("admin")
    assert "Finish setting up" not in await seen(door, "/", cookie)
    await seen(door, "/welcome", cookie)
    await go(door, cookie, "mail")
    assert "Finish setting up this appliance." in await seen(door, "/", cookie)
    _, again = await door.sign_in_as("admin")
    assert "Step 4 of 5" in await seen(door, "/welcome", again)
    assert await go(door, again, "done") == "/"
    assert "Finish setting up" not in await seen(door, "/", again)


async def test_unknown_steps_change_nothing(door: Front) -> None:
    _, cookie = await door.sign_in_as("admin")
    await seen(door, "/welcome", cookie)
    assert await go(door, cookie, "../../etc") == "/welcome"
    assert "Step 2 of 5" in await seen(door, "/welcome", cookie)


async def test_what_the_editor_cannot_do_is_said_once_and_in_arabic_only(door: Front) -> None:
    _, cookie = await door.sign_in_as("operator")
    assert "/hints/rtl-editor" not in await seen(door, "/workspace", cookie)
    assert "/hints/rtl-editor" in await seen(door, "/workspace", cookie, "ar")
    async with door.ask("POST", "/hints/rtl-editor", cookie, data={"x": "1"}) as answer:
        assert answer.status == 303
    assert "/hints/rtl-editor" not in await seen(door, "/workspace", cookie, "ar")
