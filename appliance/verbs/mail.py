"""The mail account. Rule: its password comes by standard input, never as an argument, which others on the machine could read."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from appliance.errors import Invalid
from appliance.settings import Settings
from appliance.verbs.base import Verbs, done

if TYPE_CHECKING:
    from appliance.control import Control


def register(verbs: Verbs) -> None:
    """Add the verbs of this page to the command."""
    group = verbs.group("mail", "sign-in mail and invitations by mail")
    secret = group.add(
        "password", password, done("Kept. The next mail uses it."), "set the mail account's password (standard input)"
    )
    test = group.add("test", test_mail, show_test, "send a test mail")
    test.add_argument("email", metavar="ADDRESS")
    for verb in (secret, test):
        verb.set_defaults(here=True)  # the console's alone


def password(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    """Read the password, asking for it at a terminal, and hand it to the daemon."""
    if sys.stdin.isatty():
        from getpass import getpass

        text = getpass("Password of the mail account: ")
    else:
        text = sys.stdin.read(4096)
    if not text.strip("\r\n"):
        raise Invalid("no password was given", hint="Type it when asked, or pipe it to `croft mail password`.")
    return control.call("PUT", "/api/mail/password", {"password": text.strip("\r\n")})


def test_mail(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    return control.call("POST", "/api/mail/test", {"email": args.email})


def show_test(result: dict[str, Any]) -> None:
    print(f"The mail server {result['server']} took the test mail. Look into the mailbox, and among unwanted mail too.")
