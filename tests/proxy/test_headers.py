"""What clients may not say in headers, and what the editor may not say back."""

from __future__ import annotations

import pytest

SAME = "Sec-Fetch-Site: same-origin"
ORIGIN = "https://ide.croft.localhost"

# SECURITY section 6, and neighbours of each.
# fmt: off
IDENTITY = [
    "X-Auth-User", "X-Auth-Request-User", "X-Auth-Request-Email", "X-Authentik-Username",
    "X-Authenticated-User", "Remote-User", "Remote-Email", "Remote-Groups", "X-Remote-User", "X-Webauth-User",
    "X-Croft-User", "X-Croft-Role", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups",
    "X-Forwarded-Uri", "X-Forwarded-Prefix", "X-Forwarded-Method", "X-Forwarded-Port", "X-Forwarded-Server",
    "X-Forwarded-Scheme", "X-Forwarded-Ssl", "Forwarded", "X-Real-IP", "True-Client-IP", "CF-Connecting-IP",
    "CF-IPCountry", "X-Client-IP", "X-Cluster-Client-IP", "Client-IP", "Fastly-Client-IP", "X-Original-URL",
    "X-Original-URI", "X-Original-Method", "X-Original-Host", "X-Rewrite-URL", "X-HTTP-Method",
    "X-HTTP-Method-Override", "X-Method-Override", "X-Client-Cert", "X-Client-Cert-Chain", "Ssl-Client-Cert",
    "Ssl-Client-Verify", "X-Ssl-Client-Cert", "Proxy", "Proxy-Authorization", "Proxy-Connection",
    "X-Accel-Redirect", "X-Accel-Mapping", "X-Sendfile", "X-Host", "X-User",
]
# fmt: on
SET_BY_CADDY = {"x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "https"}


def spellings(name: str) -> set[str]:
    """Case and separator variants, mixed ones too."""
    parts = name.split("-")
    separated = {
        name,
        name.replace("-", "_"),
        name.replace("-", "."),
        "_".join([parts[0], "-".join(parts[1:])]) if parts[1:] else name,
    }
    return {form for spelled in separated for form in (spelled, spelled.lower(), spelled.upper(), spelled.swapcase())}


def names_seen(stack, role: str, since: int) -> list[str]:
    return [name.lower() for entry in stack.reached(role)[since:] for name, _ in entry["headers"]]


@pytest.mark.parametrize(
    ("role", "host", "path"),
    [
        ("daemon", "croft.localhost", "/"),
        ("daemon", "ide.croft.localhost", "/__croft/x"),
        ("editor", "ide.croft.localhost", "/"),
    ],
)
def test_no_identity_header_survives_entry(plain, role: str, host: str, path: str) -> None:
    """FWD-2: each once and twice, in all spellings."""
    since = len(plain.reached(role))
    sent = sorted({form for name in IDENTITY for form in spellings(name)})
    for some in (sent[start : start + 40] for start in range(0, len(sent), 40)):
        for times in (1, 2):
            headers = [f"{name}: evil{number}" for name in some for number in range(times)]
            answer = plain.ask(path, SAME, *headers, host=host, cookie=plain.OPERATOR)
            assert answer.json()["role"] == role, answer.raw
    seen = set(names_seen(plain, role, since))
    known = {"host", "cookie", "sec-fetch-site", "accept-encoding", "via", "x-forwarded-host", *SET_BY_CADDY}
    assert seen <= known
    values = {value for entry in plain.reached(role)[since:] for _, value in entry["headers"]}
    assert not any(value.startswith("evil") for value in values)


@pytest.mark.parametrize(
    "value",
    [
        "X-Forwarded-For",
        "Cookie",
        "close, X-Forwarded-Uri",
        "keep-alive,cookie",
        "Authorization",
        "Origin",
        "upgrade, Host",
        "{http.request.header.Cookie}",
        "close\r\nConnection: x-forwarded-method",
    ],
)
def test_connection_may_not_name_our_headers(plain, value: str) -> None:
    """FWD-3: a hop-by-hop name would be removed on the way."""
    for host in (plain.HOST, plain.IDE):
        cookie = f"Cookie: __Host-croft-ide={plain.OPERATOR}"
        raw = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: {value}\r\n{cookie}\r\n\r\n"
        assert plain.raw(raw.encode(), name=host, first=True).status == 400


@pytest.mark.parametrize("value", ["keep-alive", "close", "Keep-Alive, close", "TE, close"])
def test_ordinary_connection_headers_pass(plain, value: str) -> None:
    raw = f"GET / HTTP/1.1\r\nHost: croft.localhost\r\nConnection: {value}\r\n\r\n"
    assert plain.raw(raw.encode(), first=True).status == 200


def test_placeholders_stay_text(plain) -> None:
    """FWD-3: nothing a client sends is expanded by Caddy."""
    for text in (
        "{http.request.header.Cookie}",
        "{http.vars.allowed}",
        "{env.PATH}",
        "{http.reverse_proxy.header.X-Auth-User}",
    ):
        entry = plain.ask("/", SAME, f"Accept: {text}", f"User-Agent: {text}", cookie=plain.OPERATOR).json()
        assert [value for name, value in entry["headers"] if name in ("Accept", "User-Agent")] == [text, text]


def test_one_hop_names_the_client(secure) -> None:
    """FWD-7: with TLS the peer's address is the client's, whatever the client says."""
    for role, host, path in (("daemon", secure.HOST, "/"), ("editor", secure.IDE, "/")):
        entry = secure.ask(
            path, SAME, "X-Forwarded-For: 203.0.113.9", "X-Real-IP: 203.0.113.9", host=host, cookie=secure.OPERATOR
        ).json()
        assert entry["role"] == role
        assert [value for name, value in entry["headers"] if name == "X-Forwarded-For"] == ["127.0.0.1"]
        assert [value for name, value in entry["headers"] if name == "X-Forwarded-Proto"] == ["https"]


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8::1", "2001:db8::1"),
        ("1.2.3.4, 5.6.7.8", "127.0.0.1"),
        ("{env.PATH}", "127.0.0.1"),
        ("x", "127.0.0.1"),
    ],
)
def test_web_server_in_front_may_name_the_client(plain, sent: str, taken: str) -> None:
    """FWD-7 behind another web server on this machine: one address and nothing else."""
    entry = plain.ask("/", f"X-Forwarded-For: {sent}", host=plain.HOST).json()
    assert [value for name, value in entry["headers"] if name == "X-Forwarded-For"] == [taken]


