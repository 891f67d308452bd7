"""Typed application keys: what handlers may reach, one by one. Rule: no bag that holds everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.events import EventBus
from appliance.identity.links import Links
from appliance.identity.sessions import Sessions
from appliance.identity.sign_in import SignIn
from appliance.identity.tokens import WorkspaceTokens
from appliance.identity.users import Users
from appliance.services.manager import Services
from appliance.settings import Settings
from webui.assets import Assets
from webui.i18n import Catalogue
from webui.relay import Relay
from webui.streams import Streams

SETTINGS = web.AppKey("settings", Settings)
CLOCK = web.AppKey("clock", Clock)
USERS = web.AppKey("users", Users)
SESSIONS = web.AppKey("sessions", Sessions)
SIGN_IN = web.AppKey("sign_in", SignIn)
LINKS = web.AppKey("links", Links)
TOKENS = web.AppKey("tokens", WorkspaceTokens)
AUDIT = web.AppKey("audit", AuditLog)
EVENTS = web.AppKey("events", EventBus)
SERVICES = web.AppKey("services", Services)
CATALOGUE = web.AppKey("catalogue", Catalogue)
ASSETS = web.AppKey("assets", Assets)
RELAY = web.AppKey("relay", Relay)
STREAMS = web.AppKey("streams", Streams)
MACHINE: web.AppKey[Callable[[], dict[str, Any]]] = web.AppKey("machine")
ANCHOR: web.AppKey[Callable[[], tuple[int, bytes] | None]] = web.AppKey("anchor")
OPENAPI: web.AppKey[dict[str, Any]] = web.AppKey("openapi")
# Called with (page name, path, Accept-Language), gives a whole page: webui.ide_gate.IdePages.
IDE_PAGES: web.AppKey[Any] = web.AppKey("ide_pages")
