"""What a conversation is made of: messages that follow each other as a tree, of which one path is the one being read.

Rule: a message's text is what its author wrote, untouched; whoever shows it renders it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from appliance.database import Row

MOST_MESSAGES = 1 << 20  # places of one conversation


class Role(StrEnum):
    """``tool``: what a tool answered. ``summary``: stands for what was left out when the context was full."""

    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    SUMMARY = "summary"


class State(StrEnum):
    """``stopped``: by a person. ``interrupted``: Croft itself ended meanwhile; what had been saved is there."""

    DONE = "done"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Conversation:
    """``owner`` is a user id or ``console``. Times are Unix seconds. ``named``: a person chose the title."""

    id: str
    owner: str
    title: str
    named: bool
    pinned: bool
    archived: bool
    created_at: float
    changed_at: float
    seq: int = field(repr=False)

    @classmethod
    def of(cls, row: Row) -> Conversation:
        return cls(
            row["id"],
            row["owner"],
            row["title"],
            bool(row["named"]),
            bool(row["pinned"]),
            bool(row["archived"]),
            row["created_at"],
            row["changed_at"],
            row["seq"],
        )

    @property
    def places(self) -> tuple[int, int]:
        """First and last place of its messages."""
        first, last = self.span(self.seq)
        return first + 1, last

    @staticmethod
    def span(seq: int) -> tuple[int, int]:
        """First and last place of conversation number ``seq``; at the first lie the words of its title."""
        return seq * MOST_MESSAGES, (seq + 1) * MOST_MESSAGES - 1


@dataclass(frozen=True, slots=True)
class Message:
    """``conversation`` and ``parent`` are ids. ``siblings`` messages follow the same parent, this one being number ``position``
    (from 1). ``context`` holds chips ``{kind, path?, text?}``, ``steps`` and ``usage`` what the answering part puts there."""

    id: str
    conversation: str
    parent: str | None
    role: Role
    text: str
    state: State
    created_at: float
    finished_at: float | None = None
    model: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    context: Sequence[Mapping[str, Any]] = ()
    steps: Sequence[Mapping[str, Any]] = ()
    position: int = 1
    siblings: int = 1
    place: int = field(default=0, repr=False, compare=False)

    @classmethod
    def of(cls, row: Row, conversation: Conversation, tree: Tree) -> Message:
        node = tree.nodes[row["place"]]
        beside = tree.beside(node)
        return cls(
            row["id"],
            conversation.id,
            tree.nodes[node.parent].id if node.parent else None,
            Role(row["role"]),
            row["text"],
            State(row["state"]),
            row["created_at"],
            row["finished_at"],
            row["model"],
            json.loads(row["usage"]),
            json.loads(row["context"]),
            json.loads(row["steps"]),
            beside.index(node.place) + 1,
            len(beside),
            node.place,
        )


def interrupted(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Steps as they are once nobody follows them any more."""
    return [{**step, "state": "stopped"} if step.get("state") in ("running", "waiting") else {**step} for step in steps]


@dataclass(frozen=True, slots=True)
class Node:
    """A message without its text."""

    place: int
    id: str
    parent: int | None
    chosen: int | None


class Tree:
    """How the messages of one conversation follow each other. Pure; made of rows read at one moment."""

    def __init__(self, rows: Sequence[Row], chosen: int | None) -> None:
        self.nodes = {row["place"]: Node(row["place"], row["id"], row["parent"], row["chosen"]) for row in rows}
        self._chosen = chosen
        self._children: dict[int | None, list[int]] = {}
        for place in sorted(self.nodes):
            self._children.setdefault(self.nodes[place].parent, []).append(place)

    def beside(self, node: Node) -> list[int]:
        """Places of everything with the same parent, itself too, the oldest first."""
        return self._children[node.parent]

    def find(self, message: str) -> Node | None:
        """The node with this id."""
        return next((node for node in self.nodes.values() if node.id == message), None)

    def above(self, node: Node) -> Iterator[int]:
        """Places of everything that it follows, the nearest first."""
        while (parent := node.parent) is not None:
            yield parent
            node = self.nodes[parent]

    def path(self) -> Iterator[Node]:
        """The active path from the first message on."""
        place = self._chosen
        while place is not None:
            yield self.nodes[place]
            place = self.nodes[place].chosen

    def links(self, above: int | None, place: int) -> Iterator[tuple[int | None, int]]:
        """What has to be chosen where for the active path to lead to ``place``, which follows ``above``: (parent, child) pairs,
        parent None for the first message; those that are chosen already are left out."""
        child: int = place
        while above is not None:
            node = self.nodes[above]
            if node.chosen != child:
                yield above, child
            child, above = above, node.parent
        if self._chosen != child:
            yield None, child
