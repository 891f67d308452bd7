"""Nothing reaches the editor unless the check said yes for that request (SECURITY section 6)."""

from __future__ import annotations

import itertools
import signal
import time
from urllib.parse import unquote

import pytest

NAVIGATE = ("Sec-Fetch-Mode: navigate", "Sec-Fetch-Site: none", "Sec-Fetch-Dest: document")
SAME = "Sec-Fetch-Site: same-origin"

_WORDS = [
    "",
    "healthz",
    "_static/src/browser/media/favicon.svg",
    "stable-abc/static/out/main.js",
    "manifest.json",
    "proxy/8080/",
    "absproxy/8080/",
    "login",
    "update/check",
    "vscode/",
    "__croft",
    "auth/verify",
    "robots.txt",
    "mint-key",
]
_PREFIXES = [
    "/",
    "//",
    "/./",
    "/x/../",
    "/x/%2e%2e/",
    "/__croft/../",
    "/__croft/..%2f",
    "/__croft/%2e%2e/",
    "/__croft/..;/",
    "/__CROFT/../",
    "/%5f%5fcroft/../",
    "/__croft%2f../",
    "/__croft/%252e%252e/",
    "/stable-x/../",
    "/\\",
    "/%00/",
]
SPELLINGS = [prefix + word for prefix, word in itertools.product(_PREFIXES, _WORDS)]


def test_no_path_spelling_reaches_the_editor_unasked(plain) -> None:
    """FWD-1: more than 200 spellings, several User-Agents and queries."""
    assert len(SPELLINGS) > 200
    before = len(plain.reached("editor"))
    for number, path in enumerate(SPELLINGS):
        agent = ["kube-probe/1.0", "Mozilla/5.0", "GoogleHC/1.0"][number % 3]
        answer = plain.ask(path + ["", "?folder=/x", "?skip=/healthz"][number % 3], f"User-Agent: {agent}", *NAVIGATE)
        from_daemon = b'"role": "daemon"' in answer.body
        assert answer.status in (302, 400, 401, 404) or from_daemon, (path, answer.raw)
        assert b'"role": "editor"' not in answer.body
    assert len(plain.reached("editor")) == before


def test_what_the_daemon_is_sent_without_the_check_is_its_own(plain) -> None:
    """FWD-1: whatever the matcher makes of a path, only the daemon sees it unchecked."""
    before = len(plain.reached("editor"))
    for path in ("/__croft/enter", "/__CROFT/enter", "/%5f%5fcroft/enter"):
        assert plain.ask(path).json()["role"] == "daemon"
    assert len(plain.reached("editor")) == before


def test_operator_passes_and_viewer_does_not(plain) -> None:
    """DECIDED 18."""
    assert plain.ask("/", SAME, cookie=plain.OPERATOR).json()["role"] == "editor"
    assert plain.ask("/", SAME, cookie=plain.VIEWER).status == 403
    assert plain.ask("/", *NAVIGATE, cookie=plain.VIEWER).status == 403
    assert plain.ask("/", SAME, f"Authorization: Bearer {plain.TOKEN}").json()["role"] == "editor"
    assert plain.ask("/", SAME, "Authorization: Bearer " + "x" * 40, cookie=plain.OPERATOR).status == 401


@pytest.mark.parametrize(
    "cookie",
    [
        "__Host-croft-ide=",
        "__Host-croft-ide=short",
        "__host-croft-ide={0}",
        "croft-ide={0}",
        "x__Host-croft-ide={0}",
        "__Host-croft-ide={0}; __Host-croft-ide={0}",
        "__Host-croft-ide={0}x",
        '__Host-croft-ide="{0}"',
        "__Host-croft-ide={0}, a=b",
        "__Host-croft={0}",
        "__Host-croft-ide={{http.request.cookie.x}}",
        "__Host-croft-ide=" + "A" * 9000,
    ],
)
def test_cookies_that_are_not_exactly_it(plain, cookie: str) -> None:
    answer = plain.ask("/", SAME, "Cookie: " + cookie.format(plain.OPERATOR))
    assert answer.status == 401


