"""Everything live, by topic, over one stream a page.

Rule: an event is written down once for everybody who reads the same language in the same role; readers share the bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any

from aiohttp import web

from appliance.commands.asker import Asker
from appliance.commands.model import Actor
from appliance.errors import Invalid, Unauthenticated
from appliance.events import LOST
from appliance.identity.users import Role
from webui import keys, streams, views
from webui.guard import Principal, principal_of
from webui.i18n import Translator

# What a reader of a topic gets: first, and after each event. The whole picture, so that nothing missed stays missed.
Picture = Callable[[web.Application, Translator, Role], Mapping[str, Any]]
PICTURES: dict[str, Picture] = {
    "services": lambda app, t, role: views.services_event(app[keys.SERVICES], t, role),
    "approvals": lambda app, t, role: _approvals(app, t, role),
    "tools": lambda app, t, role: app[keys.TOOLBOX].picture(),
    "assistant": lambda app, t, role: views.engine_json(app[keys.ENGINE].status(), t),
    "jobs": lambda app, t, role: jobs.picture() if (jobs := app[keys.JOBS].made) else {"jobs": [], "ended": 0},
    "telemetry": lambda app, t, role: app[keys.MONITOR].now(),
}
# Those that are another for each person, and are written down for each.
PERSONAL: dict[str, Callable[[web.Application, Principal], Mapping[str, Any]]] = {
    "runs": lambda app, who: {"changed": app[keys.COMMANDS].changed(asking(who))},
    "editor": lambda app, who: views.editor_json(app[keys.EDITORS].made, who.actor, who.role),
}

Item = tuple[str, Mapping[str, Any] | bytes, int | None]


def _approvals(app: web.Application, t: Translator, role: Role) -> Mapping[str, Any]:
    """That something changed, and for those who may decide, how much waits (``approvals.need`` says it in words)."""
    if role < Role.operator:
        return {}
    pending = app[keys.COMMANDS].approvals.pending
    return {"undecided": pending, "words": t("approvals.need", n=pending)}


def asking(who: Principal) -> Asker:
    """A reader as the commands know those who ask: a viewer or a token sees what is theirs."""
    token = who.token.id if who.token else ""
    person = who.user.id if who.user else ""
    return Asker(Actor.TOKEN if token else Actor.HUMAN, who.role.name, person=person, token=token)  # type: ignore[arg-type]


class Pictures:
    """The latest picture of each topic, by language and role, ready to be sent. One per application."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, Role], tuple[int, bytes]] = {}

    def of(self, app: web.Application, topic: str, t: Translator, role: Role, event_id: int) -> bytes:
        """The picture as of event ``event_id``."""
        key = (topic, t.lang, role)
        found = self._kept.get(key)
        if found is None or found[0] != event_id:
            data = PICTURES[topic](app, t, role)
            found = self._kept[key] = (event_id, streams.encode(topic, data))
        return found[1]


def pictures(app: web.Application) -> Pictures:
    """The application's own."""
    found: Pictures = app[keys.SHARED].setdefault("pictures", Pictures())
    return found


async def events(request: web.Request) -> web.StreamResponse:
    """Everything live, by topic (SSE). Resumes after ``Last-Event-ID``."""
    topics = set(request.query.get("topics", "services").split(","))
    if not topics <= {*PICTURES, *PERSONAL}:
        raise Invalid("there is no such topic", hint=f"There are {', '.join(sorted({*PICTURES, *PERSONAL}))}.")
    who, t, app = principal_of(request), views.translator(request), request.app
    shared, bus = pictures(app), app[keys.EVENTS]

    def shown(topic: str, event_id: int) -> bytes:
        if topic in PERSONAL:
            return streams.encode(topic, PERSONAL[topic](app, who))
        return shared.of(app, topic, t, who.role, event_id)

    async def items() -> AsyncGenerator[Item, None]:
        for topic in sorted(topics):
            first = PERSONAL[topic](app, who) if topic in PERSONAL else PICTURES[topic](app, t, who.role)
            yield topic, streams.encode(topic, first), None
        async with bus.subscribe(topics, streams.last_event_id(request), tag=tag_of(request)) as reader:
            async for event in reader:
                # "lost" costs nothing but fresh pictures.
                for topic in sorted(topics) if event.topic == LOST else (event.topic,):
                    yield topic, shown(topic, event.id), event.id

    return await until_signed_out(request, items())


async def until_signed_out(request: web.Request, items: AsyncGenerator[Item, None]) -> web.StreamResponse:
    """Send ``items`` as events, as :func:`while_signed_in` has it."""
    return await while_signed_in(request, streams.pump(request, items))


async def while_signed_in(request: web.Request, work: Coroutine[Any, Any, web.StreamResponse]) -> web.StreamResponse:
    """Run a long answer, which ends with the session or token it was asked for with. Raises Unauthenticated where that has ended,
    or may do less, by now: what to send had to be looked for first, and nobody ends what is not open yet."""
    if not _as_it_was(request):
        work.close()
        raise Unauthenticated("you are not signed in as you were", hint="Sign in, then try again.")
    return await request.app[keys.STREAMS].run(tag_of(request), work)


def _as_it_was(request: web.Request) -> bool:
    who = principal_of(request)
    if who.session is not None:
        return not who.session.ended and who.session.user.role >= who.role
    return who.token is None or (request.app[keys.API_TOKENS].alive(who.token) and who.token.role >= who.role)


def tag_of(request: web.Request) -> str:
    return principal_of(request).tag
