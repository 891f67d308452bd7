"""Who may sign in."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from appliance.errors import Invalid
from appliance.identity.users import Role, User
from webui import keys
from webui.answers import answer
from webui.forms import read_json
from webui.guard import principal_of


class NewUser(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/users``."""

    email: str
    name: str = ""
    role: str = "operator"


class UserChange(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``PATCH /api/users/{id}``."""

    role: str | None = None
    suspended: bool | None = None


async def list_users(request: web.Request) -> web.Response:
    """Everyone who may sign in."""
    return answer({"users": [user_json(user) for user in await request.app[keys.USERS].all()]})


async def add_user(request: web.Request) -> web.Response:
    """Add a person; they sign in by a link made for them."""
    wanted = await read_json(request, NewUser)
    user = await request.app[keys.USERS].create(
        wanted.email, wanted.name, role_named(wanted.role), principal_of(request).actor
    )
    return answer({"user": user_json(user)}, 201)


async def change_user(request: web.Request) -> web.Response:
    """Change a person's role, suspend or resume them; takes effect at once."""
    wanted, users, actor = await read_json(request, UserChange), request.app[keys.USERS], principal_of(request).actor
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
