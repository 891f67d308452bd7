"""Conversations as people take them along: JSON with every branch, Markdown with the path that is being read.

Rule: nothing is left out of the JSON; in Markdown what a message left open is closed at its end, so that no message runs into the next.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from appliance.assistant.messages import Conversation, Message, Role

VERSION = 1

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^\n]*)")
# Where a block of HTML ends by itself only at the mark on the right (CommonMark 4.6, conditions 1 to 5).
_HTML = (
    (re.compile(r" {0,3}<(?:script|pre|style|textarea)\b", re.I), re.compile(r"</(?:script|pre|style|textarea)>", re.I), "</pre>"),
    (re.compile(r" {0,3}<!--"), re.compile(r"-->"), "-->"),
    (re.compile(r" {0,3}<\?"), re.compile(r"\?>"), "?>"),
    (re.compile(r" {0,3}<!\[CDATA\["), re.compile(r"\]\]>"), "]]>"),
    (re.compile(r" {0,3}<![A-Za-z]"), re.compile(r">"), ">"),
)  # fmt: skip


def head(conversation: Conversation) -> dict[str, Any]:
    """A conversation without its messages, as JSON values. Times are Unix seconds."""
    return {
        "id": conversation.id,
        "title": conversation.title,
        "pinned": conversation.pinned,
        "archived": conversation.archived,
        "created_at": conversation.created_at,
        "changed_at": conversation.changed_at,
    }


def as_data(conversation: Conversation, messages: Sequence[Message]) -> dict[str, Any]:
    """Everything kept of a conversation, as JSON values. ``messages``: all of them."""
    return {
        "version": VERSION,
        **head(conversation),
        "messages": [
            {
                "id": message.id,
                "parent": message.parent,
                "role": str(message.role),
                "text": message.text,
                "state": str(message.state),
                "created_at": message.created_at,
                "finished_at": message.finished_at,
                "model": message.model,
                "usage": dict(message.usage),
                "context": [dict(chip) for chip in message.context],
                "steps": [dict(step) for step in message.steps],
            }
            for message in messages
        ],
    }


def as_markdown(conversation: Conversation, path: Sequence[Message], names: dict[Role, str]) -> str:
    """The path as one document. ``names`` says who is who in the reader's language."""
    parts = [f"# {conversation.title}" if conversation.title else "#"]
    for message in path:
        said = f"{names[message.role]}{f' ({message.model})' if message.model else ''}"
        parts.append(f"## {said}\n\n*{_at(message.created_at)}*")
        parts += [_chip(chip) for chip in message.context]
        parts.append(closed(message.text.strip("\n")))
    return "\n\n".join(part for part in parts if part) + "\n"


def fenced(text: str, language: str = "") -> str:
    """``text`` as a block of code, whatever fences it holds itself."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def closed(text: str) -> str:
    """``text`` with what it leaves open closed: a fence of code, a comment or another block of HTML."""
    fence, html = "", None
    for line in text.splitlines():
        if fence:
            found = _FENCE.fullmatch(line)
            if found and found[1].startswith(fence) and not found[2].strip():
                fence = ""
        elif html:
            html = None if html[1].search(line) else html
        elif (found := _FENCE.fullmatch(line)) and not (found[1][0] == "`" and "`" in found[2]):
            fence = found[1]
        else:
            html = next(
                (kind for kind in _HTML if (at := kind[0].match(line)) and not kind[1].search(line, at.end())), None
            )
    if fence or html:
        return f"{text}\n{fence or (html[2] if html else '')}"
    return text


def _at(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


def _chip(chip: Any) -> str:
    text = str(chip.get("text") or "")
    path = " ".join(str(chip.get("path") or chip.get("kind") or "").split())
    return f"{_code(path)}\n\n{fenced(text)}" if text else _code(path)


def _code(text: str) -> str:
    """A span of code that holds any text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    tick = "`" * (longest + 1)
    return f"{tick} {text} {tick}" if longest else f"`{text}`" if text else ""
