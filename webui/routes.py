"""Every address Croft answers on, in one table: path, handler, who may. The guard enforces it, OpenAPI is made from it, a
test walks it."""

from __future__ import annotations

from typing import Any

from appliance import __version__
from appliance.identity.users import Role
from webui import ide
from webui.areas import Area
from webui.guard import ANY_SCOPE, Route

# Pages of webui/handlers/, each imported with the first request to it.
account = Area("account")
answers = Area("answers")
approvals = Area("approvals")
assistant = Area("assistant")
audit = Area("audit")
commands = Area("commands")
connect = Area("connect")
conversations = Area("conversations")
engine = Area("engine")
editor = Area("editor")
health = Area("health")
home = Area("home")
invitations = Area("invitations")
jobs = Area("jobs")
live = Area("live")
machine = Area("machine")
mail = Area("mail")
mailed = Area("mailed")
models = Area("models")
passkeys = Area("passkeys")
people = Area("people")
policy = Area("policy")
policy_pages = Area("policy_pages")
preferences = Area("preferences")
privacy = Area("privacy")
recovery = Area("recovery")
rehearsals = Area("rehearsals")
run_pages = Area("run_pages")
runbooks = Area("runbooks")
sessions = Area("sessions")
settings = Area("settings")
sign_in = Area("sign_in")
step_up = Area("step_up")
system = Area("system")
telemetry = Area("telemetry")
tokens = Area("tokens")
tools = Area("tools")
v1 = Area("v1")
welcome = Area("welcome")
workspace = Area("workspace")

# The largest request to /v1: a whole context, or some pictures.
V1_MAX = 4 << 20

VIEWER, OPERATOR, ADMIN = Role.viewer, Role.operator, Role.admin

