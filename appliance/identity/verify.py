"""The forward-auth endpoint: Caddy asks it about every request to the IDE host, on a unix socket of its own.

Rule: only the 204 lets a request through, and only after ``Gate`` said yes for this very request; whatever is
missing, doubled, malformed or unexpected gets another answer. It runs before every file of the IDE, so it parses
with llhttp, awaits nothing and touches no disk.

Caddy sends ``GET /auth/verify`` with the client's headers and X-Forwarded-Method, -Uri and -Host, which it sets
itself after dropping the client's own (``appliance/broker/caddyfile.py``). Upgrades never come here: the relay
checks those.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from enum import Enum
from http import HTTPStatus
from typing import Literal, NamedTuple, Protocol, cast
from urllib.parse import quote, unquote

import httptools
from msgspec import Struct

log = logging.getLogger(__name__)

# Caddy takes about 20 KiB of headers and repeats the URL.
REQUEST_MAX = 64 * 1024
NEXT_MAX = 2048

_COOKIE = re.compile(rb"[A-Za-z0-9_.~-]{16,512}\Z")
_BEARER = re.compile(rb"(?i:bearer) ([A-Za-z0-9_.~-]{16,4096})\Z")
_RELATIVE = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*\Z")
_JOINED = {b"cookie": b"; ", b"accept": b", ", b"accept-language": b", "}
_WANTED = frozenset(
    {
        *_JOINED,
        b"x-forwarded-method",
        b"x-forwarded-uri",
        b"x-forwarded-host",
        b"authorization",
        b"origin",
        b"sec-fetch-site",
        b"sec-fetch-mode",
        b"sec-fetch-dest",
    }
)
_ALLOWED = b"HTTP/1.1 204 No Content\r\n\r\n"
_ALWAYS = (
    "Cache-Control: no-store\r\n"
    "Cross-Origin-Opener-Policy: same-origin\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
    "Permissions-Policy: camera=(), geolocation=(), microphone=(), payment=(), usb=()\r\n"
    "Referrer-Policy: same-origin\r\n"
    "Strict-Transport-Security: max-age=63072000\r\nX-Content-Type-Options: nosniff\r\n"
)


class Access(Enum):
    """What a credential is good for."""

    allowed = "allowed"
    nobody = "nobody"
    forbidden = "forbidden"


class Verdict(NamedTuple):
    """The answer of :class:`Gate`. ``session`` is the gate's own; it is only handed back to ``slide``."""

    access: Access
    session: object = None


NOBODY = Verdict(Access.nobody)
PageName = Literal["waking", "signed-out", "forbidden", "failed"]


class Gate(Protocol):
    """What the endpoint asks. Every method answers from memory, at once."""

    def check(self, cookie: str, host: str) -> Verdict:
        """Who holds this cookie of ``host``. ``allowed`` means operator or admin (DECIDED 18)."""

    def check_bearer(self, token: str, host: str) -> Verdict:
        """The same for a workspace token."""

    def slide(self, session: object) -> None:
        """The session was used (DECIDED 14)."""

    def ready(self) -> bool:
        """Whether code-server answers."""

    def wake(self) -> None:
        """Somebody who may wants to use the IDE: start it unless it is starting already."""

    def page(self, name: PageName, path: str, accept_language: str) -> bytes:
        """A whole HTML page, UTF-8. ``path`` is what was asked for, already checked by :func:`relative_path`."""


class Site(Struct, frozen=True):
    """Names of this appliance, origins as browsers write them, and the IDE host's cookie."""

    ide_host: str
    ide_origin: str
    ui_origin: str
    cookie: str = "__Host-croft-ide"


