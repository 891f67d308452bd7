"""The one gate every request passes: host, who is asking, may they, and did it come from our own page.

Rule: access is decided here from the route table and nowhere else; a route without an entry does not exist (AUTH-11).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
from collections.abc import Awaitable, Callable

from aiohttp import web
from msgspec import Struct

from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.errors import CroftError, Forbidden, Invalid, NotFound, Unauthenticated, Unavailable
from appliance.identity.access import WorkspaceAccess
from appliance.identity.api_tokens import ApiToken
from appliance.identity.bearer import Bearer, carried
from appliance.identity.sessions import Session, Sessions
from appliance.identity.tokens import TokenRefused
from appliance.identity.users import Role, User
from appliance.settings import Settings
from webui import cookies
from webui.forms import FORM, Bodies
from webui.relay import peer_uid

log = logging.getLogger(__name__)

COOKIE = "__Host-croft"
IDE_COOKIE = "__Host-croft-ide"
DEVICE_COOKIE = "__Host-croft-device"
UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# What the control socket serves. Pages are for a person, and behind the console there is none.
FOR_PROGRAMS = ("/api/", "/healthz", "/readyz", "/metrics")
# The scope of a route that every token may use: what it learns about, or does to, the token itself.
ANY_SCOPE = "any"
# Bytes that may come where nobody has signed in: an address, a code, what a passkey signed. A megabyte of each stranger would
# take all of our memory.
OPEN_MAX = 64 * 1024
DENIALS_MAX = 1000
DENIAL_SECONDS = 60.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Principal(Struct, frozen=True):
    """Who a request acts as. ``session``, ``user`` and ``token`` are None for the console (``croft`` on the machine itself);
    a person has a session in a browser, or a token where a program acts for them. ``access`` is the session's or token's name
    where a program came with a workspace token made from it."""

    actor: str
    role: Role
    user: User | None = None
    session: Session | None = None
    token: ApiToken | None = None
    access: str = ""

    @property
    def tag(self) -> str:
        """What open streams are filed under, so that they end with it."""
        return self.access or (self.session.id if self.session else self.actor)


CONSOLE = Principal("console", Role.admin)
PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)


class Route(Struct, frozen=True):
    """One row of the table. ``role`` None means anyone; ``form`` says that a plain HTML form may post it; ``fresh`` asks
    for a proof of identity within the last five minutes; ``host`` is ui, ide or console (the control socket alone).
    ``scope`` is what an API token must hold to come here; without one no token gets in. Where ``fresh`` is asked for too, the
    token is let in: it was made with a fresh proof, for that scope and a limited time. ``program`` marks a route for
    programs that bring their proof in the body: no cookie is looked at, so no page can lend them a person's, and none
    needs to be kept away. ``workspace`` lets workspace tokens in. ``cancels``: a client that hangs up ends the work, which
    changes nothing that could be left half done. ``body_max`` is in bytes; 0 is what pages take."""

    method: str
    path: str
    handler: Handler
    role: Role | None
    summary: str
    form: bool = False
    host: str = "ui"
    slides: bool = True
    fresh: bool = False
    scope: str = ""
    program: bool = False
    workspace: bool = False
    cancels: bool = False
    body_max: int = 0


class ScopeMissing(Forbidden):
    """The token may not do this, though its person might."""

    code = "token_scope"

    def __init__(self, route: Route) -> None:
        possible = bool(route.scope)
        super().__init__(
            f"this token does not hold the scope {route.scope}" if possible else "this is not for tokens",
            hint="Make a token with that scope, or sign in again with `croft sign-in --scope`."
            if possible
            else "A person does this in the browser, or `croft` on the machine itself.",
        )
        self.challenge = 'Bearer realm="croft", error="insufficient_scope"' + (
            f', scope="{route.scope}"' if possible else ""
        )


class Guard:
    """Middleware over a route table."""

    def __init__(
        self,
        settings: Settings,
        sessions: Sessions,
        bearer: Bearer,
        access: WorkspaceAccess,
        audit: AuditLog,
        clock: Clock,
        started: asyncio.Event,
        routes: dict[tuple[str, str], Route],
        console_uids: frozenset[int],
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._bearer = bearer
        self._access = access
        self._audit = audit
        self._clock = clock
        self._started = started
        self._routes = routes
        self._console_uids = console_uids
        self._hosts = {settings.host: "ui", settings.ide_host: "ide"}
        self._finishing: set[asyncio.Task[web.StreamResponse]] = set()
        self._bodies = Bodies()
        self._denied: dict[tuple[str, Route], float] = {}

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The gate. A request that may change something is finished even when the client hangs up half-way: a change of role
        that is on disk but not in memory, or the other way round, must not be for a client to make."""
        host, route = self._host(request), self._route(request, "ui")
        if request.method not in UNSAFE or (route is not None and route.cancels and host == "ui"):
            return await self._check(request, handler, host, route)
        task = asyncio.ensure_future(self._check(request, handler, host, route))
        self._finishing.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[web.StreamResponse]) -> None:
        self._finishing.discard(task)
        if not task.cancelled():
            task.exception()  # seen: the error middleware has answered it, or the client is gone

    async def drain(self, app: web.Application) -> None:
        """Let the changes under way end (called while the application stops)."""
        if self._finishing:
            await asyncio.wait(self._finishing)

    async def _check(
        self, request: web.Request, handler: Handler, host: str | None, route: Route | None
    ) -> web.StreamResponse:
        """``host`` is whose name was asked for, ``route`` the UI host's for this address."""
        if _from_console(request):
            return await self._console(request, handler, route)
        if not request.raw_path.startswith("/"):
            raise web.HTTPMisdirectedRequest(text="only plain paths are served here")
        if host is None:
            raise web.HTTPMisdirectedRequest(text="this name is not served here")
        if host == "ide":
            # Every address of the IDE host that reaches the daemon goes to one handler, which checks for itself.
            own = self._route(request, "ide") or self._routes["*", "ide"]
            return await own.handler(_at_most(request, OPEN_MAX))
        if route is None or route.host == "console":
            raise _no_route(request)
        request = _at_most(request, OPEN_MAX if route.role is None else route.body_max)
        sent = carried(request.headers.getall("Authorization", [])) if route.role is not None else []
        if request.method in UNSAFE:
            if not sent and not route.program:
                check_same_origin(request, self._settings.ui_origin)
            _check_kind(request, route)
        principal = await self._admit(request, route, sent)
        if route.role is not None and request.method in UNSAFE and not request.content.is_eof():
            # It may dribble in for a minute, in which a session ends or a role is lost: judged again when it is whole.
            await self._bodies.read(request, _sender(route, principal))
            principal = await self._admit(request, route, sent)
        self._slide(request, route, principal)
        await self._arrive(route)
        response = await handler(request)
        await self._rotate(request, principal, response)
        return response

    async def _admit(self, request: web.Request, route: Route, sent: list[str]) -> Principal | None:
        """Who is asking, if they may come here. Raises Unauthenticated or Forbidden."""
        principal = await self._principal(request, route, sent)
        if principal is not None:
            request[PRINCIPAL] = principal
        await self._check_role(request, route, principal)
        return principal

    async def _rotate(self, request: web.Request, principal: Principal | None, response: web.StreamResponse) -> None:
        """A session whose person has another role now gets a new id with its next navigation or change (AUTH-7). Not with
        sub-requests: a page sends several at once, and all but one would come with an id that is gone."""
        session = principal.session if principal else None
        if session is None or not session.rotate or session.ended or response.prepared:
            return
        if request.headers.get("Sec-Fetch-Mode") == "navigate" or request.method in UNSAFE:
            cookies.put(response, COOKIE, await self._sessions.rotate(session), keep=session.remember)

    def _host(self, request: web.Request) -> str | None:
        """By name alone (WEB-9): what defeats rebinding is the name; a port may be mapped on the way here."""
        return self._hosts.get(request.headers.get("Host", "").partition(":")[0].lower())

    def _route(self, request: web.Request, host: str) -> Route | None:
        method = "GET" if request.method == "HEAD" else request.method
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else ""
        return self._routes.get((method, path if host == "ui" else f"ide:{request.path}"))

    async def _principal(self, request: web.Request, route: Route, sent: list[str]) -> Principal | None:
        """Who is asking. A token wins over a cookie, and a bad token is a refusal and not a fall back: a program sends one on
        purpose, while a browser adds cookies unasked. So the request does what the token may and nothing more."""
        if route.program:
            return None
        if sent:
            if route.workspace and (holder := self._behind(sent)):
                if isinstance(holder, Session):
                    return Principal(holder.user.id, holder.user.role, holder.user, access=holder.id)
                return Principal(holder.actor, holder.role, holder.user, access=holder.actor)
            token = await self._bearer.admit(sent, client_address(request))
            return Principal(token.actor, token.role, token.user, token=token)
        session = self._sessions.check(request.cookies.get(COOKIE, ""))
        return Principal(session.user.id, session.user.role, session.user, session) if session else None

    def _behind(self, sent: list[str]) -> Session | ApiToken | None:
        """What the workspace token was made from; None where it is none of ours, which then counts as any wrong token does."""
        text = sent[0].partition(" ")[2].strip()
        if len(sent) != 1 or text.count(".") != 2:  # an API token, which most are, has no dots
            return None
        try:
            return self._access.holder(text)
        except TokenRefused:
            return None

    async def _check_role(self, request: web.Request, route: Route, principal: Principal | None) -> None:
        if route.role is None:
            return
        if principal is None:
            raise Unauthenticated("you are not signed in", hint="Sign in, then try again.")
        if principal.role < route.role:
            await self._note_denied(principal, route)
            raise Forbidden(f"this needs the role {route.role.name}", hint="Ask an admin of this appliance.")
        if principal.token and route.scope not in {ANY_SCOPE, *principal.token.scopes}:
            await self._note_denied(principal, route)
            raise ScopeMissing(route)
        if route.fresh and principal.session and not self._sessions.fresh(principal.session):
            raise Forbidden(
                "this needs a fresh sign-in", hint="Sign in again, then repeat it within five minutes.", code="step_up"
            )

    async def _note_denied(self, principal: Principal, route: Route) -> None:
        """Once a minute for each person and route, and once in all for a program: trying again and again must not fill the log."""
        now, last = self._clock.uptime(), self._denied.get((principal.actor, route))
        if last is not None and (principal.token or now - last < DENIAL_SECONDS):
            return
        if len(self._denied) >= DENIALS_MAX:
            self._denied.clear()
        self._denied[principal.actor, route] = now
        await self._audit.note("access.denied", principal.actor, route=f"{route.method} {route.path}")

    def _slide(self, request: web.Request, route: Route, principal: Principal | None) -> None:
        """Navigations and unsafe requests are activity; streams, polls and sub-requests are not (DECIDED 14)."""
        navigation = request.headers.get("Sec-Fetch-Mode") == "navigate"
        if principal and principal.session and route.slides and (navigation or request.method in UNSAFE):
            self._sessions.slide(principal.session)

    async def _console(self, request: web.Request, handler: Handler, route: Route | None) -> web.StreamResponse:
        sock = request.transport.get_extra_info("socket") if request.transport else None
        if sock is None or peer_uid(sock) not in self._console_uids:
            raise Forbidden("this socket is for the machine's own command line")
        if route is None or not route.path.startswith(FOR_PROGRAMS):
            raise _no_route(request)
        request[PRINCIPAL] = CONSOLE
        await self._arrive(route)
        return await handler(request)

    async def _arrive(self, route: Route) -> None:
        """Who comes in the first moments of a start waits, except at the doors that are open to anyone: nothing is half there."""
        if route.role is not None:
            await self._started.wait()


