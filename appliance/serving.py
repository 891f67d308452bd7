"""Everything between the store and the sockets, built, started and stopped in one readable order. The only importer of webui.

Order: identity, broker, services, web. Stopping goes the other way: streams and sockets get a close, the queue is written,
services go on running.
"""

from __future__ import annotations

from appliance import server_half  # noqa: F401 - before anything that imports aiohttp: see there

# isort: split
import asyncio
import logging
import os
import random
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

import webui
from appliance import keys as key_files
from appliance import log as logs
from appliance.assembly import (
    build_commands,
    build_monitor,
    build_own_data,
    build_packages,
    build_runbooks,
    build_services,
    build_tools,
    ide_uid,
    problems_of,
    session_limits,
    workspace_uid,
)
from appliance.assembly_answers import AnswerParts
from appliance.assembly_assistant import (
    Counts,
    EditorSurroundings,
    build_conversations,
    build_editors,
    build_quotas,
    keep_conversations,
    workspace_doors,
)
from appliance.assembly_engine import build_engine, build_workshop
from appliance.assembly_models import ModelParts
from appliance.audit_search import AuditSearch
from appliance.commands.policy_file import PolicyFile
from appliance.errors import CroftError
from appliance.events import EventBus
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
from appliance.identity.sessions import Session, Sessions
from appliance.identity.sign_in import SignIn
from appliance.identity.step_up import StepUp
from appliance.identity.throttle import Throttle
from appliance.identity.tokens import WorkspaceTokens
from appliance.identity.users import Users
from appliance.identity.verify import Site, Verifier, VerifyProtocol
from appliance.identity.visits import Visits
from appliance.identity.ways_in import WaysIn
from appliance.settings import Settings
from appliance.settings_desk import SettingsDesk
from appliance.sockets import listen
from appliance.store import Store, read_anchor
from webui import app as web_app
from webui import keys
from webui.assets import Assets
from webui.guard import IDE_COOKIE
from webui.i18n import Catalogue, Translator
from webui.ide_gate import IdeGate, IdePages
from webui.jinja import Templates
from webui.needs import expiring, on_page, unfinished, waiting, without_model
from webui.relay import Relay
from webui.streams import Streams
from webui.terminals import Terminals

log = logging.getLogger("croft")

HOUSEKEEPING_SECONDS = 60.0
DRAIN_SECONDS = 8.0
RESTART_SECONDS = 0.5
# How a full or failing disk shows. The daemon lives on: people can look and sign out, and writing is tried again (R10).
UNWRITABLE = (OSError, sqlite3.Error, CroftError)


