"""Tokens at the gate: which routes take which, who wins beside a cookie, and what wrong ones get."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.front import Front

from appliance import token_text
from appliance.identity.access import WorkspaceAccess
from appliance.identity.api_tokens import SCOPES
from appliance.identity.users import Role
from webui import routes
from webui.guard import ANY_SCOPE, Route

# TOK-11: what a token needs to come to a route. A route that is not here takes none.
GOLDEN = {
    "GET /metrics": "read",
    "GET /api/openapi.json": "read",
    "GET /api/status": "read",
    "GET /api/events": "read",
    "GET /api/telemetry": "read",
    "GET /api/charts": "read",
    "GET /api/assistant": "read",
    "GET /api/services": "read",
    "GET /api/models": "read",
    "GET /api/jobs": "read",
    "GET /api/jobs/{id}": "read",
    "POST /api/services/{name}/{action}": "services",
    "GET /api/tools": "services",
    "POST /api/tools/{name}/{series}/{action}": "services",
    "GET /api/services/{name}/logs": "services",
    "GET /api/services/{name}/logs/stream": "services",
    "GET /api/sessions": "people",
    "DELETE /api/sessions/{id}": "people",
    "GET /api/users": "people",
    "GET /api/invitations": "people",
    "GET /api/tokens": "people",
    "DELETE /api/tokens/{id}": "people",
    "GET /v1/models": "ai",
    "GET /v1/models/{model:.+}": "ai",
    "POST /v1/chat/completions": "ai",
    "POST /v1/embeddings": "ai",
    "GET /api/me": ANY_SCOPE,
    "DELETE /api/tokens/current": ANY_SCOPE,
    "POST /api/workspace-token": "workspace",
    "POST /api/commands": "commands",
    "GET /api/commands": "commands",
    "GET /api/commands/suggest": "commands",
    "GET /api/commands/folders": "commands",
    "GET /api/runbooks": "commands",
    "GET /api/runbooks/{name}": "commands",
    "POST /api/runbooks/{name}/run": "commands",
    "GET /api/commands/{id}": "commands",
    "GET /api/commands/{id}/stream": "commands",
    "GET /api/commands/{id}/output": "commands",
    "POST /api/commands/{id}/cancel": "commands",
    "POST /api/commands/{id}/rerun": "commands",
    "GET /api/approvals": "commands",
    "POST /api/policy/explain": "commands",
    "GET /api/audit/export": "audit",
    "GET /api/audit": "audit",
    "GET /api/audit/verify": "audit",
}
GATED = [route for route in routes.UI if route.role is not None and route.host != "console"]


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


def address(route: Route) -> str:
    return re.sub(r"\{[^}]+\}", "nothing", route.path)


def body(route: Route) -> dict[str, Any]:
    if route.method in ("GET", "DELETE"):
        return {}
    return {"data": {"a": "b"}} if route.form else {"json": {}}


async def test_the_scopes_are_as_the_table_says() -> None:
    assert {name_of(route): route.scope for route in routes.UI if route.scope} == GOLDEN


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_token_reaches_the_routes_of_its_scope_and_no_other(door: Front, keys: Any, scope: str) -> None:
    """TOK-11, AUTH-11: an admin's token; every route is asked, pages and step-up routes among them."""
    wrong, (token, text) = {}, await keys.make("admin", scope)
    for route in GATED:
        if not door.api_tokens.alive(token):  # one route ends the token it is asked with
            token, text = await keys.make("admin", scope)
        status, code = await keys.status(route.method, address(route), text, **body(route))
        refused = (status, code) == (403, "token_scope")
        allowed = GOLDEN.get(name_of(route)) in (scope, ANY_SCOPE)
        if refused is allowed or status in (401, 500):
            wrong[name_of(route)] = (status, code)
    assert wrong == {}


async def test_a_token_acts_with_the_lesser_role(door: Front, keys: Any) -> None:
    """Of a viewer whose token may act as admin, and of an admin whose token may act as viewer."""
    for role, cap in (("viewer", "admin"), ("admin", "viewer")):
        _, text = await keys.make(role, "services", "people", "audit", "read", cap=cap)
        assert await keys.status("POST", "/api/services/ide/restart", text) == (403, "forbidden")
        assert await keys.status("GET", "/api/users", text) == (403, "forbidden")
        assert await keys.status("GET", "/api/audit", text) == (403, "forbidden")
        async with keys.ask("GET", "/api/me", text) as answer:
            assert (await answer.json())["role"] == "viewer"


