"""A preview of every page: the real templates, scripts and policy with made-up, partly hostile data, in real Chromium.

Rule: the stage answers as webui.routes does and decides nothing; what it was sent is kept for the tests to look at.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from support.browser import FLAGS
from support.screens import EVIL, SANDBOX_NOTE, axe_source

from appliance.identity.users import Role
from appliance.identity.visits import Visit
from appliance.messages import Message
from appliance.services.model import Health, Problem, Progress, ServiceView, State, Want
from appliance.settings import Paths, Settings, parse
from appliance.telemetry.machine import Facts
from appliance.telemetry.series import NAMES
from appliance.telemetry.store import Points
from webui import charts, chat, filters, headers, log_lines, views
from webui.assets import Assets
from webui.i18n import Catalogue, Translator
from webui.needs import Need

ROOT = Path(__file__).parents[2]
NOW = float(int(time.time()))
HOST = "croft.localhost"
EVIL_LINE = f"\x1b]8;;javascript:alert(1)\x07click\x1b]8;;\x07 {EVIL} \u0007\u200b end"


def sample_services() -> list[ServiceView]:
    """The usual morning: a proxy that runs, an IDE that works hard, no AI engine yet."""
    return [
        ServiceView(
            "ide",
            State.RUNNING,
            NOW - 5400,
            Health.HEALTHY,
            Want.ON_DEMAND,
            None,
            812 << 20,
            1024 << 20,
            23.4,
            actions=("stop", "restart"),
        ),
        ServiceView(
            "proxy",
            State.RUNNING,
            NOW - 3 * 86400,
            Health.HEALTHY,
            Want.RUN,
            None,
            38 << 20,
            128 << 20,
            0.4,
            actions=("stop", "restart"),
        ),
        ServiceView("ai", State.ABSENT, 0.0, Health.UNKNOWN, Want.ON_DEMAND),
    ]


def sample_trouble() -> list[ServiceView]:
    """A bad day: given up, not answering, downloading; with hostile words in every text."""
    return [
        ServiceView(
            "ide",
            State.FAILED,
            NOW - 90,
            Health.UNHEALTHY,
            Want.RUN,
            Message("problem.port_taken_by.why", {"port": 443, "owner": EVIL}),
            parked="crash_loop",
            log_tail=("starting", EVIL_LINE, EVIL),
            actions=("start",),
        ),
        ServiceView(
            "proxy",
            State.RUNNING,
            NOW - 40,
            Health.UNHEALTHY,
            Want.RUN,
            None,
            125 << 20,
            128 << 20,
            99.0,
            actions=("stop", "restart"),
        ),
        ServiceView(
            "ai",
            State.STARTING,
            NOW - 20,
            Health.UNKNOWN,
            Want.ON_DEMAND,
            None,
            progress=Progress("pulling", 412 << 20, 1900 << 20),
            actions=("stop",),
        ),
    ]


def sample_problems() -> list[Problem]:
    return [
        Problem("port_taken_by", "error", "proxy", {"port": 443, "owner": EVIL}),
        Problem("crash_loop", "error", "ide", {"failures": 5}),
        Problem("disk_nearly_full", "warning", None, {"free_mb": 2150}),
    ]


def sample_machine() -> dict[str, Any]:
    return {
        "cpu_percent": 23.7,
        "load": 0.42,
        "memory_used": 1288 << 20,
        "memory_total": 1998 << 20,
        "swap_used": 96 << 20,
        "swap_total": 2048 << 20,
        "disk_used": 18.4 * (1 << 30),
        "disk_total": 19.6 * (1 << 30),
        "uptime": 1_054_320.0,
    }


def sample_points(span: charts.Span = charts.SPANS["day"]) -> Points:
    """A day with a gap in it and a clock that was set."""
    begin, end = charts.window(span, NOW)
    slots = (end - begin) // span.slot
    known = [None if slots // 3 < n < slots // 2 else float(n % 40 + 1) for n in range(slots)]
    return Points(begin, span.slot, dict.fromkeys(NAMES, known), dict.fromkeys(NAMES, known), [(begin + 7200, 3600.0)])


def sample_charts(t: Translator, specs: Sequence[charts.Spec] = charts.HOME) -> list[charts.Chart]:
    span = charts.SPANS["day"]
    return [charts.chart(spec, sample_points(span), sample_machine(), span, t) for spec in specs]


AGENTS = {
    "firefox": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "safari": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Mobile/15E148 Safari/604.1",
    "edge": "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/141.0 Safari/537.36 Edg/141.0",
}


def sample_session(number: int, agent: str, user: str = "salma@example.org", **changes: Any) -> dict[str, Any]:
    return {
        "id": f"s{number}",
        "user": user,
        "role": "admin",
        "agent": agent,
        "address": f"203.0.113.{number}",
        "created_at": NOW - 7200 * number,
        "seen_at": NOW - 400 * number,
        "expires_in": 3600 * number,
        "remember": False,
        "current": False,
        "ide_sockets": 0,
    } | changes


def sample_lines(count: int = 60) -> list[dict[str, Any]]:
    words = [
        "[info] Session server listening on /run/croft/ide/ide.sock",
        "debug: extension host agent started",
        "[warn] file watcher: polling, inotify limit is low",
        "error: cannot open settings.json: permission denied",
        "حُفظ الملف notes.md في مساحة العمل",
        "[info] " + "a-very-long-word-" * 16,
    ]
    lines = [
        {"at": NOW - count + n, "level": filters.log_level(words[n % 6]), "text": words[n % 6]} for n in range(count)
    ]
    return [*lines, {"at": None, "level": "info", "text": EVIL}, {"at": NOW, "level": "error", "text": EVIL_LINE}]


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


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """The real catalogue; an unknown key is an error."""
    return Catalogue.load(ROOT / "webui/locale", strict=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(catalogue: Catalogue) -> AsyncIterator[SimpleNamespace]:
    """The preview, listening on a free port; ``stage`` is replaced before each test."""
    runner = web.AppRunner(web.Application())
    holder = SimpleNamespace(stage=Stage())
    first = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = first.sockets[0].getsockname()[1]
    first.close()
    await first.wait_closed()
    settings = plain_settings(port)
    holder.preview = Preview(holder.stage, settings, catalogue)
    runner = web.AppRunner(holder.preview.app(), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    holder.base, holder.ide = settings.ui_origin, settings.ide_origin
    yield holder
    holder.preview.stage.push("drop", None)
    await runner.cleanup()


@pytest.fixture
def stage(server: SimpleNamespace) -> Stage:
    server.preview.stage = Stage(base=server.base, ide=server.ide)
    return server.preview.stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield started
        await started.close()


class Watch:
    """Everything a page may not do, as it happens."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.allowed: tuple[str, ...] = ()

    async def context(self, browser: Browser, base: str, ide: str, **options: Any) -> BrowserContext:
        context = await browser.new_context(**options)
        self.allowed = (base, ide)
        await context.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective, e.sample))"
        )
        context.on(
            "console",
            lambda message: (
                message.type in ("error", "warning")
                and not message.text.startswith(SANDBOX_NOTE)
                and self.faults.append(message.text)
            ),
        )
        context.on("weberror", lambda error: self.faults.append(str(error.error)))
        context.on("request", lambda request: request.url.startswith(self.allowed) or self.faults.append(request.url))
        return context


@pytest_asyncio.fixture(loop_scope="module")
async def watch(stage: Stage) -> AsyncIterator[Watch]:
    """Fails the test that let a page break its policy, log an error or call outside."""
    watched = Watch()
    yield watched
    assert watched.faults == []


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, stage: Stage, watch: Watch) -> AsyncIterator[Page]:
    context = await watch.context(browser, stage.base, stage.ide, viewport={"width": 1440, "height": 900})
    opened = await context.new_page()
    opened.set_default_timeout(15_000)
    yield opened
    stage.push("drop", None)
    await context.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, installed once into the checkout's cache."""
    return axe_source()


def as_event(stage: Stage, catalogue: Catalogue, lang: str = "en") -> dict[str, Any]:
    """The ``services`` event for what is on the stage, made by the same functions as the real one."""
    t = Translator(catalogue, lang)
    return {
        "services": [views.service_json(view, t) for view in stage.services],
        "problems": [views.problem_json(problem, t) for problem in stage.problems],
        "summary": t.message(filters.summary(stage.services, stage.problems)),
    }


@pytest.fixture
def services_event(stage: Stage, catalogue: Catalogue) -> Callable[[], dict[str, Any]]:
    return lambda: as_event(stage, catalogue)
