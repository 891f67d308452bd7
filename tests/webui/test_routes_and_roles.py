"""Every route, asked by everybody: the one table decides, and this table says what it must decide."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
from typing import Any

import pytest
from support.folders import fresh_front
from support.front import IDE, UI, Front
from support.waiting import until

from webui import routes
from webui.guard import Route

OK, YES, NO, OUT, GONE = 200, 303, 403, 401, 404
# Route: status for nobody, viewer, operator, admin, console. A form's answer is 303; 4xx past the gate is the handler's own.
GOLDEN: dict[str, tuple[int, int, int, int, int]] = {
    "GET /healthz": (OK, OK, OK, OK, OK),
    "GET /readyz": (OK, OK, OK, OK, OK),
    "GET /static/{version}/{name:.+}": (GONE, GONE, GONE, GONE, GONE),
    "GET /favicon.ico": (OK, OK, OK, OK, GONE),
    "GET /manifest.webmanifest": (OK, OK, OK, OK, GONE),
    "GET /sign-in": (OK, YES, YES, YES, GONE),
    "GET /sign-in/link": (OK, OK, OK, OK, GONE),
    "POST /sign-in/link": (400, 400, 400, 400, GONE),
    "GET /sign-in/recovery": (OK, OK, OK, OK, GONE),
    "POST /sign-in/recovery": (400, 400, 400, 400, GONE),
    "POST /step-up": (OUT, 400, 400, 400, GONE),
    "POST /sign-in/mail": (409, 409, 409, 409, GONE),
    "GET /sign-in/code": (YES, YES, YES, YES, GONE),
    "POST /sign-in/code": (400, 400, 400, 400, GONE),
    "GET /sign-in/mailed": (OK, OK, OK, OK, GONE),
    "POST /sign-in/mailed": (400, 400, 400, 400, GONE),
    "GET /invitation": (OK, OK, OK, OK, GONE),
    "POST /invitation": (400, 400, 400, 400, GONE),
    "POST /sign-out": (OUT, YES, YES, YES, GONE),
    "POST /preferences": (YES, YES, YES, YES, GONE),
    "GET /": (OUT, OK, OK, OK, GONE),
    "GET /workspace": (OUT, NO, OK, OK, GONE),
    "GET /assistant": (OUT, OK, OK, OK, GONE),
    "POST /assistant": (OUT, YES, YES, YES, GONE),
    "GET /assistant/{id}": (OUT, GONE, GONE, GONE, GONE),
    "GET /assistant/{id}/export": (OUT, GONE, GONE, GONE, GONE),
    "POST /assistant/{id}": (OUT, GONE, GONE, GONE, GONE),
    "GET /machine": (OUT, OK, OK, OK, GONE),
    "POST /machine/services/{name}/{action}": (OUT, NO, GONE, GONE, GONE),
    "GET /machine/models": (OUT, OK, OK, OK, GONE),
    "POST /machine/models": (OUT, NO, NO, 409, GONE),
    "POST /machine/models/{name}/{action}": (OUT, NO, NO, GONE, GONE),
    "GET /machine/jobs": (OUT, OK, OK, OK, GONE),
    "POST /machine/jobs/{id}/{action}": (OUT, NO, NO, GONE, GONE),
    "GET /machine/tools": (OUT, NO, OK, OK, GONE),
    "POST /machine/tools/{name}/{series}/{action}": (OUT, NO, GONE, GONE, GONE),
    "POST /machine/packages": (OUT, NO, NO, 409, GONE),
    "GET /machine/logs/{name}.txt": (OUT, NO, GONE, GONE, GONE),
    "GET /machine/logs/{name}": (OUT, NO, GONE, GONE, GONE),
    "GET /sessions": (OUT, OK, OK, OK, GONE),
    "POST /sessions/{id}/end": (OUT, GONE, GONE, GONE, GONE),
    "POST /sessions/end-others": (OUT, YES, YES, YES, GONE),
    "GET /account": (OUT, OK, OK, OK, GONE),
    "GET /account/start": (OUT, OK, OK, OK, GONE),
    "POST /account/name": (OUT, 400, 400, 400, GONE),
    "POST /account/passkeys/{id}/name": (OUT, 400, 400, 400, GONE),
    "POST /account/passkeys/{id}/remove": (OUT, GONE, GONE, GONE, GONE),
    "POST /account/recovery-codes": (OUT, OK, OK, OK, GONE),
    "POST /account/devices/{id}/forget": (OUT, GONE, GONE, GONE, GONE),
    "GET /account/tokens": (OUT, OK, OK, OK, GONE),
    "GET /account/tokens/new": (OUT, OK, OK, OK, GONE),
    "POST /account/tokens": (OUT, 400, 400, 400, GONE),
    "POST /account/tokens/{id}/revoke": (OUT, GONE, GONE, GONE, GONE),
    "GET /commands": (OUT, OK, OK, OK, GONE),
    "POST /commands": (OUT, 400, 400, 400, GONE),
    "GET /commands/approvals": (OUT, OK, OK, OK, GONE),
    "POST /commands/leases/{id}/revoke": (OUT, NO, GONE, GONE, GONE),
    "GET /commands/runbooks": (OUT, OK, OK, OK, GONE),
    "POST /commands/runbooks": (OUT, NO, 400, 400, GONE),
    "GET /commands/runbooks/new": (OUT, NO, OK, OK, GONE),
    "GET /commands/runbooks/{name}": (OUT, GONE, GONE, GONE, GONE),
    "GET /commands/runbooks/{name}/edit": (OUT, NO, GONE, GONE, GONE),
    "POST /commands/runbooks/{name}/run": (OUT, GONE, GONE, GONE, GONE),
    "POST /commands/runbooks/{name}/remove": (OUT, NO, GONE, GONE, GONE),
    "GET /commands/{id}": (OUT, GONE, GONE, GONE, GONE),
    "POST /commands/{id}/approve": (OUT, NO, GONE, GONE, GONE),
    "POST /commands/{id}/deny": (OUT, NO, GONE, GONE, GONE),
    "POST /commands/{id}/cancel": (OUT, GONE, GONE, GONE, GONE),
    "POST /commands/{id}/rerun": (OUT, GONE, GONE, GONE, GONE),
    "GET /policy": (OUT, OK, OK, OK, GONE),
    "POST /policy": (OUT, NO, NO, OK, GONE),
    "GET /welcome": (OUT, NO, NO, OK, GONE),
    "POST /welcome": (OUT, NO, NO, YES, GONE),
    "POST /hints/{name}": (OUT, GONE, GONE, GONE, GONE),
    "GET /settings": (OUT, NO, NO, OK, GONE),
    "GET /settings/privacy": (OUT, NO, NO, OK, GONE),
    "GET /audit": (OUT, NO, NO, OK, GONE),
    "GET /audit/export": (OUT, NO, NO, OK, GONE),
    "POST /settings/restart": (OUT, NO, NO, OK, GONE),
    "POST /settings/engine/key": (OUT, NO, NO, 303, GONE),
    "POST /settings/mail/test": (OUT, NO, NO, 409, GONE),
    "POST /settings/{group}": (OUT, NO, NO, GONE, GONE),
    "GET /people": (OUT, NO, NO, OK, GONE),
    "GET /people/invitations": (OUT, NO, NO, OK, GONE),
    "POST /people/invitations": (OUT, NO, NO, 400, GONE),
    "POST /people/invitations/{id}/renew": (OUT, NO, NO, GONE, GONE),
    "POST /people/invitations/{id}/revoke": (OUT, NO, NO, GONE, GONE),
    "GET /people/{id}": (OUT, NO, NO, GONE, GONE),
    "POST /people/{id}/role": (OUT, NO, NO, 400, GONE),
    "POST /people/{id}/suspend": (OUT, NO, NO, GONE, GONE),
    "POST /people/{id}/resume": (OUT, NO, NO, GONE, GONE),
    "POST /people/{id}/remove": (OUT, NO, NO, GONE, GONE),
    "GET /people/tokens": (OUT, NO, NO, OK, GONE),
    "POST /people/tokens/{id}/revoke": (OUT, NO, NO, GONE, GONE),
    "GET /account/data": (OUT, OK, OK, OK, GONE),
    "GET /connect": (OUT, 400, 400, 400, GONE),
    "POST /connect": (OUT, 400, 400, 400, GONE),
    "GET /connect/code": (OUT, OK, OK, OK, GONE),
    "POST /connect/code": (OUT, 400, 400, 400, GONE),
    "POST /connect/code/answer": (OUT, 400, 400, 400, GONE),
    "GET /connect/done": (OUT, OK, OK, OK, GONE),
    "GET /ca.pem": (GONE, GONE, GONE, GONE, GONE),
    "GET /api/openapi.json": (OUT, OK, OK, OK, OK),
    "GET /api/status": (OUT, OK, OK, OK, OK),
    "GET /api/events": (OUT, OK, OK, OK, OK),
    "GET /metrics": (OUT, OK, OK, OK, OK),
    "GET /api/telemetry": (OUT, OK, OK, OK, OK),
    "GET /api/charts": (OUT, OK, OK, OK, OK),
    "GET /api/assistant": (OUT, OK, OK, OK, OK),
    "GET /api/services": (OUT, OK, OK, OK, OK),
    "POST /api/services/{name}/{action}": (OUT, NO, GONE, GONE, GONE),
    "GET /api/models": (OUT, OK, OK, OK, OK),
    "POST /api/models": (OUT, NO, NO, 400, 400),
    "POST /api/models/{name}/{action}": (OUT, NO, NO, GONE, GONE),
    "GET /api/jobs": (OUT, OK, OK, OK, OK),
    "GET /api/jobs/{id}": (OUT, GONE, GONE, GONE, GONE),
    "POST /api/jobs/{id}/{action}": (OUT, NO, NO, GONE, GONE),
    "GET /api/tools": (OUT, NO, OK, OK, OK),
    "POST /api/tools/{name}/{series}/{action}": (OUT, NO, GONE, GONE, GONE),
    "GET /api/packages": (OUT, NO, NO, 409, 409),
    "PUT /api/packages": (OUT, NO, NO, 409, 409),
    "GET /api/services/{name}/logs": (OUT, NO, GONE, GONE, GONE),
    "GET /api/services/{name}/logs/stream": (OUT, NO, GONE, GONE, GONE),
    "GET /api/sessions": (OUT, OK, OK, OK, OK),
    "DELETE /api/sessions/{id}": (OUT, GONE, GONE, GONE, GONE),
    "GET /api/me": (OUT, OK, OK, OK, OK),
    "GET /api/tokens": (OUT, OK, OK, OK, OK),
    "POST /api/tokens": (OUT, 400, 400, 400, 400),
    "DELETE /api/tokens/current": (OUT, 400, 400, 400, 400),
    "DELETE /api/tokens/{id}": (OUT, GONE, GONE, GONE, GONE),
    "POST /api/workspace-token": (OUT, NO, 201, 201, NO),
    "POST /api/connect": (400, 400, 400, 400, 400),
    "POST /api/connect/token": (400, 400, 400, 400, 400),
    "POST /api/sign-in/passkey/options": (OK, OK, OK, OK, OK),
    "POST /api/sign-in/passkey": (400, 400, 400, 400, 400),
    "GET /api/passkeys": (OUT, OK, OK, OK, NO),
    "POST /api/passkeys/options": (OUT, OK, OK, OK, NO),
    "POST /api/passkeys": (OUT, 400, 400, 400, 400),
    "PATCH /api/passkeys/{id}": (OUT, 400, 400, 400, 400),
    "DELETE /api/passkeys/{id}": (OUT, GONE, GONE, GONE, NO),
    "DELETE /api/devices/{id}": (OUT, GONE, GONE, GONE, NO),
    "POST /api/step-up/options": (OUT, OK, OK, OK, NO),
    "POST /api/step-up/passkey": (OUT, 400, 400, 400, 400),
    "POST /api/step-up/code": (OUT, 400, 400, 400, 400),
    "POST /api/step-up/mail": (OUT, 409, 409, 409, NO),
    "POST /api/links": (GONE, GONE, GONE, GONE, 201),
    "GET /api/users": (OUT, NO, NO, OK, OK),
    "POST /api/users": (OUT, NO, NO, 400, 400),
    "PATCH /api/users/{id}": (OUT, NO, NO, GONE, GONE),
    "DELETE /api/users/{id}": (OUT, NO, NO, GONE, GONE),
    "GET /api/invitations": (OUT, NO, NO, OK, OK),
    "POST /api/invitations": (OUT, NO, NO, 400, 400),
    "POST /api/invitations/{id}/renew": (OUT, NO, NO, GONE, GONE),
    "DELETE /api/invitations/{id}": (OUT, NO, NO, GONE, GONE),
    "PUT /api/assistant/key": (GONE, GONE, GONE, GONE, 400),
    "PUT /api/mail/password": (GONE, GONE, GONE, GONE, 400),
    "POST /api/mail/test": (GONE, GONE, GONE, GONE, 400),
    "POST /api/commands": (OUT, 400, 400, 400, 400),
    "GET /api/commands": (OUT, OK, OK, OK, OK),
    "GET /api/commands/suggest": (OUT, OK, OK, OK, OK),
    "GET /api/commands/folders": (OUT, NO, 503, 503, 503),
    "GET /api/commands/{id}": (OUT, GONE, GONE, GONE, GONE),
    "GET /api/commands/{id}/stream": (OUT, GONE, GONE, GONE, GONE),
    "GET /api/commands/{id}/output": (OUT, GONE, GONE, GONE, GONE),
    "POST /api/commands/{id}/approve": (OUT, NO, 400, 400, 400),
    "POST /api/commands/{id}/deny": (OUT, NO, GONE, GONE, GONE),
    "POST /api/commands/{id}/cancel": (OUT, GONE, GONE, GONE, GONE),
    "GET /api/commands/{id}/changes": (OUT, NO, GONE, GONE, GONE),
    "GET /api/commands/{id}/changes/diff": (OUT, NO, GONE, GONE, GONE),
    "POST /api/commands/{id}/apply": (OUT, NO, 400, 400, 400),
    "POST /api/commands/{id}/undo": (OUT, NO, GONE, GONE, GONE),
    "POST /api/commands/{id}/discard": (OUT, NO, GONE, GONE, GONE),
    "POST /api/commands/{id}/rerun": (OUT, GONE, GONE, GONE, GONE),
    "GET /api/approvals": (OUT, OK, OK, OK, OK),
    "GET /api/leases": (OUT, NO, OK, OK, OK),
    "DELETE /api/leases/{id}": (OUT, NO, GONE, GONE, GONE),
    "GET /api/runbooks": (OUT, OK, OK, OK, OK),
    "GET /api/runbooks/{name}": (OUT, GONE, GONE, GONE, GONE),
    "PUT /api/runbooks/{name}": (OUT, NO, 400, 400, 400),
    "DELETE /api/runbooks/{name}": (OUT, NO, GONE, GONE, GONE),
    "POST /api/runbooks/{name}/run": (OUT, GONE, GONE, GONE, GONE),
    "GET /api/editor": (OUT, NO, OK, OK, OK),
    "POST /api/editor/context": (OUT, NO, 400, 400, 400),
    "POST /api/editor/insert": (OUT, NO, 400, 400, 400),
    "POST /api/editor/diff": (OUT, NO, 400, 400, 400),
    "POST /api/editor/diff/{id}/{action}": (OUT, NO, GONE, GONE, GONE),
    "POST /api/editor/open": (OUT, NO, 400, 400, 400),
    "POST /api/conversations": (OUT, 201, 201, 201, 201),
    "GET /api/conversations": (OUT, OK, OK, OK, OK),
    "GET /api/conversations/{id}": (OUT, GONE, GONE, GONE, GONE),
    "PATCH /api/conversations/{id}": (OUT, GONE, GONE, GONE, GONE),
    "DELETE /api/conversations/{id}": (OUT, GONE, GONE, GONE, GONE),
    "GET /api/conversations/{id}/export": (OUT, GONE, GONE, GONE, GONE),
    "POST /api/conversations/{id}/messages": (OUT, 400, 400, 400, 400),
    "POST /api/conversations/{id}/messages/{message}/regenerate": (OUT, GONE, GONE, GONE, GONE),
    "POST /api/conversations/{id}/branch": (OUT, 400, 400, 400, 400),
    "POST /api/conversations/{id}/stop": (OUT, GONE, GONE, GONE, GONE),
    "GET /api/conversations/{id}/stream": (OUT, GONE, GONE, GONE, GONE),
    "POST /api/conversations/{id}/proposals": (OUT, NO, 400, 400, 400),
    "POST /api/conversations/{id}/commands": (OUT, NO, 400, 400, 400),
    "POST /api/conversations/{id}/proposals/{proposal}/accept": (OUT, NO, GONE, GONE, GONE),
    "POST /api/conversations/{id}/proposals/{proposal}/reject": (OUT, NO, GONE, GONE, GONE),
    "POST /api/conversations/{id}/proposals/{proposal}/open": (OUT, NO, GONE, GONE, GONE),
    "POST /api/assistant/estimate": (OUT, OK, OK, OK, OK),
    "POST /api/commands/{id}/ask": (OUT, NO, GONE, GONE, GONE),
    "GET /api/policy": (OUT, OK, OK, OK, OK),
    "PUT /api/policy": (OUT, NO, NO, 400, 400),
    "POST /api/policy/explain": (OUT, 400, 400, 400, 400),
    "POST /api/policy/preview": (OUT, NO, NO, 400, 400),
    "GET /v1/models": (OUT, OK, OK, OK, GONE),
    "GET /v1/models/{model:.+}": (OUT, GONE, GONE, GONE, GONE),
    "POST /v1/chat/completions": (OUT, 400, 400, 400, GONE),
    "POST /v1/embeddings": (OUT, 400, 400, 400, GONE),
    "GET /api/audit": (OUT, NO, NO, OK, OK),
    "GET /api/audit/export": (OUT, NO, NO, OK, OK),
    "GET /api/audit/verify": (OUT, NO, NO, OK, OK),
}
UNSAFE = [route for route in routes.UI if route.method != "GET" and route.host != "console"]


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


def address(route: Route) -> str:
    return re.sub(r"\{[^}]+\}", "nothing", route.path)


def body(route: Route) -> dict[str, Any]:
    if route.method == "GET" or route.method == "DELETE":
        return {}
    return {"data": {"a": "b"}} if route.form else {"json": {}}


@pytest.mark.parametrize("route", routes.UI, ids=name_of)
def test_every_route_has_its_handler(route: Route) -> None:
    """Handlers are looked up by name with the first request, so a wrong name must show here."""
    module = importlib.import_module(route.handler.__module__)
    assert inspect.iscoroutinefunction(getattr(module, route.handler.__name__))


async def test_the_golden_table_holds(door: Front) -> None:
    """AUTH-11: every route, five kinds of callers."""
    assert set(GOLDEN) == {name_of(route) for route in routes.UI}
    wrong = {}
    for column, who in enumerate(("nobody", "viewer", "operator", "admin", "console")):
        for route in routes.UI:
            ask = door.console if who == "console" else door.ask
            how = body(route)
            if who not in ("nobody", "console"):
                how["cookie"] = (await door.sign_in_as(who))[1]
            async with ask(route.method, address(route), **how) as answer:
                if answer.status != GOLDEN[name_of(route)][column]:
                    wrong[f"{who}: {name_of(route)}"] = answer.status
    assert wrong == {}


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": ""},
        {"Sec-Fetch-Site": "same-origin, cross-site"},
        {"Sec-Fetch-Site": None, "Origin": None},
        {"Sec-Fetch-Site": None, "Origin": "null"},
        {"Sec-Fetch-Site": None, "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": None, "Origin": IDE},
        {"Sec-Fetch-Site": None, "Origin": UI + ":8443"},
        {"Sec-Fetch-Site": None, "Origin": UI.replace("https", "http")},
        {"Sec-Fetch-Site": None, "Origin": UI + ".evil.example"},
        {"Sec-Fetch-Site": None, "Origin": UI.upper()},
    ],
    ids=str,
)
async def test_unsafe_routes_refuse_what_other_pages_send(door: Front, headers: dict[str, str | None]) -> None:
    """WEB-5: refused before anything is looked at, signed in or not."""
    _, cookie = await door.sign_in_as("admin")
    for route in UNSAFE:
        if route.program:
            continue  # looks at no cookie, so no page can lend it one: tests/access/test_bearer.py
        async with door.ask(route.method, address(route), cookie, headers=headers, **body(route)) as answer:
            assert answer.status == 403, name_of(route)
            assert (await answer.json())["error"]["code"] == "cross_site"
    assert door.sessions.check(cookie) is not None


async def test_an_older_browser_is_known_by_its_origin(door: Front) -> None:
    _, cookie = await door.sign_in_as("viewer")
    async with door.ask(
        "POST", "/preferences", cookie, headers={"Sec-Fetch-Site": None}, data={"lang": "ar"}
    ) as answer:
        assert answer.status == 303


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/plain; x=application/json",
        "multipart/form-data; boundary=x",
        "application/xml",
        "",
        "application/x-www-form-urlencoded",
    ],
)
async def test_json_routes_take_json_only(door: Front, kind: str) -> None:
    """WEB-6: no type that a foreign page's form could send."""
    _, cookie = await door.sign_in_as("admin")
    for route in UNSAFE:
        if route.form and kind == "application/x-www-form-urlencoded":
            continue
        async with door.ask(
            route.method, address(route), cookie, data=b'{"email": "a@b.c"}', headers={"Content-Type": kind}
        ) as answer:
            assert answer.status == 400, name_of(route)
            assert (await answer.json())["error"]["code"] == "content_type"
    assert [user.email for user in await door.users.all()] == ["admin@example.org"]


