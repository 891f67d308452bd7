"""What every verb is made of: registering it, and showing text in a terminal.

Rule: what came from elsewhere is shown through :func:`visible`, so that it cannot drive the terminal (WEB-15).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from appliance.settings import Settings

if TYPE_CHECKING:
    from appliance.control import Control

Verb = Callable[[argparse.Namespace, Settings, "Control"], Any]
Show = Callable[[Any], None]


class Verbs:
    """Where verbs are added: the command itself, or a group such as ``croft users``."""

    def __init__(self, where: Any, common: argparse.ArgumentParser) -> None:
        self._where, self._common = where, common

    def add(self, name: str, verb: Verb, show: Show, text: str) -> argparse.ArgumentParser:
        """A verb: ``verb`` fetches or does, ``show`` prints what it gave for people (``--json`` prints it as it is)."""
        made: argparse.ArgumentParser = self._where.add_parser(
            name, parents=[self._common], help=text, description=text
        )
        made.set_defaults(verb=verb, show=show)
        return made

    def group(self, name: str, text: str) -> Verbs:
        """A group of verbs under one word."""
        parser = self._where.add_parser(name, help=text, description=text)
        return Verbs(parser.add_subparsers(dest="action", required=True, metavar="ACTION"), self._common)


def visible(text: str) -> str:
    """``text`` with control characters shown, so that a log cannot drive the terminal (WEB-15)."""
    return "".join(char if char.isprintable() or char == "\t" else f"\\x{ord(char):02x}" for char in text)


def shown(value: Any) -> Any:
    """``value`` with every text in it made :func:`visible`: a daemon that was taken over must not drive root's terminal."""
    if isinstance(value, str):
        return "\n".join(map(visible, value.split("\n")))
    if isinstance(value, dict):
        return {shown(name): shown(one) for name, one in value.items()}
    return [shown(one) for one in value] if isinstance(value, list) else value


def as_json(value: Any, indent: int | None = None) -> str:
    """``value`` in ASCII alone: no name or log line in it drives a terminal (WEB-15), and every locale can print it."""
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def done(text: str) -> Callable[[Any], None]:
    return lambda result: print(text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        print("None.")
        return
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB" if count else "-"


def when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