def relative_path(uri: str) -> str:
    """``uri`` when it is a path of this host that is safe to send somebody to, else '' (FWD-9).

    Refused: other schemes and hosts in every spelling browsers forgive, steps upwards, what a Caddyfile or header could
    misread, and anything outside the characters RFC 3986 allows in a path and query; all also encoded once or twice.
    """
    if len(uri) > NEXT_MAX or not _RELATIVE.match(uri):
        return ""
    readable = uri
    for _ in range(3):
        path = readable.partition("?")[0]
        if (
            "//" in path
            or ".." in path.split("/")
            or not readable.isprintable()
            or any(char in readable for char in "\\{}")
        ):
            return ""
        readable = unquote(readable, errors="surrogateescape")
    return uri


class Request:
    """The few headers that matter, lower case; ``doubled`` when one that must be single was not."""

    __slots__ = ("doubled", "fields", "keep_alive", "target")

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}
        self.target = b""
        self.doubled = False
        self.keep_alive = True

    def repeat(self, name: bytes, value: bytes) -> None:
        """Another header of a name already seen."""
        if name in _JOINED:
            self.fields[name] += _JOINED[name] + value
        else:
            self.doubled = True

    @property
    def whole(self) -> bool:
        """Whether Caddy made this request and said what it is about, once."""
        fields, path = self.fields, self.target.partition(b"?")[0]
        return (
            path == b"/auth/verify"
            and not self.doubled
            and bool(fields.get(b"x-forwarded-method"))
            and bool(fields.get(b"x-forwarded-uri"))
            and bool(fields.get(b"x-forwarded-host"))
        )

    @property
    def navigation(self) -> bool:
        """Whether a person is opening a page, rather than a page loading a part."""
        if self.fields[b"x-forwarded-method"] not in (b"GET", b"HEAD"):
            return False
        mode = self.fields.get(b"sec-fetch-mode")
        return mode == b"navigate" if mode is not None else b"text/html" in self.fields.get(b"accept", b"")


class Verifier:
    """Answers one request. Pure but for the gate."""

    def __init__(self, gate: Gate, site: Site) -> None:
        self._gate = gate
        self._site = site
        self._cookie = re.compile(rb"(?:^|;)[ \t]*" + re.escape(site.cookie.encode()) + rb"=([^;]*)")
        self._host = site.ide_host.encode()
        self._origin = site.ide_origin.encode()

    def answer(self, request: Request) -> bytes:
        """The whole HTTP response."""
        fields = request.fields
        if not request.whole:
            return self._refuse(HTTPStatus.UNAUTHORIZED, "sign_in_required", "This request did not come by the proxy.")
        if fields[b"x-forwarded-host"].partition(b":")[0].lower() != self._host:
            return self._refuse(HTTPStatus.UNAUTHORIZED, "sign_in_required", "This host is not served here.")
        bearer = b"authorization" in fields
        verdict = self._bearer(fields[b"authorization"]) if bearer else self._by_cookie(fields.get(b"cookie", b""))
        if verdict.access is Access.nobody:
            return self._sign_in(request)
        if not bearer and self._foreign(request):
            return self._refuse(HTTPStatus.FORBIDDEN, "forbidden", "Another site may not load parts of the IDE.")
        if verdict.access is not Access.allowed:
            return self._forbidden(request)
        return self._use(request, verdict)

    def _use(self, request: Request, verdict: Verdict) -> bytes:
        navigation = request.navigation
        if navigation or request.fields[b"x-forwarded-method"] not in (b"GET", b"HEAD", b"OPTIONS"):
            self._gate.slide(verdict.session)
        if self._gate.ready():
            return _ALLOWED
        if not navigation:
            return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "The IDE is not running.")
        self._gate.wake()
        return self._page(HTTPStatus.SERVICE_UNAVAILABLE, "waking", request, "Retry-After: 2\r\n")

    def _by_cookie(self, header: bytes) -> Verdict:
        found = self._cookie.findall(header)
        if len(found) != 1 or not _COOKIE.match(found[0]):
            return NOBODY
        return self._gate.check(found[0].decode("ascii"), self._site.ide_host)

    def _bearer(self, header: bytes) -> Verdict:
        match = _BEARER.match(header)
        return self._gate.check_bearer(match[1].decode("ascii"), self._site.ide_host) if match else NOBODY

    def _foreign(self, request: Request) -> bool:
        """Whether another origin's page is behind this request: it may link here, nothing more."""
        fields, navigation = request.fields, request.navigation
        site, origin = fields.get(b"sec-fetch-site"), fields.get(b"origin")
        if site == b"same-origin":
            return False
        if site is not None:
            return not navigation or fields.get(b"sec-fetch-dest") in (b"object", b"embed")
        if fields[b"x-forwarded-method"] in (b"GET", b"HEAD", b"OPTIONS"):
            return origin not in (None, self._origin)
        return origin != self._origin

    def _sign_in(self, request: Request) -> bytes:
        if not request.navigation:
            return self._refuse(HTTPStatus.UNAUTHORIZED, "sign_in_required", "Sign in to use the IDE.")
        if request.fields.get(b"sec-fetch-dest") in (b"iframe", b"frame"):
            # The sign-in page may not be framed, so the frame says what to do instead.
            return self._page(HTTPStatus.UNAUTHORIZED, "signed-out", request)
        path = quote(_asked(request), safe="/")
        location = f"Location: {self._site.ui_origin}/workspace?next={path}\r\n"
        return _response(HTTPStatus.FOUND, "text/plain; charset=utf-8", b"", location)

    def _forbidden(self, request: Request) -> bytes:
        if request.navigation:
            return self._page(HTTPStatus.FORBIDDEN, "forbidden", request)
        return self._refuse(HTTPStatus.FORBIDDEN, "forbidden", "The IDE is for operators and admins.")

    def _page(self, status: HTTPStatus, name: PageName, request: Request, extra: str = "") -> bytes:
        path = _asked(request)
        body = self._gate.page(name, path, _text(request.fields.get(b"accept-language", b"")))
        policy = (
            "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; "
            f"frame-ancestors 'self' {self._site.ui_origin}\r\n"
        )
        return _response(status, "text/html; charset=utf-8", body, extra + policy)

    def _refuse(self, status: HTTPStatus, code: str, message: str) -> bytes:
        error = {"error": {"code": code, "message": message, "hint": ""}}
        return _response(status, "application/json", json.dumps(error).encode())


