"""From the domain's values to what scripts and programs read: finished sentences in the reader's language, plain JSON.

Rule: nothing leaves here that the page itself would not show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from appliance.assistant.engine import EngineState, EngineStatus
from appliance.identity.users import Role
from appliance.messages import Message
from appliance.services.manager import Services
from appliance.services.model import Problem, ServiceView
from webui import filters, keys, log_lines
from webui.guard import PRINCIPAL
from webui.i18n import LANGUAGES, Translator, preferred

if TYPE_CHECKING:
    from appliance.assistant.editor import Editors

LANGUAGE_COOKIE = "__Host-croft-language"


def translator(request: web.Request) -> Translator:
    """Words in the language of whoever asks: chosen, then the cookie, then the browser's, then the setting."""
    principal = request.get(PRINCIPAL)
    chosen = principal.user.language if principal and principal.user else ""
    language = chosen or request.cookies.get(LANGUAGE_COOKIE, "")
    if language not in LANGUAGES:
        language = preferred(request.headers.get("Accept-Language", ""), request.app[keys.DESK].current.language)
    return Translator(request.app[keys.CATALOGUE], language)


def service_json(view: ServiceView, t: Translator, role: Role = Role.viewer) -> dict[str, Any]:
    """One service; ``reason`` is a sentence, ``shown`` the state people are told. Logs are for operators."""
    return {
        "name": view.name,
        "state": str(view.state),
        "shown": filters.shown_state(view),
        "since": view.since,
        "health": str(view.health),
        "want": str(view.want),
        "reason": t.message(view.reason) if view.reason else None,
        "memory_bytes": view.memory_bytes,
        "memory_limit": view.memory_limit,
        "cpu_percent": view.cpu_percent,
        "parked": view.parked,
        "retry_at": view.retry_at,
        "safe": view.safe,
        "log_tail": [log_lines.clean(line) for line in view.log_tail] if role >= Role.operator else [],
        "progress": {"phase": view.progress.phase, "current": view.progress.current, "total": view.progress.total}
        if view.progress
        else None,
        "actions": list(view.actions),
    }


def problem_json(problem: Problem, t: Translator) -> dict[str, Any]:
    """A known problem with its three sentences."""
    sentences = {
        part: t.message(Message(f"problem.{problem.code}.{part}", problem.params)) for part in ("title", "why", "next")
    }
    return {"code": problem.code, "severity": problem.severity, "service": problem.service, **sentences}


def services_event(services: Services, t: Translator, role: Role = Role.viewer) -> dict[str, Any]:
    """What pages show of the services, whole: a reader that missed something is right again after the next one."""
    views, problems = services.views(), services.problems()
    return {
        "services": [service_json(view, t, role) for view in views],
        "problems": [problem_json(problem, t) for problem in problems],
        "summary": t.message(filters.summary(views, problems)),
    }


def wake_event(services: Services) -> dict[str, Any]:
    """How far the editor's start is: ``phase`` ends at ``ready`` or ``failed``."""
    if services.serves("ide"):
        return {"phase": "ready", "current": 0, "total": 0}
    view = services.view("ide")
    if view.parked or view.want == "stop":
        return {"phase": "failed", "current": 0, "total": 0}
    progress = view.progress
    return {
        "phase": progress.phase if progress else "starting",
        "current": progress.current if progress else 0,
        "total": progress.total if progress else 0,
    }


def engine_json(status: EngineStatus, t: Translator) -> dict[str, Any]:
    """Who answers the assistant's questions, and how it is; ``words`` is that in one sentence."""
    words = t(f"engine.state.{status.state}")
    if status.state is EngineState.STARTING:
        words = t(f"engine.phase.{status.progress.get('phase', 'engine')}")
    elif status.reason:
        words = t(f"engine.reason.{status.reason}")
    elif status.remote:
        words = t("engine.state.remote", host=status.host)
    return {
        "state": str(status.state),
        "reason": status.reason,
        "words": words,
        "remote": status.remote,
        "host": status.host,
        "model": status.model,
        "context": status.context,
        "holds": status.holds,
        "progress": dict(status.progress) or None,
    }


def editor_json(editors: Editors | None, person: str, role: Role) -> Mapping[str, Any]:
    """What this person may know of the editor's windows: see ``Editors.picture``; without a window nothing is there."""
    if editors is None or role < Role.operator:
        return {"windows": [], "asked": None, "diffs": []}
    return editors.picture(person)