def test_navigation_is_sent_to_sign_in_with_the_way_back(plain) -> None:
    """FWD-9."""
    answer = plain.ask("/?folder=/home/x", *NAVIGATE)
    assert answer.status == 302
    assert answer.get("location") == "https://croft.localhost/workspace?next=/%3Ffolder%3D/home/x"
    assert plain.ask("/", "Accept: text/html,*/*").status == 302
    refused = plain.ask("/a.js", SAME)
    assert refused.status == 401
    assert refused.json()["error"]["code"] == "sign_in_required"


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "/\\evil.example",
        "/%5cevil.example",
        "/%2f%2fevil.example",
        "//evil.example/%2e%2e",
        "/%09/evil.example",
        "/.//evil.example",
        "/https:evil.example/..//x",
        "/{http.request.host}",
        "/%0d%0aSet-Cookie:x=1",
        "/x/%2e%2e//evil.example",
    ],
)
def test_way_back_never_leaves_the_host(plain, target: str) -> None:
    """FWD-9: open redirects."""
    answer = plain.ask(target, *NAVIGATE)
    assert answer.status in (302, 400)
    if answer.status == 302:
        assert answer.get("location") == "https://croft.localhost/workspace?next=/"
    assert "set-cookie" not in dict(answer.headers)


def test_absolute_target_of_another_host_is_not_served(plain) -> None:
    """FWD-9, WEB-9."""
    answer = plain.raw(b"GET http://evil.example/ HTTP/1.1\r\nHost: ide.croft.localhost\r\nConnection: close\r\n\r\n")
    assert answer.status == 421