class VerifyProtocol(asyncio.Protocol):
    """One connection from Caddy: requests one after another, answers in their order."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._complete: list[Request] = []
        self._pending = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def pause_writing(self) -> None:
        if self._transport:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._pending += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            log.warning("forward-auth request refused", extra={"cause": type(error).__name__})
            self._answer()
            self._end(HTTPStatus.BAD_REQUEST)
            return
        if self._complete:
            self._answer()
        elif self._pending > REQUEST_MAX:
            self._end(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _answer(self) -> None:
        ready, self._complete = self._complete, []
        for request in ready:
            if self._transport is None or self._transport.is_closing():
                return
            self._transport.write(self._verifier.answer(request))
            if not request.keep_alive:
                self._transport.close()

    def _end(self, status: HTTPStatus) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(_response(status, "text/plain", b"", "Connection: close\r\n"))
            self._transport.close()

    # Called by the parser.

    def on_message_begin(self) -> None:
        self._request = Request()

    def on_url(self, url: bytes) -> None:
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name not in _WANTED:
            return
        if name in self._request.fields:
            self._request.repeat(name, value)
        else:
            self._request.fields[name] = value

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return  # feed_data raises next
        self._request.keep_alive = self._parser.should_keep_alive()
        self._complete.append(self._request)
        self._pending = 0


def _response(status: HTTPStatus, kind: str, body: bytes, extra: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"{_ALWAYS}{extra}\r\n"
    )
    return head.encode("ascii") + body


def _asked(request: Request) -> str:
    """The address to come back to."""
    return relative_path(_text(request.fields[b"x-forwarded-uri"])) or "/"


def _text(value: bytes) -> str:
    return value.decode("latin-1")
