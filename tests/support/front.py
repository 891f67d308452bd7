"""The real web application on real unix sockets over a real store; only the services behind it are scripted."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import aiohttp
from aiohttp import web

import webui
from appliance import keys as key_files
from appliance.assembly import build_commands, build_own_data, build_packages, build_runbooks
from appliance.assembly_answers import AnswerParts
from appliance.assembly_assistant import (
    EditorSurroundings,
    build_conversations,
    build_editors,
    build_quotas,
    workspace_doors,
)
from appliance.assembly_engine import build_engine, build_workshop
from appliance.assembly_models import ModelParts
from appliance.assistant.engine import Engine
from appliance.audit_search import AuditSearch
from appliance.clock import ManualClock
from appliance.commands.judge import Policy
from appliance.commands.language import load as load_policy
from appliance.commands.policy_file import PolicyFile
from appliance.commands.policy_text import packaged
from appliance.events import EventBus
from appliance.host.toolbox import Toolbox
from appliance.identity.access import WorkspaceAccess
from appliance.identity.api_tokens import ApiToken, ApiTokens
from appliance.identity.bearer import Bearer
from appliance.identity.devices import Devices
from appliance.identity.grants import Grants
from appliance.identity.hints import Hints
from appliance.identity.invitations import Invitations
from appliance.identity.links import Links
from appliance.identity.mail import Mailer
from appliance.identity.mailed import Mailed
from appliance.identity.passkeys import Passkeys, RelyingParty
from appliance.identity.recovery import RecoveryCodes
from appliance.identity.sessions import Limits, Session, Sessions
from appliance.identity.sign_in import Caller, SignIn
from appliance.identity.step_up import StepUp
from appliance.identity.throttle import Throttle
from appliance.identity.tokens import WorkspaceTokens
from appliance.identity.users import Role, User, Users
from appliance.identity.visits import Visits
from appliance.identity.ways_in import WaysIn
from appliance.services.health import Answer
from appliance.services.manager import Services, Surroundings
from appliance.services.model import SERVICES, LogLine, Observed, State, Supply
from appliance.services.wishes import Wishes
from appliance.settings import Paths, load
from appliance.settings_desk import SettingsDesk
from appliance.sockets import listen
from appliance.store import Store, open_store, read_anchor
from appliance.telemetry.monitor import Monitor
from appliance.telemetry.store import TelemetryStore
from webui import app as web_app
from webui import keys
from webui.assets import Assets
from webui.guard import COOKIE, IDE_COOKIE
from webui.i18n import Catalogue, Translator
from webui.ide_gate import IdePages
from webui.jinja import Templates
from webui.needs import on_page, unfinished, waiting, without_model
from webui.relay import Relay
from webui.streams import Streams
from webui.terminals import Terminals

UI, IDE = "https://croft.localhost", "https://ide.croft.localhost"
ROOM = Path(webui.__file__).parent


@cache
def packaged_policy() -> Policy:
    """The rules an appliance starts with."""
    return load_policy(packaged())


class QuietRuntime:
    """Everything runs, nothing happens, and each service has said two lines."""

    async def open(self, changed: Callable[[], None]) -> None:
        pass

    async def close(self) -> None:
        pass

    async def observe(self) -> tuple[Observed, ...]:
        return tuple(Observed(name, State.RUNNING, 1.0, f"run-{name}", 1) for name in SERVICES)

    async def share(self, model_mb: int | None) -> None: ...

    async def start(self, service: str, model_mb: int | None, *, safe: bool = False) -> None:
        pass

    async def stop(self, service: str, grace: float) -> None:
        pass

    async def pull(self, service: str, report: Callable[..., None]) -> None:
        pass

    async def supply(self, service: str) -> Supply:
        return Supply.INSTALLER

    async def logs(self, service: str, lines: int) -> list[LogLine]:
        return [LogLine("hello"), LogLine("\x1b[31mred\x1b[0m </script>")][:lines]

    async def follow(self, service: str, lines: int) -> AsyncIterator[LogLine]:
        for line in await self.logs(service, lines):
            yield line
        await asyncio.Event().wait()


async def healthy() -> Answer:
    return Answer(True)


class Front:
    """Use :func:`front`. ``ask`` speaks as a browser's own page would; change headers to speak as anything else."""

    def __init__(self, store: Store, folder: Path, clock: ManualClock, engine: Engine | None = None) -> None:
        self.clock, self.folder, self.store = clock, folder, store
        self.settings = load(Paths.under(folder))
        self.audit = store.audit
        self.desk = SettingsDesk(store.database, store.audit, clock, self.settings)
        self.hints = Hints(store.database, clock)
        self.restarts: list[float] = []
        self.users = Users(store.database, store.audit, clock)
        self.sessions = Sessions(store.database, store.audit, clock, store.boot_id, Limits(3600, 86400, 30 * 86400))
        self.links = Links(store.database, self.users, store.audit, clock, store.boot_id)
        self.throttle = Throttle(store.database, clock)
        self.api_tokens = ApiTokens(store.database, store.audit, clock)
        self.users.on_change(self.sessions.follow)
        self.users.on_change(self.api_tokens.follow)
        self.bearer = Bearer(store.database, self.api_tokens, self.throttle, store.audit)
        self.grants = Grants(clock)
        self.own_data = build_own_data(store, self.users)
        self.devices = Devices(store.database, clock)
        self.sign_in = SignIn(store.database, self.links, self.sessions, self.throttle, store.audit, self.devices)
        self.passkeys = Passkeys(
            store.database, store.audit, clock, RelyingParty(self.settings.host, self.settings.ui_origin)
        )
        self.recovery = RecoveryCodes(store.database, store.audit, clock)
        self.step_up = StepUp(self.sign_in, self.sessions, store.audit)
        self.mailer = Mailer(self.settings)
        self.mailed = Mailed(store.database, self.throttle, store.audit, clock, store.boot_id)
        self.invitations = Invitations(store.database, self.users, store.audit, clock)
        self.mail_is_on = self.mailer.on
        self.ways_in = WaysIn(store.database, self.passkeys, self.recovery, lambda: self.mail_is_on)
        self.tokens = WorkspaceTokens(
            key_files.ed25519(self.settings.paths.keys / "tokens.key"), store.instance, clock, store.database
        )
        self.bus = EventBus(clock)
        self.services = Services(
            QuietRuntime(),
            {"proxy": healthy, "ide": healthy},
            lambda: None,
            clock,
            self.bus,
            Wishes(store.database, clock),
            Surroundings(state=folder),
            jitter=lambda: 0.0,
        )
        # None, until a test chooses a model or names an endpoint (use_endpoint).
        self.engine: Engine = engine or build_engine(
            self.settings, self.desk, self.services, self.bus, runtime="process"
        )
        self.policy = packaged_policy()
        self.started = asyncio.Event()
        self.started.set()
        self.policy_file = PolicyFile(self.settings.paths.policy, clock)
        self.settings.paths.workspace.mkdir(parents=True, exist_ok=True)
        # Not started: only tests of commands have a broker.
        self.commands = build_commands(
            self.settings, store, self.bus, self.services, self.users, lambda: self.policy, runtime="process"
        )
        self.toolbox = Toolbox(self.ask_tools, self.run_here, store.audit, self.bus, "process")
        self.runbooks = build_runbooks(store, self.users, self.commands)
        # Not started: tests give it the rows they want to see.
        self.monitor = Monitor(clock, self.bus, TelemetryStore(store.database), folder, list)
        self.quotas = build_quotas(store, self.desk)
        self.visits = Visits(store.database, clock)
        self.relay = Relay(
            self.settings.paths.socket("ide"), os.getuid(), self.services.socket_opened, self.services.socket_closed
        )
        self.streams = Streams()
        around = EditorSurroundings(
            self.settings, self.sessions, self.bus, self.relay.served_by, self.relay.alone, self.relay.count
        )
        self.editors = build_editors(store, around)
        self.terminals = Terminals(self.engine, self.quotas, self.streams)
        self.models = ModelParts(
            *(self.settings, store, self.bus, self.engine, self.commands, self.users),
            runtime="process",
            workshop=lambda: build_workshop(self.settings, self.services),
            chosen=self.services.look,
        )
        self.conversations = build_conversations(store)
        words = Translator(Catalogue.load(ROOM / "locale"), "en")
        self.answering = AnswerParts(
            *(self.settings, store, self.bus, self.desk, self.engine, self.commands, self.conversations, self.quotas),
            self.models.models,
            words.message,
            markup="webui.markup",
        )
        self.runner: web.AppRunner
        self.app: web.Application
        self.web: aiohttp.ClientSession
        self.control: aiohttp.ClientSession

    async def run_here(self, command: list[str]) -> IO[bytes]:
        """A command of the toolbox on this folder's home, without a broker."""
        read, write = os.pipe()
        with os.fdopen(write, "wb") as theirs:
            env = {"HOME": str(self.settings.paths.ide_home), "PATH": "/usr/bin:/bin"}
            await asyncio.create_subprocess_exec(*command, env=env, stdout=theirs, stderr=asyncio.subprocess.DEVNULL)
        return os.fdopen(read, "rb", buffering=0)

    async def ask_tools(self, **words: str) -> socket.socket:
        """The real helper on this folder's home, without a broker."""
        ours, theirs = socket.socketpair()
        with theirs:
            home = self.settings.paths.ide_home
            home.mkdir(parents=True, exist_ok=True)
            await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-m", "appliance.host.tools", *words.values()),
                env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
                stdout=theirs,
            )
        return ours

    def build(self, console_uids: frozenset[int]) -> web.Application:
        def let_go(session: Session) -> None:
            self.answering.let_go(session, self.sessions)
            self.relay.close(session)
            self.streams.close(session.id)
            self.tokens.forget()

        def let_token_go(token: ApiToken) -> None:
            self.streams.close(token.actor)
            self.tokens.forget()

        self.sessions.on_end(let_go)
        self.api_tokens.on_end(let_token_go)
        assets, catalogue = Assets(ROOM / "static"), Catalogue.load(ROOM / "locale")
        parts: dict[web.AppKey[Any], Any] = {
            keys.SETTINGS: self.settings,
            keys.DESK: self.desk,
            keys.HINTS: self.hints,
            keys.RESTART: lambda: self.restarts.append(self.clock.now()),
            keys.CLOCK: self.clock,
            keys.STARTED: self.started,
            keys.USERS: self.users,
            keys.SESSIONS: self.sessions,
            keys.SIGN_IN: self.sign_in,
            keys.DEVICES: self.devices,
            keys.PASSKEYS: self.passkeys,
            keys.RECOVERY: self.recovery,
            keys.STEP_UP: self.step_up,
            keys.WAYS_IN: self.ways_in,
            keys.LINKS: self.links,
            keys.MAILER: self.mailer,
            keys.MAILED: self.mailed,
            keys.INVITATIONS: self.invitations,
            keys.TOKENS: self.tokens,
            keys.API_TOKENS: self.api_tokens,
            keys.ACCESS: WorkspaceAccess(self.tokens, self.sessions, self.api_tokens),
            keys.BEARER: self.bearer,
            keys.OWN_DATA: self.own_data,
            keys.THROTTLE: self.throttle,
            keys.GRANTS: self.grants,
            keys.AUDIT: self.audit,
            keys.AUDIT_SEARCH: AuditSearch(self.store.database),
            keys.EVENTS: self.bus,
            keys.SERVICES: self.services,
            keys.COMMANDS: self.commands,
            keys.ENGINE: self.engine,
            keys.JOBS: self.models.jobs,
            keys.MODELS: self.models.models,
            keys.TOOLBOX: self.toolbox,
            keys.PACKAGES: build_packages(self.settings, self.store, self.toolbox),
            keys.POLICY: self.policy_file,
            keys.RUNBOOKS: self.runbooks,
            keys.QUOTAS: self.quotas,
            keys.EDITORS: self.editors,
            keys.CONVERSATIONS: self.conversations,
            keys.ANSWERS: self.answering.answers,
            keys.CATALOGUE: catalogue,
            keys.ASSETS: assets,
            keys.TEMPLATES: Templates(assets),
            keys.RELAY: self.relay,
            keys.STREAMS: self.streams,
            keys.MONITOR: self.monitor,
            keys.VISITS: self.visits,
            keys.NEEDS: [
                unfinished(self.hints),
                on_page(self.ways_in.needs, "/account", "key"),
                waiting(self.commands),
                without_model(self.engine),
            ],
            keys.ANCHOR: lambda: read_anchor(self.settings),
        }
        app = web_app.build(parts, console_uids)
        app[keys.IDE_PAGES] = IdePages(app[keys.TEMPLATES], catalogue, assets, self.settings, self.services)
        return app

    async def use_endpoint(self, url: str, model: str = "tiny", *, context: int = 4096) -> None:
        """Have an OpenAI-compatible server on this machine answer, as an admin would on the settings page."""
        await self.desk.change(
            {
                "ai.engine": "remote",
                "ai.url": url,
                "ai.network": "private",
                "ai.model": model,
                "ai.context": str(context),
            },
            "console",
        )

    async def member(self, role: str) -> User:
        """A person with this role, made once."""
        email = f"{role}@example.org"
        for user in await self.users.all():
            if user.email == email:
                return user
        return await self.users.create(email, role, Role[role], "test")

    async def sign_in_as(self, role: str, *, remember: bool = False) -> tuple[Session, str]:
        """A session and its cookie, got by a link as people get it."""
        await self.member("admin")
        secret, _, _ = await self.links.create(await self.member(role), "console")
        signed_in = await self.sign_in.by_link(secret, Caller("192.0.2.1", "test"), remember=remember)
        return signed_in.session, signed_in.cookie

    async def ide_cookie(self, session: Session) -> str:
        found = await self.sessions.enter_ide(self.sessions.hand_off(session))
        assert found is not None
        return found[1]

    def ask(
        self,
        method: str,
        path: str,
        cookie: str = "",
        *,
        host: str = "croft.localhost",
        headers: Mapping[str, str | None] | None = None,
        **how: Any,
    ) -> Any:
        """A request on web.sock as Caddy passes it on; a header that is None is left out."""
        name = COOKIE if host == "croft.localhost" else IDE_COOKIE
        sent: dict[str, str | None] = {
            "Host": host,
            "Origin": UI if method != "GET" else None,
            "Sec-Fetch-Site": "same-origin",
            "X-Forwarded-For": "192.0.2.9",
            "Cookie": f"{name}={cookie}" if cookie else None,
            "Accept": "application/json",
        }
        sent |= headers or {}
        return self.web.request(
            method,
            f"http://x{path}",
            allow_redirects=False,
            headers={key: value for key, value in sent.items() if value is not None},
            **how,
        )

    def console(self, method: str, path: str, **how: Any) -> Any:
        return self.control.request(method, f"http://localhost{path}", allow_redirects=False, **how)

    def raw(self) -> Any:
        """A bare connection to web.sock: (reader, writer)."""
        return asyncio.open_unix_connection(str(self.settings.paths.socket("web")))


