"""People, their sign-in links and their sessions."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from appliance.errors import NotFound
from appliance.settings import Settings
from appliance.verbs.base import Verb, Verbs, done, table, visible, when

if TYPE_CHECKING:
    from appliance.control import Control


def register(verbs: Verbs) -> None:
    """Add the verbs of this page to the command."""
    link = verbs.add("login-link", login_link, show_link, "print a one-time sign-in link")
    link.add_argument("email", nargs="?", default="", help="whose link; the owner's when left out")
    _users(verbs.group("users", "people who may sign in"))
    _sessions(verbs.group("sessions", "signed-in browsers"))


def _users(group: Verbs) -> None:
    group.add("list", lambda a, s, c: c.call("GET", "/api/users"), show_users, "list everyone")
    new = group.add("add", users_add, show_user, "add a person")
    new.add_argument("email")
    new.add_argument("--name", default="")
    new.add_argument("--role", choices=("viewer", "operator", "admin"), default="operator")
    invite = group.add("invite", users_invite, show_invitation, "invite a person by a link")
    invite.add_argument("email")
    invite.add_argument("--role", choices=("viewer", "operator", "admin"), default="viewer")
    invite.add_argument("--days", type=int, default=7, help="how long it lasts, 1 to 30")
    invite.add_argument("--note", default="", help="a few words for the person")
    invite.add_argument("--language", choices=("en", "ar"), default="", help="language of the mail")
    group.add("invitations", lambda a, s, c: c.call("GET", "/api/invitations"), show_invitations, "list invitations")
    back = group.add("uninvite", users_uninvite, done("Withdrawn."), "withdraw an open invitation")
    back.add_argument("email")
    role = group.add("role", users_role, show_user, "change a person's role")
    role.add_argument("email")
    role.add_argument("role", choices=("viewer", "operator", "admin"))
    for name, flag in (("suspend", True), ("resume", False)):
        verb = group.add(name, _users_suspend(flag), show_user, f"{name} a person")
        verb.add_argument("email")
    gone = group.add("remove", users_remove, done("Removed."), "remove a person and end their sessions")
    gone.add_argument("email")


def _sessions(group: Verbs) -> None:
    group.add("list", lambda a, s, c: c.call("GET", "/api/sessions"), show_sessions, "list live sessions")
    gone = group.add(
        "revoke",
        lambda a, s, c: c.call("DELETE", f"/api/sessions/{quote(a.id, safe='')}"),
        done("Ended."),
        "end a session",
    )
    gone.add_argument("id")


def login_link(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    from appliance import offline
    from appliance.control import NotRunning

    try:
        return control.call("POST", "/api/links", {"email": args.email})
    except NotRunning:
        offline.become_daemon_user(settings)
        return offline.login_link(settings, args.email)


def users_add(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    return control.call("POST", "/api/users", {"email": args.email, "name": args.name, "role": args.role})


def users_invite(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    wanted = {name: getattr(args, name) for name in ("email", "role", "days", "note", "language")}
    return control.call("POST", "/api/invitations", wanted)


def users_uninvite(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    email = args.email.casefold()
    listed = control.call("GET", "/api/invitations")["invitations"]
    still_open = [one["id"] for one in listed if one["email"].casefold() == email and one["state"] == "open"]
    if not still_open:
        raise NotFound(f"no invitation for {args.email} is open", hint="See `croft users invitations`.")
    for invitation in still_open:
        control.call("DELETE", f"/api/invitations/{quote(invitation, safe='')}")
    return {"withdrawn": still_open}


def users_role(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    return control.call("PATCH", _user_path(args.email), {"role": args.role})


def _users_suspend(suspended: bool) -> Verb:
    return lambda args, settings, control: control.call("PATCH", _user_path(args.email), {"suspended": suspended})


def users_remove(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    return control.call("DELETE", _user_path(args.email))


def _user_path(email: str) -> str:
    return f"/api/users/{quote(email, safe='@')}"


def show_link(result: dict[str, Any]) -> None:
    whose = f"for {result['email']}" if result["email"] else "that makes you the owner"
    print(f"One-time sign-in link {whose}, good for {round(result['seconds'] / 60)} minutes:\n\n  {result['url']}\n")
    _show_qr(result["url"])


def show_invitation(result: dict[str, Any]) -> None:
    made = result["invitation"]
    sent = "It was also mailed to that address." if result["mailed"] else "Mail is not set up: pass it on yourself."
    print(
        f"Invitation for {made['email']} as {made['role']}, good until {when(made['expires_at'])}:\n\n  {result['url']}\n"
    )
    print(sent)
    _show_qr(result["url"])


def show_invitations(result: dict[str, Any]) -> None:
    table(
        ("E-MAIL", "ROLE", "STATE", "UNTIL"),
        [(one["email"], one["role"], one["state"], when(one["expires_at"])) for one in result["invitations"]],
    )


def _show_qr(url: str) -> None:
    if not sys.stdout.isatty() and not os.environ.get("CROFT_QR"):
        return
    import segno

    segno.make(url, error="l").terminal(compact=True)


def show_users(result: dict[str, Any]) -> None:
    table(
        ("E-MAIL", "NAME", "ROLE", ""),
        [
            (user["email"], user["name"], user["role"], "suspended" if user["suspended"] else "")
            for user in result["users"]
        ],
    )


def show_user(result: dict[str, Any]) -> None:
    show_users({"users": [result["user"]]})


def show_sessions(result: dict[str, Any]) -> None:
    table(
        ("ID", "WHO", "ADDRESS", "LAST USED", "BROWSER"),
        [
            (row["id"], row["user"], row["address"], when(row["seen_at"]), visible(row["agent"])[:60])
            for row in result["sessions"]
        ],
    )
