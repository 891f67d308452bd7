"""Every address Croft answers on, in one table: path, handler, who may. The guard enforces it, OpenAPI is made from it, a
test walks it."""

from __future__ import annotations

from typing import Any

from appliance import __version__
from appliance.identity.users import Role
from webui import ide
from webui.guard import Route
from webui.handlers import audit, home, live, machine, people, preferences, sessions, sign_in, system, workspace

VIEWER, OPERATOR, ADMIN = Role.viewer, Role.operator, Role.admin

# One row, one line, so that the table can be read and compared.
# fmt: off
UI: tuple[Route, ...] = (
    Route("GET", "/healthz", system.healthz, None, "The daemon answers"),
    Route("GET", "/readyz", system.readyz, None, "The daemon can do its work"),
    Route("GET", "/static/{version}/{name:.+}", system.static, None, "Style, scripts and icons"),
    Route("GET", "/favicon.ico", system.favicon, None, "Icon"),
    Route("GET", "/sign-in", sign_in.sign_in, None, "How to sign in"),
    Route("GET", "/sign-in/link", sign_in.link, None, "Where a sign-in link leads"),
    Route("POST", "/sign-in/link", sign_in.use_link, None, "Use a sign-in link", form=True),
    Route("POST", "/sign-out", sign_in.sign_out, VIEWER, "End this session", form=True),
    Route("POST", "/preferences", preferences.preferences, None, "Language and theme", form=True),
    Route("GET", "/", home.home, VIEWER, "Dashboard"),
    Route("GET", "/workspace", workspace.workspace, OPERATOR, "The IDE"),
    Route("GET", "/machine", machine.machine, VIEWER, "Services"),
    Route("POST", "/machine/services/{name}/{action}", machine.service_form, OPERATOR, "Act on a service", form=True),
    # Before the page: the router takes the first that fits, and {name} fits "ide.txt".
    Route("GET", "/machine/logs/{name}.txt", machine.download_logs, OPERATOR, "Log of a service as a file"),
    Route("GET", "/machine/logs/{name}", machine.logs, OPERATOR, "Log of a service"),
    Route("GET", "/sessions", sessions.sessions, VIEWER, "Sessions"),
    Route("POST", "/sessions/{id}/end", sessions.end_session_form, VIEWER, "End a session", form=True),
    Route("POST", "/sessions/end-others", sessions.end_other_sessions, VIEWER, "End all other sessions", form=True),
    Route("GET", "/api/openapi.json", system.openapi, VIEWER, "This API"),
    Route("GET", "/api/status", system.status, VIEWER, "State of the appliance"),
    Route("GET", "/api/events", live.events, VIEWER, "Live events (SSE)", slides=False),
    Route("GET", "/api/services", machine.list_services, VIEWER, "Services and problems"),
    Route("POST", "/api/services/{name}/{action}", machine.act_on_service, OPERATOR, "Start, stop or restart a service"),
    Route("GET", "/api/services/{name}/logs", machine.service_logs, OPERATOR, "Last lines of a service"),
    Route("GET", "/api/services/{name}/logs/stream", machine.follow_logs, OPERATOR, "New lines of a service (SSE)", slides=False),
    Route("GET", "/api/sessions", sessions.list_sessions, VIEWER, "Sessions"),
    Route("DELETE", "/api/sessions/{id}", sessions.end_session, VIEWER, "End a session"),
    Route("POST", "/api/links", sign_in.create_link, ADMIN, "Make a sign-in link", host="console"),
    Route("GET", "/api/users", people.list_users, ADMIN, "People"),
    Route("POST", "/api/users", people.add_user, ADMIN, "Add a person", fresh=True),
    Route("PATCH", "/api/users/{id}", people.change_user, ADMIN, "Change a person's role or state", fresh=True),
    Route("DELETE", "/api/users/{id}", people.remove_user, ADMIN, "Remove a person", fresh=True),
    Route("GET", "/api/audit", audit.audit_records, ADMIN, "Audit log"),
    Route("GET", "/api/audit/verify", audit.audit_verify, ADMIN, "Check the audit chain"),
)

IDE: tuple[Route, ...] = (
    Route("POST", "/__croft/enter", ide.enter, None, "Enter the IDE host", form=True, host="ide"),
    Route("GET", "/__croft/wake", ide.wake, None, "Progress page while the IDE starts", host="ide"),
    Route("GET", "/__croft/state", ide.state, None, "Progress of the start", host="ide"),
    Route("*", "/{rest}", ide.anything_else, None, "WebSockets of the IDE", host="ide"),
)
# fmt: on


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of the JSON routes."""
    paths: dict[str, Any] = {}
    for route in UI:
        if not route.path.startswith("/api/") and route.path not in ("/healthz", "/readyz"):
            continue
        names = [part.strip("{}") for part in route.path.split("/") if part.startswith("{")]
        paths.setdefault(route.path, {})[route.method.lower()] = {
            "summary": route.summary,
            "x-role": route.role.name if route.role else "anyone",
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ],
            "responses": {
                "default": {
                    "description": "A JSON answer, or an error",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                }
            },
        }
    error = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message", "hint"],
                "properties": {name: {"type": "string"} for name in ("code", "message", "hint")},
            }
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Croft", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Error": error}},
    }
