"""JSON for programs, the command line and the pages' own scripts. Rule: every route here is in the table of webui.routes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from appliance import __version__
from appliance.audit import Record
from appliance.errors import Invalid, NotFound
from appliance.identity.sessions import Session
from appliance.identity.users import Role, User
from appliance.services.model import SERVICES, LogLine, ServiceName
from webui import forms, keys, streams, views
from webui.guard import principal_of

LOG_LINES = 500
LOG_LINES_MAX = 5000
TOPICS = frozenset({"services"})

Item = tuple[str, Mapping[str, Any], int | None]
Body = TypeVar("Body", bound=msgspec.Struct)


class LinkRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/links``: whose link; empty means the owner, or the set-up link when there is nobody yet."""

    email: str = ""


class NewUser(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/users``."""

    email: str
    name: str = ""
    role: str = "operator"


class UserChange(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``PATCH /api/users/{id}``."""

    role: str | None = None
    suspended: bool | None = None


def answer(data: Any, status: int = 200) -> web.Response:
    """``data`` as JSON, never cached."""
    return web.json_response(
        data,
        status=status,
        headers={"Cache-Control": "no-store"},
        dumps=lambda value: json.dumps(value, ensure_ascii=False),
    )


async def read_body(request: web.Request, kind: type[Body]) -> Body:
    """The request's JSON body as ``kind``. Raises Invalid naming the field."""
    try:
        return msgspec.json.decode(await forms.read_body(request) or b"{}", type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Invalid(f"cannot read the request: {error}", hint="The OpenAPI page names every field.") from error


async def healthz(request: web.Request) -> web.Response:
    """The daemon answers."""
    return answer({"ok": True})


async def readyz(request: web.Request) -> web.Response:
    """The daemon can do its work: store and supervisor answer."""
    ready = request.app[keys.SERVICES].is_ready("proxy")
    return answer({"ok": ready}, 200 if ready else 503)


async def status(request: web.Request) -> web.Response:
    """The whole state of the appliance."""
    settings = request.app[keys.SETTINGS]
    return answer(
        {
            "version": __version__,
            "url": settings.ui_origin,
            "ide_url": settings.ide_origin,
            **views.services_event(request.app[keys.SERVICES], views.translator(request)),
            "machine": request.app[keys.MACHINE](),
        }
    )


async def list_services(request: web.Request) -> web.Response:
    """Every service with its state, and what is wrong."""
    return answer(views.services_event(request.app[keys.SERVICES], views.translator(request)))


async def act_on_service(request: web.Request) -> web.Response:
    """Start, stop or restart a service."""
    await do_service_action(request)
    return await list_services(request)


async def do_service_action(request: web.Request) -> ServiceName:
    """Carry out the action the route names, announced in the audit log before and reported after."""
    name, action = service_name(request), request.match_info["action"]
    services, actor = request.app[keys.SERVICES], principal_of(request).actor
    actions = {"start": services.start, "stop": services.stop, "restart": services.restart}
    if action not in actions:
        raise NotFound("there is no such action", hint="There are start, stop and restart.")
    async with request.app[keys.AUDIT].doing(f"service.{action}", actor, service=name):
        await actions[action](name, actor)
    return name


def service_name(request: web.Request) -> ServiceName:
    name = request.match_info["name"]
    if name not in SERVICES:
        raise NotFound("there is no such service", hint=f"There are {', '.join(SERVICES)}.")
    return name


async def service_logs(request: web.Request) -> web.Response:
    """The last lines a service wrote."""
    lines = await request.app[keys.SERVICES].logs(service_name(request), _line_count(request))
    return answer({"lines": [views.line_json(line) for line in lines]})


async def follow_logs(request: web.Request) -> web.StreamResponse:
    """New lines of a service as they come (SSE, event ``line``)."""
    lines = request.app[keys.SERVICES].follow(service_name(request), 0)

    async def items() -> AsyncGenerator[Item, None]:
        async for line in lines:
            yield "line", views.line_json(line), None

    return await _until_signed_out(request, items())


async def download_logs(request: web.Request) -> web.Response:
    """The kept lines of a service as a text file."""
    name = service_name(request)
    lines: list[LogLine] = await request.app[keys.SERVICES].logs(name, LOG_LINES_MAX)
    await request.app[keys.AUDIT].note("export", principal_of(request).actor, what=f"logs of {name}")
    text = "".join(f"{views.line_json(line)['text']}\n" for line in lines)
    return web.Response(
        text=text,
        content_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="croft-{name}.log"', "Cache-Control": "no-store"},
    )


def _line_count(request: web.Request) -> int:
    text = request.query.get("lines", str(LOG_LINES))
    if not (text.isascii() and text.isdigit() and len(text) < 10) or not 1 <= int(text) <= LOG_LINES_MAX:
        raise Invalid("lines must be a number", hint=f"Between 1 and {LOG_LINES_MAX}.")
    return int(text)


async def events(request: web.Request) -> web.StreamResponse:
    """Everything live, by topic (SSE). Resumes after ``Last-Event-ID``."""
    topics = set(request.query.get("topics", "services").split(","))
    if not topics <= TOPICS:
        raise Invalid("there is no such topic", hint=f"There are {', '.join(sorted(TOPICS))}.")
    translate = views.translator(request)
    services = request.app[keys.SERVICES]

    async def items() -> AsyncGenerator[Item, None]:
        yield "services", views.services_event(services, translate), None
        after = streams.last_event_id(request)
        async with request.app[keys.EVENTS].subscribe(topics, after, tag=_tag(request)) as reader:
            async for event in reader:
                # Rendered now, in this reader's language: a "lost" event then costs nothing but one fresh picture.
                yield "services", views.services_event(services, translate), event.id

    return await _until_signed_out(request, items())


async def _until_signed_out(request: web.Request, items: AsyncGenerator[Item, None]) -> web.StreamResponse:
    return await request.app[keys.STREAMS].run(_tag(request), streams.pump(request, items))


def _tag(request: web.Request) -> str:
    session = principal_of(request).session
    return session.id if session else "console"


async def list_sessions(request: web.Request) -> web.Response:
    """The caller's sessions; for an admin and the console, everyone's."""
    principal = principal_of(request)
    everyone = principal.role is Role.admin
    own = principal.user.id if principal.user else None
    sessions = request.app[keys.SESSIONS].of(None if everyone else own)
    return answer({"sessions": [session_json(request, session) for session in sessions]})


def session_json(request: web.Request, session: Session) -> dict[str, Any]:
    mine = principal_of(request).session
    return {
        "id": session.id,
        "user": session.user.email,
        "role": session.user.role.name,
        "agent": session.agent,
        "address": session.address,
        "created_at": session.created_at,
        "seen_at": session.seen_at,
        "expires_in": round(request.app[keys.SESSIONS].expires_in(session)),
        "remember": session.remember,
        "current": mine is not None and mine.id == session.id,
        "ide_sockets": request.app[keys.RELAY].count(session.id),
    }


async def end_session(request: web.Request) -> web.Response:
    """End one session: one's own, or for an admin anybody's."""
    await end_by_id(request, request.match_info["id"])
    return answer({"ok": True})


async def end_by_id(request: web.Request, session_id: str) -> Session:
    principal, sessions = principal_of(request), request.app[keys.SESSIONS]
    session = sessions.get(session_id)
    if principal.role is not Role.admin and (principal.user is None or session.user.id != principal.user.id):
        raise NotFound("there is no such session", hint="It may have ended meanwhile.")
    await sessions.end([session], "revoked", principal.actor)
    return session


async def create_link(request: web.Request) -> web.Response:
    """A one-time sign-in link (console only: the route asks for it)."""
    wanted, users = await read_body(request, LinkRequest), request.app[keys.USERS]
    user: User | None = None
    if wanted.email or not await users.none_yet():
        user = await users.find(wanted.email) if wanted.email else await users.owner()
    secret, kind, seconds = await request.app[keys.LINKS].create(user, principal_of(request).actor)
    origin = request.app[keys.SETTINGS].ui_origin
    return answer(
        {
            "url": f"{origin}/sign-in/link?t={secret}",
            "kind": kind,
            "seconds": seconds,
            "email": user.email if user else None,
        },
        201,
    )


async def list_users(request: web.Request) -> web.Response:
    """Everyone who may sign in."""
    return answer({"users": [user_json(user) for user in await request.app[keys.USERS].all()]})


async def add_user(request: web.Request) -> web.Response:
    """Add a person; they sign in by a link made for them."""
    wanted = await read_body(request, NewUser)
    user = await request.app[keys.USERS].create(
        wanted.email, wanted.name, role_named(wanted.role), principal_of(request).actor
    )
    return answer({"user": user_json(user)}, 201)


async def change_user(request: web.Request) -> web.Response:
    """Change a person's role, suspend or resume them; takes effect at once."""
    wanted, users, actor = await read_body(request, UserChange), request.app[keys.USERS], principal_of(request).actor
    user = await users.find(request.match_info["id"])
    role = role_named(wanted.role) if wanted.role is not None else None
    user = await users.change(user, actor, role=role, suspended=wanted.suspended)
    request.app[keys.TOKENS].forget()
    await request.app[keys.SESSIONS].changed(user, actor)
    return answer({"user": user_json(user)})


async def remove_user(request: web.Request) -> web.Response:
    """Remove a person and end their sessions."""
    users, sessions, actor = request.app[keys.USERS], request.app[keys.SESSIONS], principal_of(request).actor
    user = await users.find(request.match_info["id"])
    await users.remove(user, actor)
    request.app[keys.TOKENS].forget()
    await sessions.end(sessions.of(user.id), "removed", actor)
    return answer({"ok": True})


def role_named(name: str) -> Role:
    if name not in Role.__members__:
        raise Invalid("there is no such role", hint=f"There are {', '.join(Role.__members__)}.")
    return Role[name]


def user_json(user: User) -> dict[str, Any]:
    return {
        "id": user.id,
        "email": user.email,
        "name": user.name,
        "role": user.role.name,
        "suspended": user.suspended,
        "created_at": user.created_at,
    }


async def audit_records(request: web.Request) -> web.Response:
    """The audit log, newest first."""
    before = request.query.get("before", "")
    records = await request.app[keys.AUDIT].records(
        before=int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None,
        event=request.query.get("event", ""),
        actor=request.query.get("actor", ""),
    )
    return answer({"records": [record_json(record) for record in records]})


async def audit_verify(request: web.Request) -> web.Response:
    """Whether the audit chain holds."""
    fault = await request.app[keys.AUDIT].verify(request.app[keys.ANCHOR]())
    return answer({"ok": fault is None, "fault": {"seq": fault.seq, "what": fault.what} if fault else None})


def record_json(record: Record) -> dict[str, Any]:
    return {
        "seq": record.seq,
        "at": record.at,
        "event": record.event,
        "actor": record.actor,
        "detail": record.detail,
        "intent": record.intent,
    }


async def openapi(request: web.Request) -> web.Response:
    """This API as an OpenAPI 3.1 document, made from the one route table."""
    return answer(request.app[keys.OPENAPI])
