"""API tokens."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from appliance.settings import Settings
from appliance.verbs.base import Verbs, done, table, when

if TYPE_CHECKING:
    from appliance.control import Control


def register(verbs: Verbs) -> None:
    """Add the verbs of this page to the command."""
    group = verbs.group("tokens", "tokens by which programs act for people")
    group.add("list", lambda a, s, c: c.call("GET", "/api/tokens"), show_tokens, "list tokens")
    new = group.add("create", tokens_create, show_new, "make a token and print it, this once")
    new.add_argument("name", help="what it is for")
    new.add_argument("--scope", action="append", required=True, help="what it may do; may be given several times")
    new.add_argument("--days", type=int, default=30, help="how long it lasts, at most 365 (30)")
    new.add_argument("--note", default="")
    new.add_argument("--role", choices=("viewer", "operator", "admin"), default="", help="the most it acts as")
    new.add_argument("--for", dest="email", default="", metavar="EMAIL", help="whose it is; the owner's when left out")
    gone = group.add("revoke", tokens_revoke, done("Revoked."), "revoke a token at once")
    gone.add_argument("id")


def tokens_create(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    wanted = {name: getattr(args, name) for name in ("name", "days", "note", "role", "email")}
    return control.call("POST", "/api/tokens", {**wanted, "scopes": args.scope})


def tokens_revoke(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    return control.call("DELETE", f"/api/tokens/{quote(args.id, safe='')}")


def show_new(result: dict[str, Any]) -> None:
    token = result["token"]
    print(
        f"A token for {token['user']}, until {when(token['expires_at'])}. It is shown this once:\n\n  {result['text']}\n"
    )


def show_tokens(result: dict[str, Any]) -> None:
    table(
        ("ID", "WHO", "NAME", "SCOPES", "LAST USED", "ENDS"),
        [
            (
                row["id"],
                row["user"],
                row["name"],
                " ".join(row["scopes"]),
                when(row["used_at"]) if row["used_at"] else "never",
                when(row["expires_at"]) if row["state"] in ("active", "soon") else row["state"],
            )
            for row in result["tokens"]
        ],
    )