@asynccontextmanager
async def front(
    folder: Path, clock: Any = None, *, console_uids: frozenset[int] | None = None, engine: Engine | None = None
) -> AsyncIterator[Front]:
    """A running front in ``folder``, which keeps its state for the next one. ``engine`` in place of the one the settings choose."""
    clock = clock or ManualClock()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(load(Paths.under(folder)), clock))
        made = Front(store, folder, clock, engine)
        stack.callback(made.monitor.close)
        await made.desk.load()
        await made.sessions.load()
        await made.api_tokens.load()
        app = made.app = made.build(frozenset({os.getuid()}) if console_uids is None else console_uids)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, handler_cancellation=True)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        made.runner = runner
        for name in ("web", "control", "ide", "editor"):
            made.settings.paths.socket(name).parent.mkdir(parents=True, exist_ok=True)
        for name in ("web", "control"):
            await web.SockSite(runner, listen(made.settings.paths.socket(name), 0o660)).start()
            client = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(made.settings.paths.socket(name))),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            setattr(made, name, await stack.enter_async_context(client))
        doors = workspace_doors(made.settings, os.getuid(), made.editors, made.terminals.protocol)
        stack.push_async_callback(made.terminals.close)
        stack.push_async_callback(made.models.close)
        stack.push_async_callback(made.answering.close)
        await made.models.open()
        tasks = [asyncio.create_task(each.run()) for each in (made.services, made.mailer, *doors)]

        async def end() -> None:
            made.streams.close_all()
            made.relay.close_all()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await made.sessions.save()
            await made.api_tokens.save()

        stack.push_async_callback(end)
        async with asyncio.timeout(10):
            while not made.services.is_ready("ide") or not made.services.is_ready("proxy"):
                made.services.wake("ide")
                await asyncio.sleep(0.01)
        yield made