async def test_a_token_acts_for_its_person_and_is_named_in_the_log(door: Front, keys: Any) -> None:
    token, text = await keys.make("operator", "services", cap="operator")
    async with keys.ask("POST", "/api/services/ide/start", text) as answer:
        assert answer.status == 200
    assert {record.actor for record in await door.audit.records(event="service.start")} == {f"token:{token.id}"}


async def test_a_token_wins_over_a_cookie(door: Front, keys: Any) -> None:
    """The request does what the token may and no more; a bad token is refused though the cookie is good."""
    _, cookie = await door.sign_in_as("admin")
    _, text = await keys.make("viewer", "read")
    both = {"Cookie": f"__Host-croft={cookie}"}
    async with keys.ask("GET", "/api/me", text, headers=both) as answer:
        assert (await answer.json())["user"]["email"] == "viewer@example.org"
    assert await keys.status("GET", "/api/users", text, headers=both) == (403, "forbidden")
    assert await keys.status("GET", "/api/status", token_text.new(), headers=both) == (401, "token_refused")
    assert await keys.status("DELETE", "/api/users/x", text, headers=both) == (403, "forbidden")


async def test_another_scheme_is_not_a_token(door: Front) -> None:
    """Basic authentication of a web server in front, which browsers send along, neither helps nor hurts."""
    _, cookie = await door.sign_in_as("viewer")
    basic = {"Authorization": "Basic b3duZXI6b3duZXI="}
    async with door.ask("GET", "/api/status", cookie, headers=basic) as answer:
        assert answer.status == 200
    async with door.ask("GET", "/api/status", headers=basic) as answer:
        assert answer.status == 401


async def test_a_program_needs_no_origin_but_the_right_host(door: Front, keys: Any) -> None:
    """WEB-5 is for cookies; WEB-9 stays for everybody."""
    _, text = await keys.make("operator", "services")
    hostile = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert (await keys.status("POST", "/api/services/ide/start", text, headers=hostile))[0] == 200
    async with keys.ask("GET", "/api/status", text, headers={"Host": "evil.example"}) as answer:
        assert answer.status == 421
    async with keys.ask(
        "POST", "/api/services/ide/start", text, data=b"x=1", headers={"Content-Type": "text/plain"}
    ) as a:
        assert a.status == 400


def spoiled(text: str) -> list[str]:
    flipped = text[:20] + ("A" if text[20] != "A" else "B") + text[21:]
    return [
        flipped,
        text[:-1],
        text + "0",
        text.upper(),
        text.replace("croft_api_", "croft_ses_"),
        "croft_api_",
        "croft_api_" + "0" * 49,
        token_text.new(),
        text[:30] + " " + text[30:],
        "a" * 8000,
        "../../etc/passwd",
        "' OR 1=1 --",
        "eyJhbGciOiJub25lIn0.e30.",
        "null",
        "",
        "%00",
        f"{text},{text}",
    ]


async def test_wrong_tokens_all_get_the_same_answer(door: Front, keys: Any) -> None:
    """TOK-11, AUTH-5: typos, forgeries, expired and revoked ones: 401 with the same words, never 500."""
    _, text = await keys.make("admin", "read")
    revoked, revoked_text = await keys.make("admin", "read")
    await door.api_tokens.revoke([revoked], "test")
    expired, expired_text = await keys.make("admin", "read", days=1)
    expired.expires_at = door.clock.now()
    answers = set()
    for number, wrong in enumerate([*spoiled(text), revoked_text, expired_text]):
        headers = {
            "X-Forwarded-For": f"198.51.100.{number}"
        }  # each from a network of its own: the count has its own test
        async with keys.ask("GET", "/api/status", wrong, headers=headers) as answer:
            answers.add((answer.status, answer.headers["WWW-Authenticate"], await answer.text()))
    assert len(answers) == 1
    status, challenge, words = answers.pop()
    assert status == 401
    assert challenge == 'Bearer realm="croft", error="invalid_token"'
    assert "token_refused" in words


async def test_two_headers_are_no_token(door: Front, keys: Any) -> None:
    _, text = await keys.make("admin", "read")
    reader, writer = await door.raw()
    lines = ["GET /api/status HTTP/1.1", "Host: croft.localhost", *[f"Authorization: Bearer {text}"] * 2]
    writer.write(("\r\n".join(lines) + "\r\nConnection: close\r\n\r\n").encode())
    head = await reader.readline()
    writer.close()
    assert b" 401 " in head


async def test_who_is_nobody_is_told_how_to_be_somebody(door: Front) -> None:
    async with door.ask("GET", "/api/status") as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="croft"'