@asynccontextmanager
async def serve(
    settings: Settings, desk: SettingsDesk, store: Store, broker: Mapping[str, Any], proxy_version: Awaitable[str]
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Everything that people meet. Yields the tasks that end only when something is wrong."""
    users = Users(store.database, store.audit, store.clock)
    sessions = Sessions(
        store.database,
        store.audit,
        store.clock,
        store.boot_id,
        session_limits(settings),
    )
    await sessions.load()
    api_tokens = ApiTokens(store.database, store.audit, store.clock)
    await api_tokens.load()
    users.on_change(sessions.follow)
    users.on_change(api_tokens.follow)
    links = Links(store.database, users, store.audit, store.clock, store.boot_id)
    throttle = Throttle(store.database, store.clock)
    devices = Devices(store.database, store.clock)
    sign_in = SignIn(store.database, links, sessions, throttle, store.audit, devices)
    party = RelyingParty(settings.host, settings.ui_origin)
    passkeys = Passkeys(store.database, store.audit, store.clock, party)
    codes = RecoveryCodes(store.database, store.audit, store.clock)
    mailer = Mailer(settings)
    ways_in = WaysIn(store.database, passkeys, codes, lambda: mailer.on)
    tokens = WorkspaceTokens(
        key_files.ed25519(settings.paths.keys / "tokens.key"), store.instance, store.clock, store.database
    )
    quotas = build_quotas(store, desk)
    access = WorkspaceAccess(tokens, sessions, api_tokens)
    bus = EventBus(store.clock)
    streams, assets = Streams(), Assets(Path(webui.__file__).parent / "static")
    templates = Templates(assets)
    catalogue = Catalogue.load(Path(webui.__file__).parent / "locale")
    monitor = build_monitor(settings, store, bus, lambda: services)
    services = build_services(
        settings,
        store,
        bus,
        broker,
        await proxy_version,
        random.random,
        lambda: problems_of(monitor, mailer, old_window=editors.made is not None and editors.made.outdated()),
        lambda: commands.active,
    )
    policy, started = PolicyFile(settings.paths.policy, store.clock), asyncio.Event()
    commands = build_commands(settings, store, bus, services, users, lambda: policy.current, runtime=broker["runtime"])
    await commands.load()
    runbooks = build_runbooks(store, users, commands)
    toolbox = build_tools(settings, store, bus, services, runtime=broker["runtime"])
    relay = Relay(settings.paths.socket("ide"), ide_uid(settings), services.socket_opened, services.socket_closed)

    engine = build_engine(settings, desk, services, bus, runtime=broker["runtime"])
    parts = ModelParts(
        *(settings, store, bus, engine, commands, users),
        runtime=broker["runtime"],
        workshop=lambda: build_workshop(settings, services),
        chosen=services.look,
    )
    conversations = build_conversations(store)
    speech = Translator(catalogue, "en")
    answering = AnswerParts(
        settings,
        store,
        bus,
        desk,
        engine,
        commands,
        conversations,
        quotas,
        parts.models,
        speech.message,
        markup="webui.markup",
    )
    around = EditorSurroundings(settings, sessions, bus, relay.served_by, relay.alone, relay.count)
    editors = build_editors(store, around)
    terminals = Terminals(engine, quotas, streams)

    def let_go(session: Session) -> None:
        answering.let_go(session, sessions)
        relay.close(session)
        streams.close(session.id)
        tokens.forget()

    def let_token_go(token: ApiToken) -> None:
        streams.close(token.actor)
        tokens.forget()

    def follow(before: Settings, after: Settings) -> None:
        sessions.limits = session_limits(after)
        mailer.use(after)
        logs.set_level(after.log_level)

    desk.on_change(follow)
    hints = Hints(store.database, store.clock)
    logs.set_level(settings.log_level)
    sessions.on_end(let_go)
    api_tokens.on_end(let_token_go)
    application = web_app.build(
        {
            keys.SETTINGS: settings,
            keys.DESK: desk,
            keys.HINTS: hints,
            keys.RESTART: _restart,
            keys.CLOCK: store.clock,
            keys.STARTED: started,
            keys.USERS: users,
            keys.SESSIONS: sessions,
            keys.SIGN_IN: sign_in,
            keys.DEVICES: devices,
            keys.PASSKEYS: passkeys,
            keys.RECOVERY: codes,
            keys.STEP_UP: StepUp(sign_in, sessions, store.audit),
            keys.WAYS_IN: ways_in,
            keys.LINKS: links,
            keys.MAILER: mailer,
            keys.MAILED: Mailed(store.database, throttle, store.audit, store.clock, store.boot_id),
            keys.INVITATIONS: Invitations(store.database, users, store.audit, store.clock),
            keys.TOKENS: tokens,
            keys.API_TOKENS: api_tokens,
            keys.ACCESS: access,
            keys.BEARER: Bearer(store.database, api_tokens, throttle, store.audit),
            keys.OWN_DATA: build_own_data(store, users),
            keys.THROTTLE: throttle,
            keys.GRANTS: Grants(store.clock),
            keys.AUDIT: store.audit,
            keys.AUDIT_SEARCH: AuditSearch(store.database),
            keys.EVENTS: bus,
            keys.SERVICES: services,
            keys.COMMANDS: commands,
            keys.ENGINE: engine,
            keys.TOOLBOX: toolbox,
            keys.PACKAGES: build_packages(settings, store, toolbox),
            keys.POLICY: policy,
            keys.RUNBOOKS: runbooks,
            keys.JOBS: parts.jobs,
            keys.MODELS: parts.models,
            keys.QUOTAS: quotas,
            keys.EDITORS: editors,
            keys.CONVERSATIONS: conversations,
            keys.ANSWERS: answering.answers,
            keys.CATALOGUE: catalogue,
            keys.ASSETS: assets,
            keys.TEMPLATES: templates,
            keys.RELAY: relay,
            keys.STREAMS: streams,
            keys.MONITOR: monitor,
            keys.VISITS: Visits(store.database, store.clock),
            keys.NEEDS: [
                unfinished(hints),
                on_page(ways_in.needs, "/account", "key"),
                expiring(api_tokens),
                waiting(commands),
                without_model(engine),
            ],
            keys.ANCHOR: lambda: read_anchor(settings),
        },
        console_uids=frozenset({0, os.getuid()}),
    )
    pages = IdePages(templates, catalogue, assets, settings, services)
    application[keys.IDE_PAGES] = pages
    verifier = Verifier(
        IdeGate(sessions, access, services, pages),
        Site(settings.ide_origin.split("//")[1].split(":")[0], settings.ide_origin, settings.ui_origin, IDE_COOKIE),
    )

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_web(settings, application))
        await stack.enter_async_context(_forward_auth(settings, verifier))
        stack.push_async_callback(terminals.close)
        stack.push_async_callback(parts.close)
        stack.push_async_callback(answering.close)
        await parts.open()
        doors = workspace_doors(settings, workspace_uid(settings), editors, terminals.protocol)
        tasks = [
            asyncio.create_task(services.run(), name="services"),
            asyncio.create_task(monitor.run(), name="telemetry"),
            asyncio.create_task(_policy(policy, started), name="policy"),
            asyncio.create_task(_after(started, commands.run), name="commands"),
            asyncio.create_task(_after(started, runbooks.run), name="runbooks"),
            asyncio.create_task(mailer.run(), name="mail"),
            asyncio.create_task(keep_conversations(store, conversations, desk), name="conversations"),
            *(asyncio.create_task(door.run(), name="door of the workspace") for door in doors),
            asyncio.create_task(_housekeeping((sessions, api_tokens, Counts(quotas)), store), name="housekeeping"),
        ]
        try:
            yield tasks
        finally:
            streams.close_all()
            relay.close_all()
            await _end(tasks)
            await _last_words((sessions, api_tokens, Counts(quotas, last=True)), store)


async def _policy(policy: PolicyFile, started: asyncio.Event) -> None:
    """Bring the policy into force, then follow it. Reading it takes a tenth of a start, and only who is signed in asks it (F2)."""
    await policy.open()
    started.set()
    await policy.watch()


async def _after(started: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
    await started.wait()
    await work()


def _restart() -> None:
    """End as SIGTERM would, once the answer under way is out; whoever watches over the daemon starts it again."""
    asyncio.get_running_loop().call_later(RESTART_SECONDS, os.kill, os.getpid(), signal.SIGTERM)


async def _last_words(kept: Sequence[Sessions | ApiTokens | Counts], store: Store) -> None:
    try:
        for each in kept:
            await each.save()
        await store.audit.note("daemon.stop", "daemon")
    except UNWRITABLE as error:
        log.error("cannot write at stop; sessions fall back to when they were last saved", exc_info=error)


@asynccontextmanager
async def _web(settings: Settings, application: web.Application) -> AsyncIterator[None]:
    runner = web.AppRunner(
        application,
        access_log=None,
        keepalive_timeout=75,
        shutdown_timeout=DRAIN_SECONDS,
        max_line_size=8190,
        max_field_size=16384,
        handler_cancellation=True,
        tcp_keepalive=False,  # these are unix sockets
    )
    await runner.setup()
    try:
        for name, mode in (("web", 0o660), ("control", 0o600)):
            await web.SockSite(runner, listen(settings.paths.socket(name), mode)).start()
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _forward_auth(settings: Settings, verifier: Verifier) -> AsyncIterator[None]:
    sock = listen(settings.paths.socket("verify"), 0o660)
    server = await asyncio.get_running_loop().create_unix_server(lambda: VerifyProtocol(verifier), sock=sock)
    try:
        yield
    finally:
        server.close()


async def _housekeeping(kept: Sequence[Sessions | ApiTokens | Counts], store: Store) -> None:
    """Each minute: save sessions and tokens, sign the audit head, notice a clock that jumped (LOG-8); keep room for all
    that on the disk."""
    drift = store.clock.now() - store.clock.uptime()
    while True:
        await asyncio.to_thread(store.reserve.keep)
        await asyncio.sleep(HOUSEKEEPING_SECONDS)
        now_drift = store.clock.now() - store.clock.uptime()
        try:
            for each in kept:
                await each.save()
            if abs(now_drift - drift) > 5:
                await store.audit.note("clock.jump", "daemon", seconds=round(now_drift - drift))
            drift = now_drift
            await store.audit.checkpoint()
        except UNWRITABLE as error:
            log.error("housekeeping could not write; it tries again in a minute", exc_info=error)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            log.error("a part of the daemon failed", exc_info=result)
