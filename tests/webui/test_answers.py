"""What every answer has in common: headers, cookies, the one error shape, and no way to be sent elsewhere."""

from __future__ import annotations

import asyncio
import gzip
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from support.front import IDE, UI, Front

from appliance.identity.verify import relative_path
from appliance.settings import Paths, parse
from webui import headers, routes
from webui.assets import FOREVER
from webui.i18n import preferred

PAGES = [
    "/",
    "/workspace",
    "/machine",
    "/machine/logs/ide",
    "/sessions",
    "/sign-in",
    "/sign-in/link?t=x",
    "/nothing",
    "/api/nothing",
    "/api/status",
    "/healthz",
    "/favicon.ico",
    "/static/x/nothing.js",
    "/machine/logs/ide.txt",
    "/api/services/ide/logs?lines=x",
]


def lint(headers_of: Any, *, ide: bool = False) -> list[str]:
    """What is wrong with an answer's headers (WEB-3, WEB-12, WEB-18)."""
    policy = dict(part.strip().partition(" ")[::2] for part in headers_of.get("Content-Security-Policy", "").split(";"))
    wanted = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "frame-src": IDE,
        "form-action": f"'self' {IDE}",
        "require-trusted-types-for": "'script'",
        "frame-ancestors": UI if ide else "'none'",
    }
    wrong = [name for name, value in wanted.items() if policy.get(name) != value]
    exact = {
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Server": "croft",
        "Cross-Origin-Resource-Policy": "same-site" if ide else "same-origin",
    }
    wrong += [name for name, value in exact.items() if headers_of.getall(name, []) != [value]]
    age = re.fullmatch(r"max-age=(\d+)", headers_of.get("Strict-Transport-Security", ""))
    wrong += [] if age and int(age[1]) >= 31536000 else ["Strict-Transport-Security"]
    wrong += (
        []
        if headers_of.get("Referrer-Policy") in ("same-origin", "no-referrer", "strict-origin")
        else ["Referrer-Policy"]
    )
    wrong += [] if "camera=()" in headers_of.get("Permissions-Policy", "") else ["Permissions-Policy"]
    return wrong + [
        name for name in headers_of if name.lower().startswith("access-control-") or name == "Service-Worker-Allowed"
    ]


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
async def test_every_answer_carries_the_headers(door: Front, accept: str) -> None:
    _, cookie = await door.sign_in_as("admin")
    for given in ("", cookie):
        for path in PAGES:
            async with door.ask("GET", path, given, headers={"Accept": accept}) as answer:
                assert lint(answer.headers) == [], path
                if not path.startswith("/static/") and "favicon" not in path:
                    assert answer.headers["Cache-Control"] == "no-store", path
        async with door.ask(
            "POST", "/sign-out", headers={"Origin": "https://evil.example", "Sec-Fetch-Site": None, "Accept": accept}
        ) as answer:
            assert lint(answer.headers) == []
    for path in ("/__croft/state", "/__croft/wake", "/x", "/__croft/static/x/y"):
        async with door.ask("GET", path, host="ide.croft.localhost", headers={"Accept": accept}) as answer:
            assert answer.status >= 400
            assert lint(answer.headers, ide=True) == [], path


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", IDE, UI, "https://croft.localhost.evil.example", "http://croft.localhost"],
)
async def test_no_other_origin_may_read(door: Front, origin: str) -> None:
    """WEB-8."""
    for method in ("GET", "OPTIONS"):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Sec-Fetch-Site": "cross-site"}
        async with door.ask(method, "/api/status", headers=asked) as answer:
            assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1",
        "[::1]",
        "localhost",
        "croft.localhost.",
        "croft.localhost.evil.example",
        "",
        "evil.croft.localhost",
        "ide.ide.croft.localhost",
        "croft.localhost@evil.example",
        "10.0.0.1:443",
    ],
)
async def test_other_names_are_not_served(door: Front, host: str) -> None:
    """WEB-9."""
    _, cookie = await door.sign_in_as("admin")
    for path in ("/", "/api/status", "/healthz", "/nothing"):
        async with door.ask("GET", path, cookie, headers={"Host": host}) as answer:
            assert answer.status == 421, path
            assert (await answer.json())["error"]["code"] == "wrong_host"