def _at_most(request: web.Request, size: int) -> web.Request:
    """The request, whose body may have ``size`` bytes; 0 is what pages take."""
    if not size or not request.body_exists:
        return request
    length = request.content_length
    if length is not None and length <= min(size, request.client_max_size):
        return request  # it will not be longer than it says
    return request.clone(client_max_size=size)


def _sender(route: Route, principal: Principal | None) -> str:
    """Whose bodies come in together: those of one session or token, but large ones of a person, who may have many of either."""
    if principal is None:
        return ""
    return f"large {principal.user.id}" if route.body_max and principal.user else principal.tag


def _no_route(request: web.Request) -> web.HTTPException:
    fault = request.match_info.http_exception
    return fault if isinstance(fault, web.HTTPMethodNotAllowed) else web.HTTPNotFound()


def _from_console(request: web.Request) -> bool:
    name = request.transport.get_extra_info("sockname") if request.transport else None
    return isinstance(name, str) and name.endswith("/control.sock")


def check_same_origin(request: web.Request, origin: str) -> None:
    """Refuse a request that another site, or another host of ours, made the browser send (WEB-5, DECIDED 15).

    ``Sec-Fetch-Site`` decides where a browser sends it; ``Origin`` is compared where it is absent. Raises Forbidden.
    """
    site = request.headers.getall("Sec-Fetch-Site", [])
    allowed = site == ["same-origin"] if site else request.headers.getall("Origin", []) == [origin]
    if not allowed:
        raise Forbidden(
            "this request did not come from Croft's own page", hint="Reload the page and try again.", code="cross_site"
        )