# One row, one line, so that the table can be read and compared.
# fmt: off
UI: tuple[Route, ...] = (
    Route("GET", "/healthz", health.healthz, None, "The daemon answers"),
    Route("GET", "/readyz", health.readyz, None, "The daemon can do its work"),
    Route("GET", "/static/{version}/{name:.+}", system.static, None, "Style, scripts and icons"),
    Route("GET", "/favicon.ico", system.favicon, None, "Icon"),
    Route("GET", "/manifest.webmanifest", system.manifest, None, "What installing on a phone or desktop needs"),
    Route("GET", "/sign-in", sign_in.sign_in, None, "How to sign in"),
    Route("GET", "/sign-in/link", sign_in.link, None, "Where a sign-in link leads"),
    Route("POST", "/sign-in/link", sign_in.use_link, None, "Use a sign-in link", form=True),
    Route("GET", "/sign-in/recovery", recovery.sign_in, None, "Where a recovery code is typed"),
    Route("POST", "/sign-in/recovery", recovery.use, None, "Sign in with a recovery code", form=True),
    Route("POST", "/step-up", step_up.by_form, VIEWER, "Prove again who one is, and go on", form=True),
    Route("POST", "/sign-in/mail", mailed.ask, None, "Ask for a sign-in mail", form=True),
    Route("GET", "/sign-in/code", mailed.code, None, "Where a mailed code is typed"),
    Route("POST", "/sign-in/code", mailed.use_code, None, "Sign in with a mailed code", form=True),
    Route("GET", "/sign-in/mailed", mailed.link, None, "Where a mailed link leads"),
    Route("POST", "/sign-in/mailed", mailed.use_link, None, "Sign in with a mailed link", form=True),
    Route("GET", "/invitation", invitations.invitation, None, "Where an invitation leads"),
    Route("POST", "/invitation", invitations.accept, None, "Accept an invitation", form=True),
    Route("POST", "/sign-out", sign_in.sign_out, VIEWER, "End this session", form=True),
    Route("POST", "/preferences", preferences.preferences, None, "Language and theme", form=True),
    Route("GET", "/", home.home, VIEWER, "Dashboard"),
    Route("GET", "/workspace", workspace.workspace, OPERATOR, "The IDE"),
    Route("GET", "/assistant", assistant.assistant, VIEWER, "Conversations with the assistant"),
    Route("POST", "/assistant", assistant.ask_form, VIEWER, "Ask the assistant, in a new conversation", form=True),
    Route("GET", "/assistant/{id}", assistant.conversation, VIEWER, "One conversation"),
    Route("GET", "/assistant/{id}/export", conversations.export, VIEWER, "A conversation as a file", fresh=True),
    Route("POST", "/assistant/{id}", assistant.ask_more_form, VIEWER, "Ask on in a conversation, from the page", form=True),
    Route("GET", "/machine", machine.machine, VIEWER, "Services"),
    Route("POST", "/machine/services/{name}/{action}", machine.service_form, OPERATOR, "Act on a service", form=True),
    Route("GET", "/machine/tools", tools.tools, OPERATOR, "Toolchains of the workspace"),
    Route("POST", "/machine/tools/{name}/{series}/{action}", tools.tool_form, OPERATOR, "Install or remove a toolchain", form=True),
    Route("POST", "/machine/packages", tools.packages_form, ADMIN, "Packages of the workspace's image", form=True, fresh=True),
    Route("GET", "/machine/models", models.models, VIEWER, "Language models"),
    Route("POST", "/machine/models", models.add_form, ADMIN, "Download a model from an address", form=True, fresh=True),
    Route("POST", "/machine/models/{name}/{action}", models.model_form, ADMIN, "Download, choose, try or delete a model", form=True),
    Route("GET", "/machine/jobs", jobs.jobs, VIEWER, "Long work under way"),
    Route("POST", "/machine/jobs/{id}/{action}", jobs.job_form, ADMIN, "Pause, resume or cancel a job", form=True),
    # Before the page: the router takes the first that fits, and {name} fits "ide.txt".
    Route("GET", "/machine/logs/{name}.txt", machine.download_logs, OPERATOR, "Log of a service as a file"),
    Route("GET", "/machine/logs/{name}", machine.logs, OPERATOR, "Log of a service"),
    Route("GET", "/sessions", sessions.sessions, VIEWER, "Sessions"),
    Route("POST", "/sessions/{id}/end", sessions.end_session_form, VIEWER, "End a session", form=True),
    Route("POST", "/sessions/end-others", sessions.end_other_sessions, VIEWER, "End all other sessions", form=True),
    Route("GET", "/account", account.account, VIEWER, "One's own account"),
    Route("GET", "/account/start", account.start, VIEWER, "The end of set-up"),
    Route("POST", "/account/name", account.rename, VIEWER, "Change one's own name", form=True),
    Route("POST", "/account/passkeys/{id}/name", account.rename_passkey, VIEWER, "Rename a passkey", form=True),
    Route("POST", "/account/passkeys/{id}/remove", account.remove_passkey, VIEWER, "Remove a passkey", form=True, fresh=True),
    Route("POST", "/account/recovery-codes", recovery.make, VIEWER, "Make ten recovery codes and show them", form=True, fresh=True),
    Route("POST", "/account/devices/{id}/forget", account.forget_form, VIEWER, "Forget a known device", form=True),
    Route("GET", "/account/tokens", tokens.own_tokens, VIEWER, "One's own API tokens"),
    Route("GET", "/account/tokens/new", tokens.new_token, VIEWER, "Form for a new API token", fresh=True),
    Route("POST", "/account/tokens", tokens.create_token_form, VIEWER, "Make an API token and show it", form=True, fresh=True),
    Route("POST", "/account/tokens/{id}/revoke", tokens.revoke_form, VIEWER, "Revoke an API token", form=True),
    Route("GET", "/people", people.people, ADMIN, "Members"),
    Route("GET", "/people/invitations", invitations.invitations, ADMIN, "Invitations"),
    Route("POST", "/people/invitations", invitations.invite_form, ADMIN, "Invite somebody", form=True, fresh=True),
    Route("POST", "/people/invitations/{id}/renew", invitations.renew_form, ADMIN, "A new link for an invitation", form=True, fresh=True),
    Route("POST", "/people/invitations/{id}/revoke", invitations.revoke_form, ADMIN, "Withdraw an invitation", form=True),
    Route("GET", "/people/tokens", tokens.all_tokens, ADMIN, "Everyone's API tokens"),
    Route("POST", "/people/tokens/{id}/revoke", tokens.revoke_form, ADMIN, "Revoke anybody's API token", form=True),
    Route("GET", "/account/data", privacy.own_data, VIEWER, "All of one's own data as a file", fresh=True),
    Route("GET", "/connect", connect.question, VIEWER, "What a program on this computer asks for", fresh=True),
    Route("POST", "/connect", connect.decide, VIEWER, "Let it in or turn it away", form=True, fresh=True),
    Route("GET", "/connect/code", connect.code_page, VIEWER, "Where a program's short code is typed", fresh=True),
    Route("POST", "/connect/code", connect.look_up_code, VIEWER, "What the program with this code asks for", form=True, fresh=True),
    Route("POST", "/connect/code/answer", connect.decide_code, VIEWER, "Let it in or turn it away", form=True, fresh=True),
    Route("GET", "/connect/done", connect.done, VIEWER, "The end of signing in from another program"),
    Route("GET", "/ca.pem", connect.authority, None, "Certificate of this appliance's own authority"),
    # After the other pages of people: the router takes the first that fits.
    Route("GET", "/people/{id}", people.person, ADMIN, "One member"),
    Route("POST", "/people/{id}/role", people.role_form, ADMIN, "Change a member's role", form=True, fresh=True),
    Route("POST", "/people/{id}/suspend", people.suspend_form, ADMIN, "Suspend a member", form=True, fresh=True),
    Route("POST", "/people/{id}/resume", people.resume_form, ADMIN, "Let a suspended member in again", form=True, fresh=True),
    Route("POST", "/people/{id}/remove", people.remove_form, ADMIN, "Remove a member", form=True, fresh=True),
    Route("GET", "/commands", run_pages.commands, VIEWER, "Where commands are typed, and what ran before"),
    Route("POST", "/commands", run_pages.propose_form, VIEWER, "Ask for a command from the page", form=True),
    # Before a run's page: the router takes the first that fits.
    Route("GET", "/commands/approvals", approvals.approvals, VIEWER, "What waits for a decision, and leases"),
    Route("POST", "/commands/leases/{id}/revoke", approvals.revoke_form, OPERATOR, "End a lease from the page", form=True),
    Route("GET", "/commands/runbooks", runbooks.runbooks, VIEWER, "Saved commands"),
    Route("POST", "/commands/runbooks", runbooks.save_form, OPERATOR, "Keep a runbook from the page", form=True),
    Route("GET", "/commands/runbooks/new", runbooks.new, OPERATOR, "Form for a new runbook"),
    Route("GET", "/commands/runbooks/{name}", runbooks.runbook, VIEWER, "One runbook and its last runs"),
    Route("GET", "/commands/runbooks/{name}/edit", runbooks.edit, OPERATOR, "Form for changing a runbook"),
    Route("POST", "/commands/runbooks/{name}/run", runbooks.run_form, VIEWER, "Run a runbook from the page", form=True),
    Route("POST", "/commands/runbooks/{name}/remove", runbooks.remove_form, OPERATOR, "Remove a runbook from the page", form=True),
    Route("GET", "/commands/{id}", run_pages.run, VIEWER, "A run: what it wrote and how it ended"),
    Route("POST", "/commands/{id}/approve", approvals.approve_form, OPERATOR, "Let what was shown run, from the page", form=True),
    Route("POST", "/commands/{id}/deny", approvals.deny_form, OPERATOR, "Turn a proposal down from the page", form=True),
    Route("POST", "/commands/{id}/cancel", run_pages.cancel_form, VIEWER, "Withdraw a proposal or end a run from the page", form=True),
    Route("POST", "/commands/{id}/rerun", run_pages.rerun_form, VIEWER, "Ask for the same again from the page", form=True),
    Route("GET", "/policy", policy_pages.policy, VIEWER, "The policy: rules in words, a box to try a line"),
    Route("POST", "/policy", policy_pages.change_form, ADMIN, "Look at or save another policy from the page", form=True, fresh=True),
    Route("GET", "/welcome", welcome.welcome, ADMIN, "The first run, screen by screen"),
    Route("POST", "/welcome", welcome.go_on, ADMIN, "Go on with the first run", form=True),
    Route("POST", "/hints/{name}", welcome.dismiss, VIEWER, "Do not show a hint again", form=True),
    Route("GET", "/settings", settings.settings, ADMIN, "Settings"),
    Route("GET", "/settings/privacy", settings.privacy, ADMIN, "What may leave the machine"),
    Route("GET", "/audit", audit.audit, ADMIN, "The audit log as sentences"),
    Route("GET", "/audit/export", audit.export, ADMIN, "The audit log as a file", fresh=True),
    Route("POST", "/settings/restart", settings.restart, ADMIN, "Restart the daemon", form=True, fresh=True),
    Route("POST", "/settings/engine/key", settings.keep_key, ADMIN, "Keep the key of an endpoint elsewhere", form=True, fresh=True),
    Route("POST", "/settings/mail/test", settings.send_test, ADMIN, "Send oneself a test mail", form=True),
    Route("POST", "/settings/{group}", settings.change, ADMIN, "Change settings", form=True, fresh=True),
    Route("GET", "/api/openapi.json", system.openapi, VIEWER, "This API", scope="read"),
    Route("GET", "/api/status", system.status, VIEWER, "State of the appliance", scope="read"),
    Route("GET", "/api/events", live.events, VIEWER, "Live events (SSE)", slides=False, scope="read"),
    Route("GET", "/metrics", telemetry.metrics, VIEWER, "Figures of this moment (Prometheus)", scope="read"),
    Route("GET", "/api/telemetry", telemetry.telemetry, VIEWER, "Figures over time", scope="read"),
    Route("GET", "/api/charts", telemetry.chart_data, VIEWER, "Charts as the pages draw them", scope="read"),
    Route("GET", "/api/assistant", engine.state, VIEWER, "Who answers the assistant's questions", scope="read"),
    Route("GET", "/api/services", machine.list_services, VIEWER, "Services and problems", scope="read"),
    Route("POST", "/api/services/{name}/{action}", machine.act_on_service, OPERATOR, "Start, stop, restart or update a service", scope="services"),
    Route("GET", "/api/tools", tools.list_tools, OPERATOR, "Toolchains, and what is under way", scope="services"),
    Route("POST", "/api/tools/{name}/{series}/{action}", tools.act_on_tool, OPERATOR, "Add or remove a toolchain", scope="services"),
    Route("GET", "/api/packages", tools.list_packages, ADMIN, "Packages of the workspace's image"),
    Route("PUT", "/api/packages", tools.set_packages, ADMIN, "Choose the packages of the workspace's image", fresh=True),
    Route("GET", "/api/services/{name}/logs", machine.service_logs, OPERATOR, "Last lines of a service", scope="services"),
    Route("GET", "/api/services/{name}/logs/stream", machine.follow_logs, OPERATOR, "New lines of a service (SSE)", slides=False, scope="services"),
    Route("GET", "/api/models", models.list_models, VIEWER, "Language models: offered, here, in use", scope="read"),
    Route("POST", "/api/models", models.add_model, ADMIN, "Download a model from an address", fresh=True),
    Route("POST", "/api/models/{name}/{action}", models.act_on_model, ADMIN, "Download, choose, try or delete a model"),
    Route("GET", "/api/jobs", jobs.list_jobs, VIEWER, "Long work under way and the last that ended", scope="read"),
    Route("GET", "/api/jobs/{id}", jobs.get_job, VIEWER, "One job", scope="read"),
    Route("POST", "/api/jobs/{id}/{action}", jobs.act_on_job, ADMIN, "Pause, resume or cancel a job"),
    Route("GET", "/api/sessions", sessions.list_sessions, VIEWER, "Sessions", scope="people"),
    Route("DELETE", "/api/sessions/{id}", sessions.end_session, VIEWER, "End a session", scope="people"),
    Route("GET", "/api/me", tokens.me, VIEWER, "Who the caller is", scope=ANY_SCOPE),
    Route("GET", "/api/tokens", tokens.list_tokens, VIEWER, "API tokens", scope="people"),
    Route("POST", "/api/tokens", tokens.create_token, VIEWER, "Make an API token", fresh=True),
    Route("DELETE", "/api/tokens/current", tokens.revoke_current, VIEWER, "Revoke the token the request came with", scope=ANY_SCOPE),
    Route("DELETE", "/api/tokens/{id}", tokens.revoke_token, VIEWER, "Revoke an API token", scope="people"),
    Route("POST", "/api/workspace-token", tokens.workspace_token, OPERATOR, "An access token for the IDE host", scope="workspace"),
    Route("POST", "/api/connect", connect.ask, None, "A program without a browser asks to be let in", program=True),
    Route("POST", "/api/connect/token", connect.collect, None, "A program collects its token", program=True),
    Route("POST", "/api/sign-in/passkey/options", passkeys.sign_in_options, None, "What a browser needs to offer passkeys"),
    Route("POST", "/api/sign-in/passkey", passkeys.sign_in, None, "Sign in with a passkey"),
    Route("GET", "/api/passkeys", passkeys.list_passkeys, VIEWER, "One's own passkeys"),
    Route("POST", "/api/passkeys/options", passkeys.new_options, VIEWER, "What a browser needs to make a passkey", fresh=True),
    Route("POST", "/api/passkeys", passkeys.add, VIEWER, "Keep a new passkey", fresh=True),
    Route("PATCH", "/api/passkeys/{id}", passkeys.rename, VIEWER, "Rename a passkey"),
    Route("DELETE", "/api/passkeys/{id}", passkeys.remove, VIEWER, "Remove a passkey", fresh=True),
    Route("DELETE", "/api/devices/{id}", account.forget, VIEWER, "Forget a known device"),
    Route("POST", "/api/step-up/options", step_up.options, VIEWER, "What a browser needs to prove it by passkey"),
    Route("POST", "/api/step-up/passkey", step_up.by_passkey, VIEWER, "Prove again who one is by passkey"),
    Route("POST", "/api/step-up/code", step_up.by_code, VIEWER, "The same by mailed code, recovery code or login link"),
    Route("POST", "/api/step-up/mail", step_up.mail, VIEWER, "Have a code mailed to prove it by"),
    Route("POST", "/api/links", sign_in.create_link, ADMIN, "Make a sign-in link", host="console"),
    Route("GET", "/api/users", people.list_users, ADMIN, "People", scope="people"),
    Route("POST", "/api/users", people.add_user, ADMIN, "Add a person", fresh=True),
    Route("PATCH", "/api/users/{id}", people.change_user, ADMIN, "Change a person's role or state", fresh=True),
    Route("DELETE", "/api/users/{id}", people.remove_user, ADMIN, "Remove a person", fresh=True),
    Route("GET", "/api/invitations", invitations.list_invitations, ADMIN, "Invitations", scope="people"),
    Route("POST", "/api/invitations", invitations.create_invitation, ADMIN, "Invite somebody", fresh=True),
    Route("POST", "/api/invitations/{id}/renew", invitations.renew_invitation, ADMIN, "A new link for an invitation", fresh=True),
    Route("DELETE", "/api/invitations/{id}", invitations.revoke_invitation, ADMIN, "Withdraw an invitation"),
    Route("PUT", "/api/assistant/key", engine.set_key, ADMIN, "Keep the key of the endpoint that answers questions", host="console"),
    Route("PUT", "/api/mail/password", mail.set_password, ADMIN, "Set the password of the mail account", host="console"),
    Route("POST", "/api/mail/test", mail.send_test, ADMIN, "Send a test mail", host="console"),
    Route("POST", "/api/commands", commands.propose, VIEWER, "Ask for a command", scope="commands"),
    Route("GET", "/api/commands", commands.list_runs, VIEWER, "Runs, the newest first", scope="commands"),
    Route("GET", "/api/commands/suggest", run_pages.suggest, VIEWER, "What could stand next in a line", scope="commands"),
    Route("GET", "/api/commands/folders", run_pages.folders, OPERATOR, "Folders of the workspace, for choosing one", scope="commands"),
    Route("GET", "/api/commands/{id}", commands.get_run, VIEWER, "One run", scope="commands"),
    Route("GET", "/api/commands/{id}/stream", commands.stream, VIEWER, "What a run writes (SSE)", slides=False, scope="commands"),
    Route("GET", "/api/commands/{id}/output", commands.output, VIEWER, "What a run wrote, as a file", scope="commands"),
    Route("POST", "/api/commands/{id}/approve", commands.approve, OPERATOR, "Let what was shown run"),
    Route("POST", "/api/commands/{id}/deny", commands.deny, OPERATOR, "Turn a proposal down"),
    Route("POST", "/api/commands/{id}/cancel", commands.cancel, VIEWER, "Withdraw a proposal or end a run", scope="commands"),
    Route("GET", "/api/commands/{id}/changes", rehearsals.changes, OPERATOR, "What a rehearsal changed"),
    Route("GET", "/api/commands/{id}/changes/diff", rehearsals.diff, OPERATOR, "How one change of a rehearsal reads"),
    Route("POST", "/api/commands/{id}/apply", rehearsals.apply, OPERATOR, "Merge the changes of a rehearsal"),
    Route("POST", "/api/commands/{id}/undo", rehearsals.undo, OPERATOR, "Take back what a rehearsal changed"),
    Route("POST", "/api/commands/{id}/discard", rehearsals.discard, OPERATOR, "Let the changes of a rehearsal go"),
    Route("POST", "/api/commands/{id}/rerun", commands.rerun, VIEWER, "Ask for the same again", scope="commands"),
    Route("GET", "/api/approvals", commands.approvals, VIEWER, "Proposals that wait for a decision", scope="commands"),
    Route("GET", "/api/leases", commands.leases, OPERATOR, "What runs without asking for a while"),
    Route("DELETE", "/api/leases/{id}", commands.revoke_lease, OPERATOR, "End a lease"),
    Route("GET", "/api/runbooks", runbooks.list_runbooks, VIEWER, "Saved commands", scope="commands"),
    Route("GET", "/api/runbooks/{name}", runbooks.get_runbook, VIEWER, "One runbook and its last runs", scope="commands"),
    Route("PUT", "/api/runbooks/{name}", runbooks.put_runbook, OPERATOR, "Keep a runbook"),
    Route("DELETE", "/api/runbooks/{name}", runbooks.delete_runbook, OPERATOR, "Remove a runbook"),
    Route("POST", "/api/runbooks/{name}/run", runbooks.run_runbook, VIEWER, "Ask for a runbook's command", scope="commands"),
    Route("GET", "/api/editor", editor.state, OPERATOR, "The editor's windows and what is open there"),
    Route("POST", "/api/editor/context", editor.context, OPERATOR, "Texts of what is open in the editor"),
    Route("POST", "/api/editor/insert", editor.insert, OPERATOR, "Put a text at the editor's cursor"),
    Route("POST", "/api/editor/diff", editor.diff, OPERATOR, "Show in the editor what a file would become"),
    Route("POST", "/api/editor/diff/{id}/{action}", editor.decide, OPERATOR, "Accept or reject what the editor shows"),
    Route("POST", "/api/editor/open", editor.open_file, OPERATOR, "Open a file in the editor at a line"),
    Route("POST", "/api/conversations", conversations.create, VIEWER, "Begin a conversation with the assistant"),
    Route("GET", "/api/conversations", conversations.list_conversations, VIEWER, "One's own conversations; ?q= searches them"),
    Route("GET", "/api/conversations/{id}", conversations.get_conversation, VIEWER, "One conversation, rendered"),
    Route("PATCH", "/api/conversations/{id}", conversations.change, VIEWER, "Rename, pin or archive a conversation"),
    Route("DELETE", "/api/conversations/{id}", conversations.delete, VIEWER, "Delete a conversation for good"),
    Route("GET", "/api/conversations/{id}/export", conversations.export, VIEWER, "A conversation as Markdown or JSON", fresh=True),
    Route("POST", "/api/conversations/{id}/messages", answers.ask, VIEWER, "Ask the assistant; its answer begins"),
    Route("POST", "/api/conversations/{id}/messages/{message}/regenerate", answers.regenerate, VIEWER, "Another answer to the same question"),
    Route("POST", "/api/conversations/{id}/branch", answers.branch, VIEWER, "Read on at another version"),
    Route("POST", "/api/conversations/{id}/stop", answers.stop, VIEWER, "End the answer under way"),
    Route("GET", "/api/conversations/{id}/stream", answers.stream, VIEWER, "The answer as it comes (SSE)", slides=False),
    Route("POST", "/api/conversations/{id}/proposals", answers.save, OPERATOR, "Propose a block of an answer as a file"),
    Route("POST", "/api/conversations/{id}/commands", answers.run, OPERATOR, "Ask for a line of an answer as a command of the assistant"),
    Route("POST", "/api/conversations/{id}/proposals/{proposal}/accept", answers.accept, OPERATOR, "Write a proposed file as it was shown"),
    Route("POST", "/api/conversations/{id}/proposals/{proposal}/reject", answers.reject, OPERATOR, "Turn a proposed file down"),
    Route("POST", "/api/conversations/{id}/proposals/{proposal}/open", answers.open_in_editor, OPERATOR, "Show a proposed file in the editor"),
    Route("POST", "/api/assistant/estimate", answers.estimate, VIEWER, "What a question would cost in tokens and time"),
    Route("POST", "/api/commands/{id}/ask", answers.ask_about_run, OPERATOR, "Ask the assistant about a run"),
    Route("GET", "/api/policy", policy.get_policy, VIEWER, "The command policy"),
    Route("PUT", "/api/policy", policy.put_policy, ADMIN, "Change the command policy", fresh=True),
    Route("POST", "/api/policy/explain", policy.explain, VIEWER, "What would happen to a command, and why", scope="commands"),
    Route("POST", "/api/policy/preview", policy.preview, ADMIN, "What another policy would change"),
    Route("GET", "/v1/models", v1.models, VIEWER, "The model in use, for programs (OpenAI's interface)", slides=False, scope="ai", workspace=True),
    Route("GET", "/v1/models/{model:.+}", v1.model, VIEWER, "One name of it", slides=False, scope="ai", workspace=True),
    Route("POST", "/v1/chat/completions", v1.chat, VIEWER, "An answer of the model, whole or streamed", slides=False, scope="ai", workspace=True, cancels=True, body_max=V1_MAX),
    Route("POST", "/v1/embeddings", v1.embeddings, VIEWER, "Vectors of texts", slides=False, scope="ai", workspace=True, cancels=True, body_max=V1_MAX),
    Route("GET", "/api/audit", audit.audit_records, ADMIN, "Audit log", scope="audit"),
    Route("GET", "/api/audit/export", audit.export, ADMIN, "The audit log as CSV or JSON lines", fresh=True, scope="audit"),
    Route("GET", "/api/audit/verify", audit.audit_verify, ADMIN, "Check the audit chain", scope="audit"),
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
            "x-scope": route.scope or None,
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
