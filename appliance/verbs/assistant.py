"""The assistant from the console. Rule: a key comes by standard input, never as an argument, which others on the machine could read."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from appliance.settings import Settings
from appliance.verbs.base import Verbs, done

if TYPE_CHECKING:
    from appliance.control import Control


def register(verbs: Verbs) -> None:
    """Add the verbs of this page to the command."""
    group = verbs.group("assistant", "who answers the assistant's questions")
    secret = group.add(
        "key",
        keep_key,
        done("Done. The next question uses it."),
        "set the key of an endpoint elsewhere (standard input; an empty line forgets it)",
    )
    secret.set_defaults(here=True)  # the console's alone


def keep_key(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    """Read the key, asking for it at a terminal, and hand it to the daemon."""
    if sys.stdin.isatty():
        from getpass import getpass

        text = getpass("Key of the endpoint: ")
    else:
        text = sys.stdin.read(8192)
    return control.call("PUT", "/api/assistant/key", {"key": text.strip()})