async def test_reading_changes_nothing(door: Front) -> None:
    """WEB-6: GET and HEAD of every route; the store is afterwards what it was, but for an export, which is written down."""
    _, cookie = await door.sign_in_as("admin")
    tables = ("users", "sessions", "links", "devices", "bans", "used_tokens", "service_wishes")

    async def content() -> list[list[tuple[Any, ...]]]:
        return [
            [tuple(row) for row in await door.store.database.rows(f"SELECT * FROM {table}")]  # noqa: S608 - named above
            for table in tables
        ]

    before = await content()
    for route in routes.UI:
        if route.method == "GET":
            for method in ("GET", "HEAD"):
                async with door.ask(method, address(route).replace("nothing", "ide"), cookie) as answer:
                    # No broker stands behind this front, so what needs one is unavailable, and that alone.
                    assert answer.status < 500 or (answer.status, GOLDEN[name_of(route)][-1]) == (503, 503), name_of(
                        route
                    )
    assert await content() == before
    assert {record.event for record in await door.audit.records()} <= {
        "user.create",
        "link.create",
        "sign-in",
        "export",
    }


async def test_one_cannot_see_or_end_the_sessions_of_others(door: Front) -> None:
    """AUTH-9."""
    admin, admin_cookie = await door.sign_in_as("admin")
    mine, cookie = await door.sign_in_as("viewer")
    async with door.ask("GET", "/api/sessions", cookie) as answer:
        assert [row["id"] for row in (await answer.json())["sessions"]] == [mine.id]
    async with door.ask("GET", "/sessions", cookie, headers={"Accept": "text/html"}) as answer:
        assert "admin@example.org" not in await answer.text()
    async with door.ask("DELETE", f"/api/sessions/{admin.id}", cookie) as answer:
        assert answer.status == 404
    async with door.ask("DELETE", f"/api/sessions/{mine.id}", admin_cookie) as answer:
        assert answer.status == 200
    async with door.ask("GET", "/api/sessions", cookie) as answer:
        assert answer.status == 401


