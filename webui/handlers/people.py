"""Who may sign in: the People page and its JSON. Rule: a change is in force everywhere before it is answered."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from appliance.errors import Conflict, CroftError, Invalid, NotFound
from appliance.identity.users import Role, User
from appliance.messages import Message
from webui import keys
from webui.answers import answer, see
from webui.forms import read_form, read_json
from webui.guard import principal_of
from webui.render import page

# What a form may have done, as the page says it afterwards.
DONE = ("role", "suspend", "resume", "remove")


class NewUser(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/users``."""

    email: str
    name: str = ""
    role: str = "operator"


class UserChange(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``PATCH /api/users/{id}``."""

    role: str | None = None
    suspended: bool | None = None


async def people(request: web.Request) -> web.StreamResponse:
    """Everyone who may sign in."""
    return await _people_page(request)


async def _people_page(request: web.Request, *, fault: CroftError | None = None) -> web.Response:
    done = request.query.get("done", "")
    said = Message(f"people.done_{done}") if done in DONE else None
    return page(
        request,
        "people.html",
        status=fault.status if fault else 200,
        page="people",
        tab="members",
        notice=Message(f"fault.{fault.code}") if fault else said,
        people=await _rows(request),
    )


async def person(request: web.Request) -> web.StreamResponse:
    """One member, and what can be done about them."""
    return await _person_page(request)


async def _person_page(request: web.Request, *, fault: CroftError | None = None, sure: bool = False) -> web.Response:
    user = await request.app[keys.USERS].find(request.match_info["id"])
    row = next((each for each in await _rows(request) if each["id"] == user.id), None)
    if row is None:
        raise NotFound("there is no such person")
    done = request.query.get("done", "")
    return page(
        request,
        "person.html",
        status=fault.status if fault else 200,
        page="people",
        tab="members",
        notice=Message(f"fault.{fault.code}") if fault else Message(f"people.done_{done}") if done in DONE else None,
        person=row,
        sessions=request.app[keys.SESSIONS].of(user.id),
        roles=list(Role.__members__),
        sure=sure,
    )


async def role_form(request: web.Request) -> web.StreamResponse:
    """Change a person's role from the page."""
    form = await read_form(request)
    return await _changed(request, "role", role=role_named(form.get("role", "")))


async def suspend_form(request: web.Request) -> web.StreamResponse:
    """Suspend a person from the page: their sessions end at once."""
    return await _changed(request, "suspend", suspended=True)


async def resume_form(request: web.Request) -> web.StreamResponse:
    """Let a suspended person in again."""
    return await _changed(request, "resume", suspended=False)


async def remove_form(request: web.Request) -> web.StreamResponse:
    """Remove a person from the page. Without scripts to ask first, the page asks."""
    form = await read_form(request)
    if form.get("sure") != "yes":
        return await _person_page(request, sure=True)
    try:
        await _remove(request)
    except Conflict as fault:
        return await _person_page(request, fault=fault)
    return see("/people?done=remove")


async def _changed(
    request: web.Request, done: str, *, role: Role | None = None, suspended: bool | None = None
) -> web.StreamResponse:
    try:
        user = await _change(request, role=role, suspended=suspended)
    except Conflict as fault:
        return await _person_page(request, fault=fault)
    return see(f"/people/{user.id}?done={done}")


async def _rows(request: web.Request) -> list[dict[str, Any]]:
    """Every member as the page shows them."""
    users, live, me = request.app[keys.USERS], request.app[keys.SESSIONS], principal_of(request).user
    seen, rows = await users.seen(), []
    for user in await users.all():
        sessions = live.of(user.id)
        last = max([seen.get(user.id, 0.0), *(session.seen_at for session in sessions)])
        rows.append(
            user_json(user) | {"seen_at": last, "devices": len(sessions), "me": me is not None and me.id == user.id}
        )
    return rows


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
    wanted = await read_json(request, UserChange)
    role = role_named(wanted.role) if wanted.role is not None else None
    return answer({"user": user_json(await _change(request, role=role, suspended=wanted.suspended))})


async def _change(request: web.Request, *, role: Role | None = None, suspended: bool | None = None) -> User:
    users, actor = request.app[keys.USERS], principal_of(request).actor
    user = await users.find(request.match_info["id"])
    user = await users.change(user, actor, role=role, suspended=suspended)
    await request.app[keys.SESSIONS].settle()
    return user


async def remove_user(request: web.Request) -> web.Response:
    """Remove a person and end their sessions."""
    await _remove(request)
    return answer({"ok": True})


async def _remove(request: web.Request) -> None:
    users = request.app[keys.USERS]
    await users.remove(await users.find(request.match_info["id"]), principal_of(request).actor)
    await request.app[keys.SESSIONS].settle()


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
