"""The settings page: what is set, by whom, and changing what may be changed here. And what leaves the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiohttp import web
from msgspec import Struct

from appliance.assistant import remote_engine
from appliance.errors import CroftError, NotFound
from appliance.leaving import LEAVES
from appliance.messages import Message
from appliance.settings import ROWS, Paths, Setting
from appliance.settings_desk import RefusedValue, SettingsDesk
from webui import keys, letters, views
from webui.answers import see
from webui.forms import read_form
from webui.guard import principal_of
from webui.handlers import engine
from webui.render import page

# The cards of the page and what stands on each. Accounts and folders are for the console alone (`croft doctor --settings`).
GROUPS: dict[str, tuple[str, ...]] = {
    "address": ("host", "proxy.https_port", "proxy.http_port", "proxy.bind"),
    "certificates": ("proxy.tls", "proxy.email", "proxy.acme_directory", "proxy.acme_root"),
    "mail": (
        "mail.host",
        "mail.port",
        "mail.tls",
        "mail.user",
        "mail.from_name",
        "mail.from_address",
        "mail.root",
    ),
    "limits": ("session.idle_minutes", "session.hours", "session.remember_days", "ide.idle_minutes", "ide.memory_mb"),
    "engine": ("ai.engine", "ai.idle_minutes", "ai.url", "ai.network", "ai.model", "ai.context", "ai.mirror"),
    "answers": ("ai.steps", "ai.answer_tokens", "ai.answer_minutes"),
    "quotas": ("ai.rate_minute", "ai.rate_burst", "ai.parallel", "ai.token_day", "ai.person_day"),
    "conversations": ("conversations.keep_days", "conversations.archived_days"),
    "look": ("language", "theme"),
    "log": ("log.level", "log.format", "log.service_mb", "runtime"),
}


class Shown(Struct, frozen=True):
    """One setting as the page shows it. ``source`` is file, page or default; ``fault`` belongs to what was ``typed``."""

    row: Setting
    value: str
    source: str
    editable: bool
    fault: Message | None = None

    @property
    def key(self) -> str:
        """Its part of the catalogue and of element ids."""
        return self.row.name.replace(".", "_")

    @property
    def kind(self) -> str:
        return "choice" if self.row.choices else "number" if isinstance(self.row.default, int) else "text"


async def settings(request: web.Request) -> web.StreamResponse:
    """What is set, and changing it."""
    saved = request.query.get("saved", "")
    notice = (
        Message("settings.saved") if saved in GROUPS else Message("settings.mail_sent") if saved == "test" else None
    )
    return await _page(request, notice=notice)


async def change(request: web.Request) -> web.StreamResponse:
    """Change one card's settings."""
    form, group = await read_form(request), request.match_info["group"]
    if group not in GROUPS:
        raise NotFound("there are no such settings")
    names = [name for name in GROUPS[group] if name in form]
    try:
        await request.app[keys.DESK].change({name: form[name] for name in names}, principal_of(request).actor)
    except RefusedValue as fault:
        return await _page(request, fault=fault, typed={name: form[name] for name in names})
    return see(f"/settings?saved={group}#{group}")


async def send_test(request: web.Request) -> web.StreamResponse:
    """Send a test mail to oneself and say what became of it."""
    principal, app = principal_of(request), request.app
    if principal.user is None:
        return see("/settings#mail")
    await app[keys.AUDIT].note("mail.test", principal.actor)
    try:
        app[keys.MAILER].must_be_on()
        await app[keys.MAILER].send(letters.trial(app, principal.user.language, principal.user.email))
    except CroftError as fault:
        return await _page(request, notice=Message(f"fault.{fault.code}"), status=fault.status)
    return see("/settings?saved=test#mail")


async def keep_key(request: web.Request) -> web.StreamResponse:
    """Keep the key of the endpoint elsewhere; an empty one forgets it."""
    form = await read_form(request)
    if "key" not in form:  # it was not carried along while its person proved who they are: it is typed again
        return see("/settings#engine")
    try:
        await engine.keep(request, form["key"])
    except CroftError as fault:
        return await _page(request, notice=Message(f"fault.{fault.code}"), status=fault.status)
    return see("/settings?saved=engine#engine")


async def restart(request: web.Request) -> web.StreamResponse:
    """End the daemon so that it is started again; services go on running and people stay signed in."""
    await request.app[keys.AUDIT].note("daemon.restart", principal_of(request).actor)
    request.app[keys.RESTART]()
    return page(request, "restarting.html")


async def privacy(request: web.Request) -> web.StreamResponse:
    """What may leave this machine, from the one list (PRV-1)."""
    current = request.app[keys.DESK].current
    leaves = [(one, one.on(current)) for one in LEAVES]
    return page(request, "settings_privacy.html", page="settings", tab="privacy", leaves=leaves)


async def _page(
    request: web.Request,
    *,
    notice: Message | None = None,
    fault: RefusedValue | None = None,
    typed: dict[str, str] | None = None,
    status: int = 200,
) -> web.Response:
    desk = request.app[keys.DESK]
    groups: dict[str, list[Shown]] = {
        group: [_shown(desk, ROWS[name], fault, (typed or {}).get(name)) for name in names]
        for group, names in GROUPS.items()
    }
    return page(
        request,
        "settings.html",
        status=fault.status if fault else status,
        notice=Message("fault.setting_refused") if fault else notice,
        path="/settings",
        page="settings",
        tab="settings",
        groups=groups,
        waiting=desk.waiting(),
        certificate=request.app[keys.SERVICES].certificate,
        mail_on=request.app[keys.MAILER].on,
        has_password=request.app[keys.MAILER].has_password(),
        answering=views.engine_json(request.app[keys.ENGINE].status(), views.translator(request)),
        has_key=remote_engine.has_key(desk.current),
        on_console=_on_console(desk.current.paths.config),
    )


def _on_console(config: Path) -> str:
    """What root types to change the file; of one that was not installed, where it lies."""
    installed = config == Paths.system().config
    return f"sudoedit {config} && sudo systemctl restart croft-broker croft" if installed else str(config)


def _shown(desk: SettingsDesk, row: Setting, fault: RefusedValue | None, typed: str | None) -> Shown:
    wrong = fault is not None and fault.row is row
    value = str(desk.value(row)) if typed is None else typed
    return Shown(row, value, desk.source(row), desk.may_change(row), _why(row) if wrong else None)


def _why(row: Setting) -> Message:
    if row.choices:
        return Message("settings.fault.choice")
    if isinstance(row.default, int):
        params: dict[str, Any] = {"low": row.low, "high": row.high}
        return Message("settings.fault.range", params)
    return Message("settings.fault.form")
