"""The forward-auth endpoint alone, spoken to as a careless or hostile peer on its socket would."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.identity.verify import (
    NOBODY,
    REQUEST_MAX,
    Access,
    Site,
    Verdict,
    Verifier,
    VerifyProtocol,
    relative_path,
)

COOKIE = "croft_ide_" + "o" * 43
GOOD = {
    "X-Forwarded-Method": "GET",
    "X-Forwarded-Uri": "/",
    "X-Forwarded-Host": "ide.croft.test",
    "Sec-Fetch-Site": "same-origin",
    "Cookie": f"__Host-croft-ide={COOKIE}",
}


class OpenGate:
    """Knows one cookie; can be told to fail."""

    def __init__(self) -> None:
        self.broken = False
        self.asked: list[str] = []

    def check(self, cookie: str, host: str) -> Verdict:
        self.asked.append(cookie)
        if self.broken:
            raise RuntimeError("the gate broke")
        return Verdict(Access.allowed) if cookie == COOKIE else NOBODY

    def check_bearer(self, token: str, host: str) -> Verdict:
        return NOBODY

    def slide(self, session: object) -> None:
        pass

    def ready(self) -> bool:
        return True

    def wake(self) -> None:
        pass

    def page(self, name: str, path: str, accept_language: str) -> bytes:
        return b"page"


@pytest.fixture
def gate() -> OpenGate:
    return OpenGate()


@pytest.fixture
async def path(tmp_path: Path, gate: OpenGate) -> AsyncIterator[str]:
    site = Site("ide.croft.test", "https://ide.croft.test", "https://croft.test")
    verifier = Verifier(gate, site)
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: VerifyProtocol(verifier), str(tmp_path / "v.sock")
    )
    yield str(tmp_path / "v.sock")
    server.close()
    await server.wait_closed()


def request(headers: dict[str, str] | None = None, *extra: str, target: str = "/auth/verify") -> bytes:
    lines = [f"{name}: {value}" for name, value in (GOOD if headers is None else headers).items()]
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: ide.croft.test", *lines, *extra, "", ""]).encode("latin-1")


async def talk(path: str, *pieces: bytes) -> bytes:
    """Send ``pieces`` for as long as the other end takes them, close the sending side, return all that came back."""
    reader, writer = await asyncio.open_unix_connection(path)
    answer = bytearray()

    async def collect() -> None:
        while chunk := await reader.read(65536):
            answer.extend(chunk)

    collecting = asyncio.create_task(collect())
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.write_eof()
    except OSError:
        pass  # closed in our face, which some tests expect
    await asyncio.wait([collecting], timeout=5)
    assert collecting.done()
    collecting.exception()
    writer.close()
    return bytes(answer)


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


async def test_yes_is_a_bare_204(path: str) -> None:
    assert await talk(path, request()) == b"HTTP/1.1 204 No Content\r\n\r\n"


async def test_answers_keep_the_order_of_pipelined_requests(path: str) -> None:
    stranger = request(GOOD | {"Cookie": "__Host-croft-ide=" + "x" * 43})
    assert statuses(await talk(path, request() + stranger + request() + stranger)) == [204, 401, 204, 401]


async def test_every_split_of_the_bytes_reads_the_same(path: str) -> None:
    whole = request()
    for cut in range(1, len(whole), 7):
        assert statuses(await talk(path, whole[:cut], whole[cut:])) == [204]


@pytest.mark.parametrize(
    "headers",
    [{name: value for name, value in GOOD.items() if name != missing} for missing in GOOD if missing.startswith("X-F")]
    + [GOOD | {name: ""} for name in GOOD if name.startswith("X-F")]
    + [
        GOOD | {"X-Forwarded-Host": value}
        for value in ("croft.test", "ide.croft.test.evil", "{http.request.host}", "evil@ide.croft.test")
    ],
)
async def test_incomplete_requests_are_refused(path: str, gate: OpenGate, headers: dict[str, str]) -> None:
    """FWD-3."""
    assert statuses(await talk(path, request(headers))) == [401]
    assert gate.asked == []


@pytest.mark.parametrize(
    "extra",
    [
        "X-Forwarded-Host: ide.croft.test",
        "x-forwarded-uri: /",
        "X-FORWARDED-METHOD: GET",
        "Origin: a\r\nOrigin: b",
        "Sec-Fetch-Site: same-origin",
        "Authorization: a\r\nAuthorization: b",
    ],
)
async def test_doubled_headers_are_refused(path: str, gate: OpenGate, extra: str) -> None:
    """FWD-3."""
    assert statuses(await talk(path, request(None, extra))) == [401]
    assert gate.asked == []


async def test_two_cookies_of_the_name_are_none(path: str, gate: OpenGate) -> None:
    assert statuses(await talk(path, request(None, f"Cookie: __Host-croft-ide={COOKIE}"))) == [401]
    assert gate.asked == []


@pytest.mark.parametrize(
    "target", ["/", "/auth/verify/", "/auth/verifyx", "/AUTH/VERIFY", "//auth/verify", "http://x/auth/verify", "*"]
)
async def test_only_one_address_answers(path: str, target: str) -> None:
    assert statuses(await talk(path, request(target=target))) == [401]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"\x00" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        request(None, "Connection: Upgrade", "Upgrade: websocket"),
        request(None, "X\x00: y"),
        request(None, "Content-Length: x"),
        request(None, "Transfer-Encoding: chunked", "Content-Length: 3"),
        b"{}\r\n\r\n",
    ],
    ids=range(10),
)
async def test_malformed_input_ends_the_connection(path: str, caplog: pytest.LogCaptureFixture, garbage: bytes) -> None:
    answer = await talk(path, garbage + request())
    assert 204 not in statuses(answer)
    assert statuses(answer)[:1] in ([400], [401])
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("piece", [b"a" * 8192, b"X: " + b"a" * 8000 + b"\r\n", b"a: b\r\n" * 1300])
async def test_endless_headers_are_cut_off(path: str, piece: bytes) -> None:
    opening = b"GET /auth/verify HTTP/1.1\r\nX: "
    answer = await talk(path, opening, *[piece] * (REQUEST_MAX // len(piece) + 20))
    assert statuses(answer) in ([431], [400])


async def test_broken_gate_lets_nothing_through(path: str, gate: OpenGate, caplog: pytest.LogCaptureFixture) -> None:
    """FWD-5: a fault of ours closes the connection, which Caddy answers with 502."""
    gate.broken = True
    answer = await talk(path, request())
    assert 204 not in statuses(answer)
    gate.broken = False
    assert statuses(await talk(path, request())) == [204]


async def test_connection_close_is_honoured(path: str) -> None:
    assert statuses(await talk(path, request(None, "Connection: close") + request())) == [204]


@pytest.mark.parametrize("uri", ["/", "/?folder=/home/a//b", "/a/b.html?x=%2F", "/stable-a/x?path=%2Fa%2Fb.png"])
def test_paths_to_come_back_to(uri: str) -> None:
    assert relative_path(uri) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "x",
        "//evil",
        "/\\evil",
        "\\evil",
        "https:evil",
        "https://evil/",
        "/%2f/evil",
        "/%5cevil",
        "/..",
        "/a/../b",
        "/a/%2e%2e/b",
        "/a\r\nX: y",
        "/%0d%0aX:y",
        "/ a",
        "/\x7f",
        "/\u00e9",
        "/a//b",
        "/%00",
        "/{x}",
        "/%7bx%7d",
        "/" + "a" * 3000,
        "javascript:alert(1)",
    ],
)
def test_paths_not_to_come_back_to(uri: str) -> None:
    """FWD-9."""
    assert relative_path(uri) == ""
