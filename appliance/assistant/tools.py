"""What the model may call, and what becomes of a call: looking at files, proposing a write, proposing a command.

Rules: a call only looks or proposes (AI-1). Paths lie beneath the workspace and name no secret, links followed (AI-8). Whatever a model
sends as a call is answered with a result or with words that help it, never with a fault of ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_PATH = 1000
MOST_CONTENT = 200_000
MOST_COMMAND = 4000
MOST_WHY = 500


@dataclass(frozen=True)
class Parameter:
    """``kind`` is ``string`` or ``integer``; ``most`` characters, or the largest number."""

    kind: str
    text: str
    most: int
    needed: bool = True


@dataclass(frozen=True)
class Tool:
    """One row of the table."""

    name: str
    text: str
    parameters: Mapping[str, Parameter]


_PATH = Parameter("string", "Path relative to the workspace.", MOST_PATH)
_FOLDER = Parameter("string", "Folder relative to the workspace; leave out for the whole workspace.", MOST_PATH, False)
TOOLS: tuple[Tool, ...] = (
    Tool("list_files", "List a folder of the workspace.", {"path": _FOLDER}),
    Tool(
        "search_files",
        "Find a text in the files of the workspace.",
        {"text": Parameter("string", "The text to find, as it stands.", 200), "path": _FOLDER},
    ),
    Tool(
        "read_file",
        "Read a file of the workspace.",
        {"path": _PATH, "from_line": Parameter("integer", "First line to read, from 1.", 10_000_000, False)},
    ),
    Tool(
        "write_file",
        "Propose the whole new content of a file. The person sees the difference and decides.",
        {"path": _PATH, "content": Parameter("string", "The whole content.", MOST_CONTENT)},
    ),
    Tool(
        "propose_command",
        "Propose one command line for the workspace, without a shell. The policy or the person decides; you get its output.",
        {
            "command": Parameter("string", "The command line.", MOST_COMMAND),
            "why": Parameter("string", "Why, in one sentence for the person.", MOST_WHY, False),
        },
    ),
)
BY_NAME = {tool.name: tool for tool in TOOLS}


class Mistake(Exception):
    """A call that cannot be carried out, in words for the model."""


@dataclass(frozen=True)
class Call:
    """A call that was understood."""

    id: str
    tool: str
    arguments: Mapping[str, Any]


def described() -> list[dict[str, Any]]:
    """The tools as OpenAI's API takes them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.text,
                "parameters": {
                    "type": "object",
                    "properties": {
                        name: {"type": one.kind, "description": one.text} for name, one in tool.parameters.items()
                    },
                    "required": [name for name, one in tool.parameters.items() if one.needed],
                },
            },
        }
        for tool in TOOLS
    ]


def choice_schema() -> dict[str, Any]:
    """JSON of one action, flat, for models that were never taught to call tools."""
    names = {name: {"type": one.kind} for tool in TOOLS for name, one in tool.parameters.items()}
    action = {"type": "string", "enum": ["answer", *BY_NAME]}
    return {"type": "object", "properties": {"action": action, **names}, "required": ["action"]}


def chosen(text: str) -> tuple[str, str]:
    """The action and its arguments (JSON) out of an answer of :func:`choice_schema`. Raises Mistake."""
    begin, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[begin : end + 1]) if 0 <= begin < end else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("action"), str):
        raise Mistake('That is not JSON with an "action".')
    action = str(found.pop("action"))
    return action, json.dumps(found)


def understood(call_id: str, name: str, arguments: str) -> Call:
    """A call of the model, checked. Raises Mistake."""
    tool = BY_NAME.get(name)
    if tool is None:
        raise Mistake(f"There is no tool {name[:80]!r}. There are {', '.join(BY_NAME)}.")
    try:
        given = json.loads(arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise Mistake(f"The arguments of {name} are not valid JSON: {str(error)[:120]}.") from error
    if not isinstance(given, dict):
        raise Mistake(f"The arguments of {name} must be a JSON object.")
    found: dict[str, Any] = {}
    for key, parameter in tool.parameters.items():
        if given.get(key) is None or (given[key] == "" and not parameter.needed):
            if parameter.needed:
                raise Mistake(f"{name} needs {key}: {parameter.text}")
            continue
        found[key] = _value(name, key, parameter, given[key])
    return Call(call_id, name, found)


def _value(tool: str, name: str, parameter: Parameter, value: Any) -> str | int:
    if parameter.kind == "integer":
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= parameter.most:
            raise Mistake(f"{name} of {tool} must be a whole number.")
        return value
    if not isinstance(value, str):
        raise Mistake(f"{name} of {tool} must be text.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Mistake(f"{name} of {tool} holds characters that are none.") from error
    if len(value) > parameter.most:
        raise Mistake(f"{name} of {tool} is longer than {parameter.most} characters.")
    if "\0" in value:
        raise Mistake(f"{name} of {tool} holds a NUL.")
    return value