def test_framed_navigation_gets_a_page_that_may_be_framed(plain) -> None:
    answer = plain.ask("/", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Site: same-site", "Sec-Fetch-Dest: iframe")
    assert (answer.status, b"signed-out" in answer.body) == (401, True)
    assert "frame-ancestors 'self' https://croft.localhost" in answer.get("content-security-policy")


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"]),
        ("GET", ["Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors"]),
        ("GET", ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: object"]),
        ("GET", ["Origin: https://evil.example"]),
        ("GET", ["Origin: null"]),
        ("POST", ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"]),
        ("POST", ["Sec-Fetch-Site: none"]),
        ("POST", ["Origin: https://p8080-x.croft.localhost"]),
        ("POST", ["Origin: null"]),
        ("POST", []),
    ],
)
def test_other_sites_may_link_here_and_nothing_more(plain, method: str, headers: list[str]) -> None:
    """WEB-5 on the IDE host: a sibling host is same-site, so the cookie alone proves nothing."""
    assert plain.ask("/mint-key", *headers, method=method, cookie=plain.OPERATOR).status == 403


def test_own_pages_may_post(plain) -> None:
    for header in (SAME, "Origin: https://ide.croft.localhost"):
        answer = plain.ask("/mint-key", header, method="POST", body=b"hello", cookie=plain.OPERATOR)
        assert (answer.json()["role"], answer.json()["body"]) == ("editor", "hello")


def test_chunked_post_arrives_once_and_whole(plain) -> None:
    before = len(plain.reached("editor"))
    answer = plain.raw(
        (
            f"POST /mint-key HTTP/1.1\r\nHost: ide.croft.localhost\r\n{SAME}\r\nConnection: close\r\n"
            f"Cookie: __Host-croft-ide={plain.OPERATOR}\r\nTransfer-Encoding: chunked\r\n\r\n"
            "5\r\nhello\r\n0\r\n\r\n"
        ).encode()
    )
    assert answer.json()["body"] == "hello"
    assert len(plain.reached("editor")) == before + 1


@pytest.mark.parametrize(
    ("query", "passes"),
    [
        ("folder=/w", True),
        ("workspace=/w/a.code-workspace", True),
        ("ew=true", True),
        ("folder=/w&ew=true", True),
        ("", True),
        ("payload=%5B%5D", False),
        ("folder=/w&payload=x", False),
        ("p%61yload=x", False),
        ("Payload=x", False),
        ("folder=/w;payload=x", False),
        ("&payload=x", False),
        ("tkn=x", False),
        ("folder", False),
        ("folder=/w&", False),
        ("payload", False),
    ],
)
@pytest.mark.parametrize(
    "path", ["/", "/manifest.json", "/stable-abc/", "/STABLE-abc/", "/%73table-abc/", "/stable-abc"]
)
def test_only_known_keys_open_the_workbench(plain, path: str, query: str, passes: bool) -> None:
    """SECURITY 6: crafted `payload` values ran code."""
    answer = plain.ask(f"{path}?{query}" if query else path, SAME, cookie=plain.OPERATOR)
    assert (answer.status == 200) is passes, answer.raw


@pytest.mark.parametrize(
    "path",
    [
        "//",
        "/./",
        "/stable-x/..",
        "/stable-x/../",
        "/stable-x/%2e%2e/",
        "/stable-x/.%2E",
        "/stable-x\\..\\",
        "/stable-x/..;/",
        "/stable-x%2f..%2f",
        "/stable-x/%5c../",
        "/a//b",
        "/%00",
        "//proxy/1",
        "/x/../login",
    ],
)
def test_paths_that_can_be_read_in_two_ways_are_refused(plain, path: str) -> None:
    """FWD-1: Caddy matches a cleaned path and sends the raw one on."""
    for query in ("", "?payload=x"):
        assert plain.ask(path + query, SAME, cookie=plain.OPERATOR).status == 400


def test_parts_of_the_editor_keep_their_queries(plain) -> None:
    answer = plain.ask("/stable-abc/vscode-remote-resource?path=%2Fw%2Fa.png&tkn=1", SAME, cookie=plain.OPERATOR)
    assert answer.json()["path"] == "/stable-abc/vscode-remote-resource?path=%2Fw%2Fa.png&tkn=1"


@pytest.mark.parametrize(
    "path",
    [
        "/proxy/8080/",
        "/PROXY/8080/",
        "/absproxy/1/",
        "/login",
        "/logout",
        "/update/check",
        "/update",
        "/healthz",
        "/healthz/",
        "/auth/verify",
        "/vscode",
        "/vscode/?payload=1",
    ],
)
def test_doors_of_the_editor_that_stay_shut(plain, path: str) -> None:
    assert plain.ask(path, SAME, cookie=plain.OPERATOR).status == 404


def test_verify_is_not_public(plain) -> None:
    """DECIDED 12."""
    for path in ("/auth/verify", "/auth/verify/", "/AUTH/verify", "//auth/verify", "/auth/verify?x=1"):
        assert plain.ask(path, host=plain.HOST).status == 404


def test_activity_is_a_visit_or_a_change(plain) -> None:
    """DECIDED 14: parts of a page and preflights never slide a session."""

    def slides(*headers: str, method: str = "GET") -> int:
        before = plain.state()["slide"]
        plain.ask("/", *headers, method=method, cookie=plain.OPERATOR)
        return plain.state()["slide"] - before

    assert slides(*NAVIGATE) == 1
    assert slides(SAME, method="POST") == 1
    assert slides(SAME) == 0
    assert slides(SAME, "Sec-Fetch-Mode: cors") == 0
    assert slides(SAME, method="OPTIONS") == 0


def test_visit_wakes_a_sleeping_editor_and_keeps_the_address(own) -> None:
    """DECIDED 17: only a visit, only by those who may use it."""
    own.state("ready=0")
    part = own.ask("/a.js", SAME, cookie=own.OPERATOR)
    assert (part.status, part.json()["error"]["code"]) == (503, "unavailable")
    assert own.ask("/", *NAVIGATE, cookie=own.VIEWER).status == 403
    assert own.ask("/", *NAVIGATE).status == 302
    assert own.state()["wake"] == 0
    visit = own.ask("/?folder=/w", *NAVIGATE, cookie=own.OPERATOR)
    assert (visit.status, visit.get("retry-after"), own.state()["wake"]) == (503, "2", 1)
    assert b"<title>waking</title><p>/?folder=/w</p>" in visit.body
    own.state("ready=1")
    assert own.ask("/", SAME, cookie=own.OPERATOR).json()["role"] == "editor"


def test_editor_that_died_leads_to_the_same_page(own) -> None:
    """DECIDED 17: 502 on the IDE host; the daemon is asked only after the check has passed."""
    own.stop_role("editor")
    visit = own.ask("/?folder=/w&ew=true", *NAVIGATE, cookie=own.OPERATOR)
    assert (visit.status, unquote(visit.body.decode())) == (
        503,
        "<!doctype html><title>waking</title><p>/?folder=/w&amp;ew=true</p>",
    )
    assert own.ask("/mint-key", SAME, method="POST", body=b"x", cookie=own.OPERATOR).status == 502
    assert own.ask("/", *NAVIGATE).status == 302


def test_daemon_that_is_gone_or_stuck_lets_nothing_through(own) -> None:
    """FWD-5: 504 within 3 s when stopped, 502 when gone; a new one is found at once."""
    before = len(own.reached("editor"))
    own.processes["daemon"].send_signal(signal.SIGSTOP)
    for headers in (NAVIGATE, (SAME,)):
        began = time.monotonic()
        assert own.ask("/", *headers, cookie=own.OPERATOR).status == 504
        assert time.monotonic() - began < 3
    own.stop_role("daemon")
    for headers in (NAVIGATE, (SAME,)):
        assert own.ask("/", *headers, cookie=own.OPERATOR).status == 502
    page = own.ask("/", "Accept: text/html", cookie=own.OPERATOR)
    assert (page.status, b"tries again by itself" in page.body) == (502, True)
    assert own.ask("/", host=own.HOST).status == 502
    assert len(own.reached("editor")) == before
    own.start_role("daemon")
    assert own.ask("/", SAME, cookie=own.OPERATOR).json()["role"] == "editor"