async def raw(door: Front, request: str) -> bytes:
    reader, writer = await door.raw()
    writer.write(request.encode())
    await writer.drain()
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return head


async def test_absolute_targets_are_not_served(door: Front) -> None:
    """WEB-9: a target with a host of its own would be a second opinion on who was asked."""
    for target in ("http://evil.example/healthz", "https://croft.localhost/healthz"):
        assert b" 421 " in await raw(door, f"GET {target} HTTP/1.1\r\nHost: croft.localhost\r\n\r\n")


async def test_an_unknown_expectation_is_no_error(door: Front) -> None:
    assert b" 200 " in await raw(door, "GET /healthz HTTP/1.1\r\nHost: croft.localhost\r\nExpect: tea\r\n\r\n")
    assert b" 100 " in await raw(door, "GET /healthz HTTP/1.1\r\nHost: croft.localhost\r\nExpect: 100-continue\r\n\r\n")


def cookies_of(answer: Any) -> list[str]:
    return list(answer.headers.getall("Set-Cookie", []))


async def test_every_cookie_is_kept_to_itself(door: Front) -> None:
    """WEB-2."""
    user = await door.member("admin")
    secret, _, _ = await door.links.create(user, "console")
    found: list[str] = []
    async with door.ask("POST", "/sign-in/link", data={"t": secret, "remember": "on"}) as answer:
        assert answer.status == 303
        found += cookies_of(answer)
        cookie = answer.cookies["__Host-croft"].value
    async with door.ask("POST", "/preferences", cookie, data={"lang": "ar", "theme": "auto"}) as answer:
        assert answer.status == 303
        found += cookies_of(answer)
    session = door.sessions.check(cookie)
    assert session is not None
    async with door.ask(
        "POST",
        "/__croft/enter",
        host="ide.croft.localhost",
        headers={"Origin": UI, "Sec-Fetch-Site": "same-site"},
        data={"code": door.sessions.hand_off(session)},
    ) as answer:
        assert answer.status == 303
        found += cookies_of(answer)
    async with door.ask("POST", "/sign-out", cookie, data={}) as answer:
        found += cookies_of(answer)
        assert answer.headers["Clear-Site-Data"] == '"cache", "storage"'
    assert len(found) == 6
    for line in found:
        parts = {part.strip().lower() for part in line.split(";")}
        assert line.startswith("__Host-croft"), line
        assert {"secure", "httponly", "samesite=strict", "path=/"} <= parts, line
        assert not any(part.startswith("domain") for part in parts), line


EVIL = [
    "//evil",
    "///evil",
    "/\\evil",
    "\\\\evil",
    "https:evil",
    "https://evil",
    "http:/evil",
    "javascript:alert(1)",
    "data:text/html,x",
    "evil",
    "",
    " /",
    "/ x",
    "/\t/evil",
    "/\n/evil",
    "/%09/evil",
    "/%0a/evil",
    "/%0d%0aSet-Cookie:x",
    "/%2f/evil",
    "/%2fevil",
    "/%5cevil",
    "/%255cevil",
    "/%252fevil",
    "/a//evil",
    "/..//evil",
    "/../x",
    "/a/%2e%2e/x",
    "/a/%252e%252e/x",
    "/\u202eevil",
    "/é",
    "/%e2%80%ae",
    "/x" * 1100,
    "/\0",
    "/%00",
    "/{x}",
    "/%7bx%7d",
    "/a/..;/x\\",
    "/<script>",
    '/"x',
    "/@evil\\",
    "/x#//evil\\",
    "/[x]",
    "/|",
]


