"""The editor's windows for pages and programs of people: what is open there, and the few things that can be done in it.

Rule: everything goes to a window of the person who asks, or to one of nobody in particular; for operators and admins, whose shell
the editor is anyway (DECIDED 18).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from appliance.assistant.editor import Editors, diff_json
from appliance.assistant.editor_words import Kind
from appliance.errors import NotFound
from webui import keys, views
from webui.answers import answer
from webui.forms import read_json
from webui.guard import principal_of

WindowId = Annotated[str, Meta(max_length=64)]
Line = Annotated[int, Meta(ge=1, le=10_000_000)]


class Context(Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/editor/context``."""

    kinds: Annotated[list[Kind], Meta(min_length=1, max_length=4)]
    window: WindowId = ""


class Insert(Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/editor/insert``."""

    text: Annotated[str, Meta(min_length=1, max_length=256 * 1024)]
    window: WindowId = ""


class Proposal(Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/editor/diff``: what the file at ``path`` would be."""

    path: Annotated[str, Meta(max_length=4096)]
    text: Annotated[str, Meta(max_length=512 * 1024)]
    window: WindowId = ""


class Open(Struct, forbid_unknown_fields=True):
    """Body of ``POST /api/editor/open``. Lines and columns count from 1."""

    path: Annotated[str, Meta(max_length=4096)]
    line: Line = 1
    column: Line = 1
    window: WindowId = ""


async def state(request: web.Request) -> web.Response:
    """Windows with what is in front of each, what was asked there, and proposals."""
    who = principal_of(request)
    return answer({"editor": views.editor_json(request.app[keys.EDITORS].made, who.actor, who.role)})


async def context(request: web.Request) -> web.Response:
    """Texts of what is open, as chips to be sent along with a question."""
    asked, (editors, person) = await read_json(request, Context), await _asking(request)
    return answer({"chips": await editors.context(person, asked.kinds, asked.window)})


async def insert(request: web.Request) -> web.Response:
    """Put a text at the cursor."""
    asked, (editors, person) = await read_json(request, Insert), await _asking(request)
    return answer({"inserted": msgspec.to_builtins(await editors.insert(person, asked.text, asked.window))})


async def diff(request: web.Request) -> web.Response:
    """Show what a file would become, to be accepted or rejected there."""
    asked, (editors, person) = await read_json(request, Proposal), await _asking(request)
    made = await editors.diff(person, asked.path, asked.text, asked.window)
    return answer({"diff": diff_json(made)}, 201)


async def decide(request: web.Request) -> web.Response:
    """Accept or reject what is shown."""
    action = request.match_info["action"]
    if action not in ("accept", "reject"):
        raise NotFound("there is no such action", hint="There are accept and reject.")
    editors, person = await _asking(request)
    return answer({"diff": diff_json(await editors.decide(person, request.match_info["id"], action == "accept"))})


async def open_file(request: web.Request) -> web.Response:
    """Show a file of the workspace at a line."""
    asked, (editors, person) = await read_json(request, Open), await _asking(request)
    opened = await editors.open(person, asked.path, asked.line, asked.column, asked.window)
    return answer({"opened": {"path": asked.path, "line": opened.line}})


async def _asking(request: web.Request) -> tuple[Editors, str]:
    return await request.app[keys.EDITORS].get(), principal_of(request).actor