def _check_kind(request: web.Request, route: Route) -> None:
    """A body is JSON, or a form where the route takes forms: no other type a foreign page could send passes (WEB-6)."""
    if not request.body_exists:
        return
    kind = request.content_type
    if kind != "application/json" and not (route.form and kind == FORM):
        raise Invalid("this content type is not accepted here", hint="Send application/json.", code="content_type")


def principal_of(request: web.Request) -> Principal:
    """Who is asking; only for handlers whose route names a role."""
    return request[PRINCIPAL]


def client_address(request: web.Request) -> str:
    """The caller's address as Caddy saw it: the last entry, since Caddy drops what clients send (FWD-7)."""
    return request.headers.get("X-Forwarded-For", "").split(",")[-1].strip() or "unknown"


def as_error(error: BaseException) -> tuple[int, CroftError, dict[str, str]]:
    """Any exception as (status, words for people, headers). The cause of a fault of ours goes to the log alone."""
    if isinstance(error, CroftError):
        return error.status, error, _told_in_headers(error)
    if isinstance(error, web.HTTPException):
        return (
            error.status,
            _of_http(error),
            {key: value for key, value in error.headers.items() if key in ("Allow", "Retry-After")},
        )
    if _is_storage(error):
        log.error("a request failed on storage", exc_info=error)
        return (
            503,
            Unavailable("Croft cannot use its disk right now", hint="Check free disk space, then try again."),
            {},
        )
    log.error("a request failed", exc_info=error)
    return 500, CroftError("something went wrong on our side", hint="The log of the daemon says more."), {}


def _told_in_headers(error: CroftError) -> dict[str, str]:
    retry, told = getattr(error, "retry_after", None), {}
    if retry is not None:
        told["Retry-After"] = str(max(1, round(retry)))
    challenge = getattr(error, "challenge", 'Bearer realm="croft"' if error.status == 401 else "")
    if challenge:
        told["WWW-Authenticate"] = challenge
    return told


def _is_storage(error: BaseException) -> bool:
    """Whether it is the disk: full, read-only, failing, or a damaged database."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def _of_http(error: web.HTTPException) -> CroftError:
    if error.status == 404:
        return NotFound("there is nothing at this address")
    if error.status == 413:
        return Invalid(
            "that is too large", hint="Send less at once: a page takes 1 MiB, the model 4 MiB.", code="too_large"
        )
    names = {405: "method_not_allowed", 421: "wrong_host", 429: "too_many_requests", 502: "bad_gateway"}
    said = error.text if error.text and not error.text.startswith(str(error.status)) else error.reason
    return CroftError(said, code=names.get(error.status, "refused"))
