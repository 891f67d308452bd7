"""What the assistant's pages and the panel beside the editor show: rows of the list, turns of a conversation, the engine in words.

Rule: light. Whoever opens the editor loads this; what renders answers is imported by webui.handlers.assistant alone (F1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from appliance.assistant.engine import EngineState
from appliance.identity.users import Role
from appliance.messages import Message

CHIP_ICONS = {
    "file": "file",
    "selection": "selection",
    "diagnostics": "state-unwell",
    "names": "log",
    "output": "terminal",
    "pasted": "copy",
}
ENGINE_ICONS = {
    EngineState.READY: "state-running",
    EngineState.ASLEEP: "state-sleeping",
    EngineState.STARTING: "state-starting",
    EngineState.FAILED: "state-failed",
    EngineState.NONE: "state-absent",
}
# Where the next step is done, by why nobody answers (``chat.next.*`` names it).
STEPS = {
    "no_model": "/machine/models",
    "damaged": "/machine/models",
    "unclear": "/machine/models",
    "too_small": "/machine/models",
    "no_engine": "/settings#ai",
    "no_endpoint": "/settings#ai",
    "off": "/settings#ai",
    "stopped": "/machine",
    "failed": "/machine",
}
# As in static/js/chat.js.
STEP_ICONS = {
    "running": "state-starting",
    "waiting": "clock",
    "mistake": "state-unwell",
    "failed": "state-failed",
    "refused": "state-parked",
    "denied": "close",
    "rejected": "close",
    "stopped": "state-stopped",
    "stale": "state-unwell",
}
TOOLS = frozenset({"list_files", "search_files", "read_file", "write_file", "propose_command"})
SHELL = frozenset({"sh", "bash", "zsh", "shell", "console", "shell-session", "shellsession", "terminal"})


@dataclass(frozen=True)
class Thread:
    """A row of the list. ``snippet``: what a search found, in pieces ``(text, found)``."""

    id: str
    title: str
    at: float
    pinned: bool = False
    snippet: Sequence[tuple[str, bool]] = ()


@dataclass(frozen=True)
class Chip:
    """Something that went along with a question."""

    kind: str
    path: str = ""

    @property
    def icon(self) -> str:
        return CHIP_ICONS.get(self.kind, "file")


@dataclass(frozen=True)
class Step:
    """Something the model did on the way, and what there is to add."""

    words: Message
    state: str = "done"
    note: str = ""

    @property
    def icon(self) -> str:
        return STEP_ICONS.get(self.state, "check")


@dataclass(frozen=True)
class Proposal:
    """What the assistant asks for. ``run`` is the id of a command's run, ``line`` its words; ``lines`` those of a file's difference,
    each with its sign (add, cut, place, same). ``run_by``: who runs what the file says by itself; ``tainted`` and ``picked`` as in
    appliance.assistant.proposals."""

    id: str
    kind: str
    state: str
    run: str = ""
    line: str = ""
    path: str = ""
    what: str = "changed"
    lines: Sequence[tuple[str, str]] = ()
    run_by: str = ""
    tainted: bool = False
    picked: bool = False


@dataclass(frozen=True)
class Turn:
    """A question or an answer as the page shows it. ``place`` of ``places`` versions; ``before`` and ``after`` name its neighbours."""

    id: str
    role: str
    state: str = "done"
    text: str = ""
    parent: str = ""
    blocks: Sequence[Any] = ()
    chips: Sequence[Chip] = ()
    steps: Sequence[Step] = ()
    proposals: Sequence[Proposal] = ()
    facts: Sequence[Message] = ()
    fault: str = ""
    place: int = 1
    places: int = 1
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Engine:
    """The engine for people: ``words`` is one finished sentence; ``step`` is where something is done about it, if anything is to."""

    state: str
    icon: str
    words: str
    model: str = ""
    remote: bool = False
    context: int = 0
    reason: str = ""
    step: str = ""
    progress: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nothing(self) -> bool:
        """Whether a question would find nobody."""
        return self.state == EngineState.NONE


def engine_of(told: Mapping[str, Any]) -> Engine:
    """From what ``webui.views.engine_json`` tells."""
    state, reason, remote = told["state"], told["reason"], told["remote"]
    going = state not in (EngineState.NONE, EngineState.STARTING) and not reason
    return Engine(
        state,
        "external" if remote and going else ENGINE_ICONS[EngineState(state)],
        told["words"],
        told["model"],
        remote=remote,
        context=told["context"],
        reason=reason,
        step=STEPS.get(reason, ""),
        progress=told["progress"] or {},
    )


def chips_of(context: Sequence[Mapping[str, Any]]) -> list[Chip]:
    """What went along with a question."""
    known = (one for one in context if one.get("kind") in CHIP_ICONS)
    return [Chip(str(one["kind"]), str(one.get("path") or "")) for one in known]


def steps_of(steps: Iterable[Mapping[str, Any]]) -> list[Step]:
    """What the model did on the way."""
    return [
        Step(
            Message(
                f"chat.tool.{one['tool'] if one.get('tool') in TOOLS else 'other'}",
                {"about": str(one.get("about") or "")},
            ),
            str(one.get("state") or "done"),
            str(one.get("note") or ""),
        )
        for one in steps
    ]


def diff_lines(diff: str) -> list[tuple[str, str]]:
    """The lines of a unified difference with their signs, its two head lines left out."""
    signs = {"+": "add", "-": "cut", "@": "place"}
    lines = diff.removesuffix("\n").split("\n") if diff else []
    while lines and lines[0].startswith(("--- ", "+++ ")):
        del lines[0]
    return [(signs.get(line[:1], "same"), line) for line in lines]


def facts_of(usage: Mapping[str, Any], model: str) -> list[Message]:
    """What an answer cost, and what is to be known of it."""
    tokens, seconds = usage.get("completion_tokens"), usage.get("seconds") or 0
    found = [Message("chat.facts", {"n": tokens, "seconds": max(1, round(seconds)), "model": model})] if tokens else []
    if usage.get("length"):
        found.append(Message("chat.cut"))
    if capped := usage.get("capped"):
        found.append(Message(f"answers.capped.{capped}"))
    return [*found, Message("chat.summarised")] if usage.get("left_out") else found


def is_shell(lang: str) -> bool:
    """Whether a block in this language is commands."""
    return lang.lower() in SHELL


def pieces(role: Role) -> dict[str, Any]:
    """What every page with a conversation on it hands to its template."""
    empty = SimpleNamespace(n="", kind="prose", html="", lang="", code="", shell=False, codes=())
    return {
        "may_write": role >= Role.operator,
        "blank": SimpleNamespace(
            asked=Turn("", "user"),
            answer=Turn("", "assistant"),
            prose=empty,
            code=SimpleNamespace(**{**vars(empty), "kind": "code"}),
            command=Proposal("", "command", "waiting"),
            write=Proposal("", "write", "open"),
        ),
    }
