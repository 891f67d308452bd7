"""Every address, every kind of answer: the headers earn at least 125 points of the Observatory's (WEB-17, DECIDED 28)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.front import IDE, Front, front
from support.observatory import grade

from webui import routes

BAR = 125
STREAMS = re.compile(r".*(/stream|/events)$")
GOOD = {
    "content-security-policy": "default-src 'none'; script-src 'self'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "same-origin",
    "strict-transport-security": "max-age=63072000",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}
COOKIE = "__Host-x=1; Path=/; Secure; HttpOnly; SameSite=Strict"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Front]:
    async with front(tmp_path) as opened:
        yield opened


async def mark(door: Front, method: str, path: str, cookie: str, accept: str = "text/html", **how: str) -> list[str]:
    """What is wrong with one answer."""
    async with door.ask(method, path, cookie, headers={"Accept": accept}, **how) as answer:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        html = (await answer.text()) if "text/html" in headers.get("content-type", "") else ""
        score, found = grade(headers, answer.headers.getall("Set-Cookie", []), html)
    return [f"{method} {path} {accept} {answer.status}: {score} {found}"] if score < BAR else []


async def test_every_route_earns_the_bar(door: Front) -> None:
    """Signed in and not; pages, JSON and errors alike."""
    _, cookie = await door.sign_in_as("admin")
    low: list[str] = []
    for route in routes.UI:
        path = re.sub(r"\{[^}]+\}", "x", route.path)
        if STREAMS.match(path) or route.path in ("/sign-out", "/settings/restart"):
            continue
        for who in (cookie, ""):
            for accept in ("text/html", "application/json"):
                low += await mark(door, route.method, path, who, accept)
    assert low == []


async def test_pages_of_the_ide_host_earn_it_too(door: Front) -> None:
    low = []
    for path in ("/__croft/wake", "/__croft/state", "/__croft/nothing", "/editor"):
        low += await mark(door, "GET", path, "", host="ide.croft.localhost")
    assert low == []
    assert IDE.startswith("https://ide.")


def test_the_grader_gives_what_the_rules_give() -> None:
    """Known marks: without extras 100; the most that headers alone can earn; one fault each."""
    assert grade(GOOD, [])[0] == 130
    assert grade(GOOD, [COOKIE])[0] == 135
    assert grade({}, [])[0] == 100 - 25 - 20 - 5 - 20


@pytest.mark.parametrize(
    ("header", "value", "score"),
    [
        ("content-security-policy", "default-src 'self'; script-src 'unsafe-inline'; frame-ancestors 'none'", 80),
        ("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'", 120),
        ("content-security-policy", "default-src 'none'; img-src http:", 60),
        ("strict-transport-security", "max-age=600", 120),
        ("strict-transport-security", "", 80),
        ("referrer-policy", "unsafe-url", 120),
        ("x-content-type-options", "", 125),
        ("cross-origin-resource-policy", "what", 115),
    ],
)
def test_one_fault_costs_what_the_rules_say(header: str, value: str, score: int) -> None:
    assert grade(GOOD | {header: value}, [])[0] == score


@pytest.mark.parametrize(
    ("cookie", "score"),
    [
        ("a=1; HttpOnly; SameSite=Lax", 60),
        ("a=1; Secure; SameSite=Lax", 70),
        ("a=1; Secure; HttpOnly; SameSite=None", 80),
        ("a=1; Secure; HttpOnly", 130),
    ],
)
def test_cookies_cost_what_the_rules_say(cookie: str, score: int) -> None:
    assert grade(GOOD, [cookie])[0] == score


def test_scripts_from_elsewhere_cost() -> None:
    assert grade(GOOD, [], '<script src="//cdn.example/x.js"></script>')[0] == 50
    assert grade(GOOD, [], '<script src="https://cdn.example/x.js"></script>')[0] == 125
