"""Where people are signed in, and ending that."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from appliance.errors import NotFound
from appliance.identity.sessions import Session
from appliance.identity.users import Role
from webui import keys
from webui.answers import answer, see
from webui.guard import principal_of
from webui.render import page


async def sessions(request: web.Request) -> web.StreamResponse:
    """Where one is signed in; for an admin, where everyone is."""
    principal = principal_of(request)
    everyone = principal.role is Role.admin
    own = principal.user.id if principal.user else None
    live = request.app[keys.SESSIONS].of(None if everyone else own)
    rows = [session_json(request, session) for session in live]
    email = principal.user.email if principal.user else ""
    return page(
        request,
        "sessions.html",
        page="account",
        tab="sessions",
        mine=[row for row in rows if row["user"] == email],
        others=[row for row in rows if row["user"] != email],
    )


async def end_session_form(request: web.Request) -> web.StreamResponse:
    """End one session from a plain form."""
    ended = await end_by_id(request, request.match_info["id"])
    mine = principal_of(request).session
    return see("/sign-in" if mine is not None and ended.id == mine.id else "/sessions")


async def end_other_sessions(request: web.Request) -> web.StreamResponse:
    """End all of one's own sessions but this one."""
    principal, live = principal_of(request), request.app[keys.SESSIONS]
    if principal.user and principal.session:
        others = [session for session in live.of(principal.user.id) if session.id != principal.session.id]
        await live.end(others, "revoked", principal.actor)
    return see("/sessions")


async def list_sessions(request: web.Request) -> web.Response:
    """The caller's sessions; for an admin and the console, everyone's."""
    principal = principal_of(request)
    everyone = principal.role is Role.admin
    own = principal.user.id if principal.user else None
    sessions = request.app[keys.SESSIONS].of(None if everyone else own)
    return answer({"sessions": [session_json(request, session) for session in sessions]})


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