def test_credentials_never_reach_the_editor(plain) -> None:
    """FWD-8."""
    since = len(plain.reached("editor"))
    plain.ask("/", SAME, f"Cookie: a=b; __Host-croft=x; __Host-croft-ide={plain.OPERATOR}; c=d")
    plain.ask("/", SAME, "Cookie: x=1", cookie=plain.OPERATOR)
    plain.ask("/", f"Authorization: Bearer {plain.TOKEN}")
    plain.ask("/mint-key", f"Authorization: Bearer {plain.TOKEN}", method="POST", body=b"{}")
    assert len(plain.reached("editor")) == since + 4
    assert not {"cookie", "authorization"} & set(names_seen(plain, "editor", since))


def test_editor_cannot_speak_for_the_host(plain) -> None:
    """SECURITY 6, WEB-10, WEB-18: what a hostile upstream sends is dropped or replaced."""
    answer = plain.ask("/", SAME, cookie=plain.OPERATOR)
    assert answer.json()["role"] == "editor"
    for gone in ("set-cookie", "clear-site-data", "service-worker-allowed", "x-frame-options"):
        assert answer.all(gone) == []
    ancestors = "frame-ancestors 'self' https://croft.localhost"
    assert answer.all("content-security-policy") == [f"default-src 'self'; {ancestors}; img-src data:", ancestors]


def test_every_answer_carries_the_basic_headers(plain) -> None:
    """WEB-12, errors of Caddy's own included; the daemon's answers carry the daemon's own."""
    answers = [
        plain.ask("/auth/verify", host=plain.HOST),
        plain.ask("/", SAME, cookie=plain.OPERATOR),
        plain.ask("/"),
        plain.ask("/", "Sec-Fetch-Mode: navigate"),
        plain.ask("/?payload=1"),
        plain.ask("/", method="TRACE"),
        plain.ask("/", host="evil.example"),
    ]
    for answer in answers:
        assert answer.all("x-content-type-options") == ["nosniff"], answer.raw
        assert answer.all("strict-transport-security") == ["max-age=63072000"]
        assert answer.all("cross-origin-opener-policy") == ["same-origin"]
        assert answer.all("cross-origin-resource-policy") == ["same-origin"]
        assert len(answer.all("referrer-policy")) == 1
        assert len(answer.all("permissions-policy")) == 1
        assert answer.all("server") in ([], ["Caddy"])
