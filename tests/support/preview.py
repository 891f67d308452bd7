"""A preview of every page: the real templates, scripts and policy with made-up data.

Rule: the stage answers as webui.routes does and decides nothing; what it was sent is kept for the tests to look at.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web

from appliance.identity.users import Role
from appliance.identity.visits import Visit
from appliance.messages import Message
from appliance.services.model import Problem, ServiceView
from appliance.settings import Paths, Settings, parse
from appliance.telemetry.machine import Facts
from support.samples import (
    AGENTS,
    NOW,
    sample_charts,
    sample_lines,
    sample_machine,
    sample_problems,
    sample_services,
    sample_session,
    sample_trouble,
)
from support.screens import EVIL
from webui import charts, chat, filters, headers, log_lines, views
from webui.assets import Assets
from webui.i18n import Catalogue, Translator
from webui.needs import Need

ROOT = Path(__file__).parents[2]
HOST = "croft.localhost"


@dataclass
class Stage:
    """What the preview shows, and what it was sent. Tests change the one and read the other."""

    role: str = "admin"
    name: str = "Salma Haddad"
    services: list[ServiceView] = field(default_factory=sample_services)
    problems: list[Problem] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=sample_lines)
    sent: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    readers: list[asyncio.Queue[tuple[str, Any]]] = field(default_factory=list)
    down: bool = False
    wake: dict[str, Any] = field(default_factory=lambda: {"phase": "loading", "current": 0, "total": 0})
    base: str = ""
    ide: str = ""

    def trouble(self) -> None:
        """Make it a bad day."""
        self.services, self.problems = sample_trouble(), sample_problems()

    def push(self, event: str, data: Any) -> None:
        for reader in self.readers:
            reader.put_nowait((event, data))


class PlainSettings(Settings):
    """Settings whose origins are plain HTTP on the preview's port; the policy is made from them as always."""

    def _origin(self, host: str) -> str:
        return f"http://{host}:{self.proxy_http_port}"


def plain_settings(port: int) -> Settings:
    parsed = parse({"host": HOST, "proxy": {"http_port": port}}, Paths.under(ROOT / ".cache/preview"))
    return PlainSettings(**{each.name: getattr(parsed, each.name) for each in fields(parsed)})