async def test_wrong_tokens_are_counted_by_network_and_shut_nobody_out(door: Front, keys: Any) -> None:
    """AUTH-4: the sixth is turned away; tokens that work and people who sign in from there are not touched."""
    _, good = await keys.make("admin", "read")
    statuses = [(await keys.status("GET", "/api/status", token_text.new()))[0] for _ in range(8)]
    assert statuses == [401] * 5 + [429] * 3
    assert await door.throttle.banned("token 192.0.2.9") > 0
    assert (await keys.status("GET", "/api/status", good))[0] == 200
    secret, _, _ = await door.links.create(await door.member("admin"), "console")
    async with door.ask("POST", "/sign-in/link", data={"t": secret}) as answer:
        assert answer.status == 303
    assert len(await door.audit.records(event="token.refused")) == 5
    door.clock.advance(301)
    assert (await keys.status("GET", "/api/status", token_text.new()))[0] == 401


async def test_a_program_that_goes_on_trying_does_not_fill_the_log(door: Front, keys: Any) -> None:
    _, text = await keys.make("viewer", "read")
    for _ in range(5):
        assert await keys.status("GET", "/api/users", text) == (403, "forbidden")
    assert len(await door.audit.records(event="access.denied")) == 1


async def test_routes_for_programs_look_at_no_cookie(door: Front) -> None:
    """A page of another site gains nothing by calling them with a person's cookie."""
    _, cookie = await door.sign_in_as("admin")
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    programs = [route for route in routes.UI if route.program]
    assert [name_of(route) for route in programs] == ["POST /api/connect", "POST /api/connect/token"]
    for route in programs:
        for with_cookie in ("", cookie):
            async with door.ask("POST", route.path, with_cookie, headers=foreign, json={}) as answer:
                assert answer.status == 400
        async with door.ask(
            "POST", route.path, cookie, headers={**foreign, "Content-Type": "text/plain"}, data=b"{}"
        ) as a:
            assert (await a.json())["error"]["code"] == "content_type"
    assert door.api_tokens.of() == []


async def test_no_token_makes_another(door: Front, keys: Any) -> None:
    """AUTH-10: a stolen token cannot outlive itself."""
    _, text = await keys.make("admin", *SCOPES)
    wanted = {"name": "more", "scopes": ["read"]}
    assert await keys.status("POST", "/api/tokens", text, json=wanted) == (403, "token_scope")
    assert await keys.status("POST", "/account/tokens", text, data={"name": "more"}) == (403, "token_scope")
    assert await keys.status("GET", "/connect", text) == (403, "token_scope")
    assert len(door.api_tokens.of()) == 1


async def test_a_viewer_sees_and_ends_their_own_tokens_alone(door: Front, keys: Any) -> None:
    theirs, _ = await keys.make("admin", "read")
    mine, text = await keys.make("viewer", "people")
    async with keys.ask("GET", "/api/tokens", text) as answer:
        assert [row["id"] for row in (await answer.json())["tokens"]] == [mine.id]
    assert (await keys.status("DELETE", f"/api/tokens/{theirs.id}", text))[0] == 404
    assert (await keys.status("DELETE", "/api/tokens/current", text))[0] == 200
    assert (await keys.status("GET", "/api/me", text))[0] == 401
    assert door.api_tokens.of() == [theirs]
    assert Role.admin is theirs.role


async def test_an_access_token_lives_as_long_as_what_it_was_made_from(door: Front, keys: Any) -> None:
    """DECIDED 13: of a session and of a token; verify asks the same gate."""
    from appliance.identity.verify import Access
    from webui.ide_gate import IdeGate

    gate = IdeGate(
        door.sessions,
        WorkspaceAccess(door.tokens, door.sessions, door.api_tokens),
        door.services,
        lambda name, path, accepted: b"",
    )
    session, cookie = await door.sign_in_as("operator")
    token, text = await keys.make("operator", "workspace")
    async with door.ask("POST", "/api/workspace-token", cookie) as answer:
        by_session = (await answer.json())["token"]
    async with keys.ask("POST", "/api/workspace-token", text) as answer:
        by_token = (await answer.json())["token"]
    for access in (by_session, by_token):
        assert gate.check_bearer(access, "ide.croft.localhost").access is Access.allowed
    await door.sessions.end([session], "sign-out", "test")
    await door.api_tokens.revoke([token], "test")
    for access in (by_session, by_token):
        assert gate.check_bearer(access, "ide.croft.localhost").access is Access.nobody
    assert (await keys.status("GET", "/api/status", by_token))[0] == 401, "an access token is for the IDE host"
    _, reader = await keys.make("operator", "read")
    assert await keys.status("POST", "/api/workspace-token", reader) == (403, "token_scope")