async def test_user_administration_needs_a_fresh_proof(door: Front) -> None:
    """AUTH-10."""
    _, cookie = await door.sign_in_as("admin")
    door.clock.advance(301)
    for method, path, json in (
        ("POST", "/api/users", {"email": "n@example.org"}),
        ("PATCH", "/api/users/x", {}),
        ("DELETE", "/api/users/x", None),
    ):
        async with door.ask(method, path, cookie, json=json) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (403, "step_up")


async def test_the_console_socket_is_for_its_uids_alone() -> None:
    """DECIDED 8."""
    async with fresh_front(console_uids=frozenset({4242})) as other:
        for path in ("/api/users", "/healthz", "/"):
            async with other.console("GET", path) as answer:
                assert answer.status == 403


async def test_a_role_taken_away_counts_at_once_and_brings_a_new_id(door: Front) -> None:
    """AUTH-7, AUTH-11: no request passes with the old role; the next navigation gets another cookie, the old one is dead."""
    _, admin = await door.sign_in_as("admin")
    session, cookie = await door.sign_in_as("operator")
    async with door.ask("PATCH", "/api/users/operator@example.org", admin, json={"role": "viewer"}) as answer:
        assert answer.status == 200
    async with door.ask("GET", "/api/services/ide/logs", cookie) as answer:
        assert answer.status == 403
        assert "Set-Cookie" not in answer.headers
    async with door.ask("GET", "/", cookie, headers={"Sec-Fetch-Mode": "navigate", "Accept": "text/html"}) as answer:
        assert answer.status == 200
        fresh = answer.cookies["__Host-croft"].value
    assert fresh != cookie
    assert door.sessions.check(cookie) is None
    assert door.sessions.check(fresh) is session


async def test_a_change_is_finished_though_the_client_hangs_up(door: Front) -> None:
    """What is on disk and what is in memory never part."""
    _, cookie = await door.sign_in_as("admin")
    changes = 0
    for number in range(16):
        session, theirs = await door.sign_in_as("operator")
        role = "viewer" if number % 2 == 0 else "operator"
        _, writer = await door.raw()
        payload = f'{{"role": "{role}"}}'.encode()
        writer.write(
            (
                f"PATCH /api/users/operator@example.org HTTP/1.1\r\nHost: croft.localhost\r\nCookie: __Host-croft={cookie}\r\n"
                f"Origin: {UI}\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
            ).encode()
            + payload
        )
        await writer.drain()
        await asyncio.sleep(number * 0.0007)
        writer.transport.abort()
        async with door.ask("GET", "/api/users", cookie) as answer:
            shown = {user["email"]: user["role"] for user in (await answer.json())["users"]}["operator@example.org"]
        changes += shown == role
        await until(lambda session=session, shown=shown: session.user.role.name == shown, "memory and disk agree", 5)
        assert door.sessions.check(theirs) is session
    assert changes
