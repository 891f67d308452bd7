"""From a template and its variables to a response, with what every page needs: language, theme, person, top line."""

from __future__ import annotations

from typing import Any, cast

import aiohttp_jinja2
from aiohttp import web

from appliance.identity.users import Role
from appliance.messages import Message
from appliance.services.model import SERVICES
from webui import filters, keys, views
from webui.guard import PRINCIPAL, Principal
from webui.palette import SERVICE_ACTIONS

THEME_COOKIE = "__Host-croft-theme"


def page(
    request: web.Request, template: str, *, status: int = 200, notice: Message | None = None, **variables: Any
) -> web.Response:
    """Render ``template`` with the common variables (listed in webui.filters) and its own."""
    variables = {**_common(request, notice), **variables}
    templates = cast(Any, keys.TEMPLATES)  # not an environment, but does what is asked of one here
    response = aiohttp_jinja2.render_template(template, request, variables, status=status, app_key=templates)
    response.headers["Cache-Control"] = "no-store"
    return response


def _common(request: web.Request, notice: Message | None) -> dict[str, Any]:
    principal, settings = request.get(PRINCIPAL), request.app[keys.SETTINGS]
    services = request.app[keys.SERVICES]
    return {
        "t": views.translator(request),
        "user": _user(principal),
        "page": "",
        "tab": "",
        "host": settings.host,
        "origin_ide": settings.ide_origin,
        "now": request.app[keys.CLOCK].now(),
        "theme": _theme(request, principal),
        "path": request.path,
        "state": filters.summary(services.views(), services.problems()) if principal else None,
        "notice": notice or _told(request),
        "can_mail": request.app[keys.MAILER].on,
        "undecided": _undecided(request, principal),
    }


def _undecided(request: web.Request, principal: Principal | None) -> int | None:
    """How many commands wait for a decision; None for who may not decide."""
    return request.app[keys.COMMANDS].approvals.pending if principal and principal.role >= Role.operator else None


def _told(request: web.Request) -> Message | None:
    """What a plain form has just done to a service (webui.handlers.machine.service_form)."""
    service, _, action = request.query.get("did", "").partition(".")
    known = service in SERVICES and action in SERVICE_ACTIONS
    return Message(f"service.{service}.done_{action}") if known else None


def _user(principal: Principal | None) -> dict[str, str] | None:
    if principal is None or principal.user is None:
        return None
    return {"name": principal.user.name, "email": principal.user.email, "role": principal.user.role.name}


def _theme(request: web.Request, principal: Principal | None) -> str:
    chosen = principal.user.theme if principal and principal.user else request.cookies.get(THEME_COOKIE, "")
    return chosen if chosen in filters.THEMES else request.app[keys.DESK].current.theme