@pytest.mark.parametrize("target", EVIL)
async def test_nobody_is_sent_elsewhere(door: Front, target: str) -> None:
    """FWD-9: at every place where a request says what comes next."""
    assert relative_path(target) == ""
    _, cookie = await door.sign_in_as("operator")
    async with door.web.get(
        "http://x/sign-in",
        params={"next": target},
        headers={"Host": "croft.localhost", "Cookie": f"__Host-croft={cookie}"},
        allow_redirects=False,
    ) as answer:
        assert answer.headers["Location"] == "/"
    async with door.ask("POST", "/preferences", cookie, data={"lang": "en", "next": target}) as answer:
        assert answer.headers["Location"] == "/"


async def test_the_way_back_after_signing_in_is_whole(door: Front) -> None:
    async with door.ask("GET", "/workspace?next=/a%26b&c=d", headers={"Accept": "text/html"}) as answer:
        assert answer.status == 302
        location = answer.headers["Location"]
    assert location.startswith(f"{UI}/sign-in?next=")
    assert parse_qs(location.partition("?")[2]) == {"next": ["/workspace?next=/a%26b&c=d"]}


@pytest.mark.parametrize(
    "name",
    ["../routes.py", "..%2froutes.py", "%2e%2e/routes.py", "/etc/passwd", "js/../../app.py", "js\\..\\app.py", "", "."],
)
async def test_no_path_leads_out_of_the_static_files(door: Front, name: str) -> None:
    for host, prefix in (("croft.localhost", "/static/x/"), ("ide.croft.localhost", "/__croft/static/x/")):
        reader, writer = await door.raw()
        writer.write(f"GET {prefix}{name} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert b" 404 " in await reader.readline()
        writer.close()


async def test_static_files_are_kept_for_good_under_their_version(door: Front) -> None:
    async with door.ask("GET", "/sign-in", headers={"Accept": "text/html"}) as answer:
        found = re.search(r'"(/static/([0-9a-f]{12})/[^"]+\.css)"', await answer.text())
    assert found
    async with door.ask("GET", found[1], headers={"Accept-Encoding": "gzip"}) as answer:
        packed = await answer.read()
        assert (answer.headers["Cache-Control"], answer.headers["Content-Encoding"], answer.headers["Vary"]) == (
            FOREVER,
            "gzip",
            "Accept-Encoding",
        )
    async with door.ask("GET", found[1], headers={"Accept-Encoding": "identity"}) as answer:
        assert "Content-Encoding" not in answer.headers
        assert gzip.decompress(packed) == await answer.read()
    async with door.ask("GET", found[1].replace(found[2], "000000000000")) as answer:
        assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("ar", "ar"),
        ("ar-EG,en;q=0.5", "ar"),
        ("en;q=0.4, ar;q=0.9", "ar"),
        ("de, fr;q=0.9", "en"),
        ("ar;q=0", "en"),
        ("AR", "ar"),
        ("ar;q=x", "en"),
        ("*", "en"),
        ("," * 5000 + "ar", "en"),
        ("ar;level=1", "en"),
        ("en;q=0.5,ar;q=0.5", "en"),
    ],
)
def test_the_language_people_asked_for(accepted: str, language: str) -> None:
    assert preferred(accepted, "en") == language


async def test_a_page_speaks_the_readers_language(door: Front) -> None:
    async with door.ask("GET", "/sign-in", headers={"Accept": "text/html", "Accept-Language": "ar"}) as answer:
        assert 'lang="ar"' in await answer.text()


def test_the_openapi_document_is_the_route_table() -> None:
    document = routes.openapi()
    listed = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert listed == {
        (route.method, route.path) for route in routes.UI if route.path.startswith(("/api/", "/healthz", "/readyz"))
    }


def test_the_policy_has_no_hole() -> None:
    policy = headers.policy(parse({}, Paths.under(Path("/tmp/x"))))
    assert "unsafe" not in policy
    assert "*" not in policy
    assert "data:" not in policy
