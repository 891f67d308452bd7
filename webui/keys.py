"""Typed application keys: what handlers may reach, one by one. Rule: no bag that holds everything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from appliance.assistant.engine import Engine
from appliance.assistant.room import Late
from appliance.audit import AuditLog
from appliance.audit_search import AuditSearch
from appliance.clock import Clock
from appliance.commands.front import Commands
from appliance.commands.policy_file import PolicyFile
from appliance.commands.runbooks import Runbooks
from appliance.events import EventBus
from appliance.host.packages import Packages
from appliance.host.toolbox import Toolbox
from appliance.identity.access import WorkspaceAccess
from appliance.identity.api_tokens import ApiTokens
from appliance.identity.bearer import Bearer
from appliance.identity.devices import Devices
from appliance.identity.grants import Grants
from appliance.identity.hints import Hints
from appliance.identity.invitations import Invitations
from appliance.identity.links import Links
from appliance.identity.mail import Mailer
from appliance.identity.mailed import Mailed
from appliance.identity.own_data import OwnData
from appliance.identity.passkeys import Passkeys
from appliance.identity.recovery import RecoveryCodes
from appliance.identity.sessions import Sessions
from appliance.identity.sign_in import SignIn
from appliance.identity.step_up import StepUp
from appliance.identity.throttle import Throttle
from appliance.identity.tokens import WorkspaceTokens
from appliance.identity.users import Users
from appliance.identity.visits import Visits
from appliance.identity.ways_in import WaysIn
from appliance.services.manager import Services
from appliance.settings import Settings
from appliance.settings_desk import SettingsDesk
from appliance.telemetry.machine import Facts
from appliance.telemetry.monitor import Monitor
from webui.assets import Assets
from webui.i18n import Catalogue
from webui.jinja import Templates
from webui.needs import Provider
from webui.relay import Relay
from webui.streams import Streams

if TYPE_CHECKING:  # parts of the assistant are imported with their first use
    from appliance.assistant.answers import Answers
    from appliance.assistant.conversations import Conversations
    from appliance.assistant.editor import Editors
    from appliance.assistant.models import Models
    from appliance.assistant.quotas import Quotas
    from appliance.jobs import Jobs

SETTINGS = web.AppKey("settings", Settings)
# What an admin may change while Croft runs: look at ``.current`` for those.
HINTS = web.AppKey("hints", Hints)
DESK = web.AppKey("desk", SettingsDesk)
RESTART: web.AppKey[Callable[[], None]] = web.AppKey("restart")
CLOCK = web.AppKey("clock", Clock)
USERS = web.AppKey("users", Users)
SESSIONS = web.AppKey("sessions", Sessions)
SIGN_IN = web.AppKey("sign_in", SignIn)
DEVICES = web.AppKey("devices", Devices)
PASSKEYS = web.AppKey("passkeys", Passkeys)
RECOVERY = web.AppKey("recovery", RecoveryCodes)
STEP_UP = web.AppKey("step_up", StepUp)
WAYS_IN = web.AppKey("ways_in", WaysIn)
LINKS = web.AppKey("links", Links)
MAILER = web.AppKey("mailer", Mailer)
MAILED = web.AppKey("mailed", Mailed)
INVITATIONS = web.AppKey("invitations", Invitations)
TOKENS = web.AppKey("tokens", WorkspaceTokens)
API_TOKENS = web.AppKey("api_tokens", ApiTokens)
ACCESS = web.AppKey("access", WorkspaceAccess)
BEARER = web.AppKey("bearer", Bearer)
OWN_DATA = web.AppKey("own_data", OwnData)
THROTTLE = web.AppKey("throttle", Throttle)
GRANTS = web.AppKey("grants", Grants)
AUDIT = web.AppKey("audit", AuditLog)
AUDIT_SEARCH = web.AppKey("audit_search", AuditSearch)
EVENTS = web.AppKey("events", EventBus)
SERVICES = web.AppKey("services", Services)
ENGINE: web.AppKey[Engine] = web.AppKey("engine")
COMMANDS = web.AppKey("commands", Commands)
TOOLBOX = web.AppKey("toolbox", Toolbox)
PACKAGES = web.AppKey("packages", Packages)
POLICY = web.AppKey("policy", PolicyFile)
RUNBOOKS = web.AppKey("runbooks", Runbooks)
JOBS: web.AppKey[Late[Jobs]] = web.AppKey("jobs")
MODELS: web.AppKey[Late[Models]] = web.AppKey("models")
QUOTAS: web.AppKey[Late[Quotas]] = web.AppKey("quotas")
EDITORS: web.AppKey[Late[Editors]] = web.AppKey("editors")
ANSWERS: web.AppKey[Late[Answers]] = web.AppKey("answers")
CONVERSATIONS: web.AppKey[Late[Conversations]] = web.AppKey("conversations")
CATALOGUE = web.AppKey("catalogue", Catalogue)
ASSETS = web.AppKey("assets", Assets)
TEMPLATES = web.AppKey("templates", Templates)
RELAY = web.AppKey("relay", Relay)
STREAMS = web.AppKey("streams", Streams)
MONITOR = web.AppKey("monitor", Monitor)
VISITS = web.AppKey("visits", Visits)
# Who knows of things that wait for a person (webui.needs); Home shows them.
NEEDS: web.AppKey[Sequence[Provider]] = web.AppKey("needs")
ANCHOR: web.AppKey[Callable[[], tuple[int, bytes] | None]] = web.AppKey("anchor")
# Set once all that people come for is there; the gate keeps them waiting until then.
STARTED: web.AppKey[asyncio.Event] = web.AppKey("started")
# What many readers share, made with the first of them: webui.handlers.telemetry.drawings, webui.handlers.live.pictures.
SHARED: web.AppKey[dict[str, Any]] = web.AppKey("shared")
# What the machine is, once somebody asked.
FACTS: web.AppKey[dict[str, Facts]] = web.AppKey("facts")
OPENAPI: web.AppKey[dict[str, Any]] = web.AppKey("openapi")
# Called with (page name, path, Accept-Language), gives a whole page: webui.ide_gate.IdePages.
IDE_PAGES: web.AppKey[Any] = web.AppKey("ide_pages")