class Preview:
    """The stage as a small server; language and theme are asked for in the address, or a cookie kept from a form."""

    def __init__(self, stage: Stage, settings: Settings, catalogue: Catalogue) -> None:
        self.stage, self.settings, self.catalogue = stage, settings, catalogue
        self.assets = Assets(ROOT / "webui/static")
        self.jinja = jinja2.Environment(
            loader=jinja2.FileSystemLoader(ROOT / "webui/templates"), autoescape=True, undefined=jinja2.StrictUndefined
        )
        filters.register(self.jinja, self.assets)

    def app(self) -> web.Application:
        app = web.Application()
        headers.attach(app, self.settings)
        app.router.add_route("*", "/{path:.*}", self.answer)
        return app

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path, ide = request.path, request.host.startswith("ide.")
        if self.stage.down:
            raise web.HTTPServiceUnavailable
        prefix = "/__croft/static/" if ide else "/static/"
        if path.startswith(prefix):
            version, _, name = path.removeprefix(prefix).partition("/")
            return self.assets.serve(request, version, name)
        if request.method in ("POST", "DELETE"):
            return await self._keep(request)
        if path.endswith("/stream") or path == "/api/events":
            return await self._stream(request)
        if path.startswith("/api/") or path == "/__croft/state":
            return web.json_response(self._json(path))
        return self._page(request)

    async def _keep(self, request: web.Request) -> web.StreamResponse:
        form = {key: str(value) for key, value in (await request.post()).items()}
        self.stage.sent.append((request.method, f"{request.host.split(':')[0]}{request.path}", form))
        if request.path.startswith("/api/"):
            return web.json_response(self._json(request.path))
        if request.path == "/__croft/enter":
            raise web.HTTPSeeOther("/editor")
        response = web.HTTPSeeOther(form.get("next") or "/")
        for name in ("lang", "theme"):
            if name in form:
                response.set_cookie(name, form[name])
        raise response

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": open\n\n")
        queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.stage.readers.append(queue)
        try:
            while not self.stage.down:
                event, data = await queue.get()
                if event == "drop":
                    break
                await response.write(f"event: {event}\ndata: {json.dumps(data)}\n\n".encode())
        finally:
            self.stage.readers.remove(queue)
        return response

    def _json(self, path: str) -> dict[str, Any]:
        if path.endswith("/logs"):
            return {"lines": self.stage.lines}
        if path == "/api/status":
            return as_event(self.stage, self.catalogue) | {"machine": sample_machine() | {"memory_used": 1998 << 20}}
        if path == "/api/conversations":
            return {"conversations": []}
        if path == "/api/charts":
            made = sample_charts(Translator(self.catalogue, "en"), (*charts.MACHINE, *charts.SERVICE["ide"]))
            return {"span": "day", "charts": [chart.as_json() for chart in made]}
        return self.stage.wake if path == "/__croft/state" else {"ok": True}

    def _page(self, request: web.Request) -> web.Response:
        name, variables = self._variables(request)
        t = Translator(self.catalogue, request.query.get("lang") or request.cookies.get("lang", "en"))
        user = {"name": self.stage.name, "email": "salma@example.org", "role": self.stage.role}
        common = {
            "t": t,
            "user": user,
            "page": "",
            "host": HOST,
            "origin_ide": self.settings.ide_origin,
            "now": NOW,
            "theme": request.query.get("theme") or request.cookies.get("theme", "auto"),
            "path": request.path,
            "notice": None,
            "can_mail": False,
            "undecided": 0,
            "state": filters.summary(self.stage.services, self.stage.problems),
        }
        text = self.jinja.get_template(name).render(**{**common, **variables})
        return web.Response(text=text, content_type="text/html")

    def _variables(self, request: web.Request) -> tuple[str, dict[str, Any]]:
        stage, path = self.stage, request.path
        log = {"page": "machine", "service": stage.services[0], "lines": stage.lines}
        t = Translator(self.catalogue, request.query.get("lang") or request.cookies.get("lang", "en"))
        log |= {"asked": {"q": "", "level": "debug", "since": ""}, "sinces": list(log_lines.SINCE), "tab": "logs"}
        shown = {"services": stage.services, "problems": stage.problems, "machine": sample_machine(), "span": "day"}
        waiting = [
            Need(Message("problem.port_taken_by.why", {"port": 443, "owner": EVIL}), "/account", "key", urgent=True)
        ]
        home = {"charts": self._drawn(t, charts.HOME), "needs": waiting, "visit": Visit(NOW - 600, f"/?folder={EVIL}")}
        machine = {
            "charts": self._drawn(t, charts.MACHINE),
            "of_services": {"ide": self._drawn(t, charts.SERVICE["ide"])},
            "spans": list(charts.SPANS),
            "facts": Facts(EVIL, "6.1.0", "x86_64", EVIL, 1, 2, ("203.0.113.7", "2001:db8::7"), NOW - 86400),
            "tab": "services",
        }
        mine = [
            sample_session(1, AGENTS["firefox"], current=True, ide_sockets=2),
            sample_session(2, AGENTS["safari"], remember=True),
            sample_session(3, AGENTS["edge"]),
        ]
        others = [
            sample_session(4, EVIL, user=f"{EVIL}@example.org"),
            sample_session(5, AGENTS["edge"], user="زياد@example.org"),
        ]
        gone = {"token": "", "email": "", "name": ""}
        known: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
            "/": lambda: ("home.html", shown | home | {"page": "home"}),
            "/machine": lambda: ("machine.html", shown | machine | {"page": "machine"}),
            "/machine/logs/ide": lambda: ("logs.html", log),
            "/sessions": lambda: ("sessions.html", {"page": "sessions", "mine": mine, "others": others}),
            "/sessions-alone": lambda: ("sessions.html", {"page": "sessions", "mine": mine[:1], "others": []}),
            "/workspace": lambda: (
                "workspace.html",
                {
                    "page": "workspace",
                    "service": stage.services[0],
                    "handoff_code": "code-1",
                    "next": "/?folder=/w",
                    "rtl_hint": False,
                    "enter_url": f"{self.settings.ide_origin}/__croft/enter",
                },
            ),
            "/assistant": lambda: ("assistant.html", NO_MODEL),
            "/sign-in": lambda: (
                "sign_in.html",
                {"user": None, "claimed": True, "mail": False, "email": "", "remember": False},
            ),
            "/sign-in/first": lambda: (
                "sign_in.html",
                {"user": None, "claimed": False, "mail": False, "email": "", "remember": False},
            ),
            "/sign-in/link": lambda: ("link.html", gone | {"user": None, "kind": "login", "token": "lnk_1"}),
            "/sign-in/setup": lambda: (
                "link.html",
                {
                    "user": None,
                    "kind": "setup",
                    "token": "lnk_2",
                    "email": EVIL,
                    "name": EVIL,
                    "notice": Message("fault.invalid"),
                },
            ),
            "/sign-in/gone": lambda: ("link.html", gone | {"user": None, "kind": None}),
            "/editor": lambda: ("ide_refused.html", self._ide() | {"name": "signed-out"}),
            "/wake": lambda: ("wake.html", self._ide() | {"target": "/editor?folder=/w", "service": stage.services[2]}),
            "/broken": lambda: ("wake.html", self._ide() | {"target": "/editor", "service": sample_trouble()[0]}),
        }
        fallback = ("error.html", {"user": None, "code": "not_found", "status_code": 404})
        return known.get(path, lambda: fallback)()

    def _drawn(self, t: Translator, specs: Sequence[charts.Spec]) -> list[charts.Drawing]:
        return [charts.draw(self.jinja, made, t) for made in sample_charts(t, specs)]

    def _ide(self) -> dict[str, Any]:
        return {"asset": self.assets.at("/__croft/static"), "origin_ui": self.settings.ui_origin, "user": None}


def as_event(stage: Stage, catalogue: Catalogue, lang: str = "en") -> dict[str, Any]:
    """The ``services`` event for what is on the stage, made by the same functions as the real one."""
    t = Translator(catalogue, lang)
    return {
        "services": [views.service_json(view, t) for view in stage.services],
        "problems": [views.problem_json(problem, t) for problem in stage.problems],
        "summary": t.message(filters.summary(stage.services, stage.problems)),
    }


# The assistant's page where nothing was asked and nobody would answer.
NO_MODEL: dict[str, Any] = {
    "page": "assistant",
    "threads": [],
    "more": "",
    "archived": False,
    "typed_search": "",
    "typed": "",
    "one": {"id": "", "title": "", "pinned": False, "archived": False, "turns": [], "running": False},
    "engine": chat.engine_of(
        {
            "state": "none",
            "reason": "no_model",
            "remote": False,
            "words": "No model is installed yet.",
            "model": "",
            "context": 0,
            "progress": None,
        }
    ),
    **chat.pieces(Role.operator),
}
