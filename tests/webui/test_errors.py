"""Refusals and faults: the one error shape, whose fault a bad request is, and how much a body may be."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import sqlite3
from io import BytesIO
from typing import Any

import pytest
from aiohttp import web
from support.front import UI, Front

from webui import forms, guard


async def error_of(answer: Any) -> dict[str, str]:
    """The one error shape, checked."""
    assert answer.content_type == "application/json"
    body = await answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "hint"}
    assert all(isinstance(value, str) for value in body["error"].values())
    assert re.fullmatch(r"[a-z_]+", body["error"]["code"])
    assert body["error"]["message"]
    text = json.dumps(body)
    assert "Traceback" not in text
    assert "/tmp/" not in text
    assert ".py" not in text
    error: dict[str, str] = body["error"]
    return error


async def test_the_one_error_shape(door: Front) -> None:
    _, cookie = await door.sign_in_as("admin")
    cases: list[tuple[str, str, dict[str, Any], int, str]] = [
        ("GET", "/nothing", {}, 404, "not_found"),
        ("GET", "/api/status/x", {}, 404, "not_found"),
        ("PUT", "/api/status", {"json": {}}, 405, "method_not_allowed"),
        ("OPTIONS", "/", {}, 405, "method_not_allowed"),
        ("TRACE", "/", {}, 405, "method_not_allowed"),
        ("POST", "/api/users", {"json": {"email": "x"}}, 400, "invalid"),
        ("POST", "/api/users", {"json": {"email": "a@b.c", "admin": True}}, 400, "invalid"),
        ("POST", "/api/users", {"json": {"email": "a@b.c", "role": "root"}}, 400, "invalid"),
        ("POST", "/api/users", {"json": ["a"]}, 400, "invalid"),
        ("POST", "/api/users", {"json": {"email": "admin@example.org"}}, 409, "already_member"),
        ("POST", "/api/users", {"json": {"email": "\ud800@b.c"}}, 400, "invalid"),
        ("POST", "/api/users", {"json": {"email": "a@b.c", "name": "\u202egnp"}}, 400, "invalid"),
        ("DELETE", "/api/users/admin@example.org", {}, 409, "last_admin"),
        ("GET", "/api/events?topics=all", {}, 400, "invalid"),
        ("GET", "/api/services/ide/logs?lines=" + "9" * 5000, {}, 400, "invalid"),
        ("GET", "/api/services/../logs", {}, 404, "not_found"),
    ]
    for method, path, how, status, code in cases:
        async with door.ask(method, path, cookie, **how) as answer:
            assert answer.status == status, (method, path)
            assert (await error_of(answer))["code"] == code, (method, path)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("application/json", b"{"),
        ("application/json", b"\xff"),
        ("application/json", b"[" * 100_000),
        ("application/json", b'{"a":' * 50_000),
        ("application/json", b'{"email": "\\ud800"}'),
        ("application/json", b'{"email": 1e999}'),
        ("application/json; charset=bogus", b"{}"),
    ],
)
async def test_unreadable_json_is_the_callers_fault(door: Front, kind: str, data: bytes) -> None:
    _, cookie = await door.sign_in_as("admin")
    async with door.ask("POST", "/api/users", cookie, data=data, headers={"Content-Type": kind}) as answer:
        assert answer.status == 400
        await error_of(answer)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("application/x-www-form-urlencoded; charset=bogus", b"t=x"),
        ("application/x-www-form-urlencoded", b"t=\xff"),
        ("application/x-www-form-urlencoded", b"t=%ff"),
        ("application/x-www-form-urlencoded", b"&".join([b"a=b"] * 500)),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=t\r\n\r\nx\r\n--x--"),
    ],
)
async def test_unreadable_forms_are_the_callers_fault(door: Front, kind: str, data: bytes) -> None:
    """Nobody signed in: the first thing a scanner tries must not be an error of ours."""
    async with door.ask(
        "POST", "/sign-in/link", data=data, headers={"Content-Type": kind, "Accept": "application/json"}
    ) as answer:
        assert answer.status == 400


async def test_odd_queries_are_not_faults_of_ours(door: Front) -> None:
    _, cookie = await door.sign_in_as("admin")
    for query in (
        "before=" + "9" * 30,
        "before=-1",
        "before=%ff",
        "event=%ff%00",
        "actor=%ed%a0%80",
        "before=1&before=2",
        "before=²",
    ):
        async with door.ask("GET", f"/api/audit?{query}", cookie) as answer:
            assert answer.status == 200, query
    for path in ("/api/users/%ed%a0%80", "/api/users/%00", "/api/sessions/%ff", "/api/users/" + "x" * 3000):
        async with door.ask("DELETE", path, cookie) as answer:
            assert answer.status == 404, path


async def test_bodies_have_a_limit_packed_ones_too(door: Front) -> None:
    """WEB-16."""
    _, cookie = await door.sign_in_as("admin")
    bomb = gzip.compress(b" " * 50_000_000)
    for data, extra in ((b" " * 1_100_000, {}), (bomb, {"Content-Encoding": "gzip"})):
        async with door.ask(
            "POST", "/api/users", cookie, data=BytesIO(data), headers={"Content-Type": "application/json", **extra}
        ) as answer:
            assert answer.status == 413
            assert (await error_of(answer))["code"] == "too_large"


@pytest.mark.parametrize(
    "path", ["/sign-in/link", "/sign-in/mail", "/api/sign-in/passkey", "/api/connect", "/__croft/enter"]
)
async def test_strangers_cannot_fill_the_memory(door: Front, path: str) -> None:
    """WEB-16: a megabyte kept for everybody who begins a sign-in would end the daemon."""
    kind = "application/json" if path.startswith("/api/") else "application/x-www-form-urlencoded"
    origin = {"Origin": UI, "Content-Type": kind}
    host = "ide.croft.localhost" if path.startswith("/__croft/") else "croft.localhost"
    async with door.ask("POST", path, host=host, data=BytesIO(b"a" * (guard.OPEN_MAX + 1)), headers=origin) as answer:
        assert answer.status == 413
        assert (await error_of(answer))["code"] == "too_large"


async def test_bodies_of_one_session_come_a_few_at_a_time(door: Front) -> None:
    """WEB-16: a viewer who begins many requests does not have all of their bodies kept at once."""
    _, cookie = await door.sign_in_as("viewer")
    head = (
        f"POST /api/conversations HTTP/1.1\r\nHost: croft.localhost\r\nOrigin: {UI}\r\nSec-Fetch-Site: same-origin\r\n"
        f"Cookie: __Host-croft={cookie}\r\nContent-Type: application/json\r\nContent-Length: {1 << 20}\r\n\r\n"
    ).encode()
    writers = [(await door.raw())[1] for _ in range(forms.BODIES_MAX + 2)]

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)
        writer.write(head + b" " * ((1 << 20) - 1))
        await writer.drain()

    sending = [asyncio.ensure_future(send(writer)) for writer in writers]
    try:
        taken, _ = await asyncio.wait(sending, timeout=2)
        assert len(taken) == forms.BODIES_MAX
    finally:
        for task, writer in zip(sending, writers, strict=True):
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*sending, return_exceptions=True)


async def test_a_fault_of_ours_says_nothing_of_its_cause(door: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> None:
        raise KeyError("/tmp/secret/path.py")

    async def full() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    _, cookie = await door.sign_in_as("admin")
    for fault, status, code in ((broken, 500, "error"), (full, 503, "unavailable")):
        monkeypatch.setattr(door.users, "all", fault)
        async with door.ask("GET", "/api/users", cookie) as answer:
            assert answer.status == status
            assert (await error_of(answer))["code"] == code
        async with door.ask("GET", "/api/users", cookie, headers={"Accept": "text/html"}) as answer:
            assert answer.status == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(28, "No space"), 503),
        (OSError(30, "read-only"), 503),
        (TimeoutError(), 500),
        (BrokenPipeError(32, "x"), 500),
        (sqlite3.IntegrityError("x"), 500),
        (sqlite3.DatabaseError("malformed"), 503),
        (web.HTTPTooManyRequests(), 429),
    ],
)
def test_only_the_disk_is_called_the_disk(error: Exception, status: int) -> None:
    assert guard.as_error(error)[0] == status


@pytest.mark.parametrize(
    ("path", "kind"), [("/sign-in/link", "application/x-www-form-urlencoded"), ("/api/users", "application/json")]
)
async def test_a_body_that_never_ends_is_let_go_of(
    door: Front, monkeypatch: pytest.MonkeyPatch, path: str, kind: str
) -> None:
    """WEB-16, T1: anyone may begin a request; nobody may keep it under way for ever."""
    monkeypatch.setattr(forms, "BODY_SECONDS", 0.1)
    _, cookie = await door.sign_in_as("admin")
    reader, writer = await door.raw()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: croft.localhost\r\nOrigin: {UI}\r\nSec-Fetch-Site: same-origin\r\n"
        f"Cookie: __Host-croft={cookie}\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n\r\nx"
    )
    writer.write(head.encode())
    async with asyncio.timeout(10):
        answer = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(re.search(rb"Content-Length: (\d+)", answer)[1]))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "too_slow"
    writer.close()
    await writer.wait_closed()
