"""What the command palette offers and what the keys do, by role: two tables that the frame prints and the scripts read.

Rule: whatever stands here has a link or a button on a page as well; whether it is allowed is decided by its route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from webui.i18n import Translator

if TYPE_CHECKING:
    from webui.filters import Place

SERVICE_NAMES = ("ide", "proxy", "ai")
SERVICE_ACTIONS = ("start", "restart", "stop")
OPERATORS = frozenset({"operator", "admin"})


class Entry(TypedDict, total=False):
    """One line of the palette. ``href`` leads somewhere; ``service`` and ``action`` do something. ``where`` says which
    place a page belongs to."""

    label: str
    icon: str
    where: str
    href: str
    service: str
    action: str


class Shortcut(NamedTuple):
    """One row of the key help. ``press`` as scripts compare it (``Mod+K``, ``?``, ``G H``); ``does`` is a path, or
    ``palette``, ``keys`` or ``find``."""

    press: str
    label: str
    does: str


Source = Callable[[Translator, str], Iterable[Entry]]


def pages(
    navigation: Sequence[Place], sections: Mapping[str, Sequence[Place]], icon_of: Callable[[str], str]
) -> Source:
    """Every page of the rail and of its sections, each once."""

    def found(t: Translator, role: str) -> Iterator[Entry]:
        seen = set()
        for where, group in (("", navigation), *sections.items()):
            for place in group:
                if role in place.roles and place.path not in seen:
                    seen.add(place.path)
                    entry = Entry(label=t(f"nav.{place.id}"), icon=icon_of(place.id), href=place.path)
                    yield entry | Entry(where=t(f"nav.{where}")) if where else entry

    return found


def services(t: Translator, role: str) -> Iterator[Entry]:
    """What an operator may do to the services."""
    for name in SERVICE_NAMES if role in OPERATORS else ():
        yield Entry(label=t(f"service.{name}.logs"), icon="log", href=f"/machine/logs/{name}")
        for action in SERVICE_ACTIONS:
            yield Entry(label=t(f"service.{name}.{action}"), icon=action, service=name, action=action)


def assistant(t: Translator, role: str) -> Iterator[Entry]:
    """Beginning a conversation; those there are, the palette finds by their words (static/js/palette.js)."""
    yield Entry(label=t("chat.new_long"), icon="assistant", where=t("nav.assistant"), href="/assistant#new")


def entries(sources: Iterable[Source]) -> Callable[[Translator, str], list[Entry]]:
    """All entries of ``sources`` in their order, for a role."""
    kept = tuple(sources)
    return lambda t, role: [entry for source in kept for entry in source(t, role)]


def shortcuts(navigation: Sequence[Place]) -> Callable[[str], list[Shortcut]]:
    """Every key of the pages, for a role. None is a chord the editor would miss: inside its frame only its own work."""
    fixed = (
        Shortcut("Mod+K", "palette.title", "palette"),
        Shortcut("/", "keys.find", "find"),
        Shortcut("?", "keys.title", "keys"),
    )

    def found(role: str) -> list[Shortcut]:
        letters = (place for place in navigation if place.letter and role in place.roles)
        return [fixed[0], *(Shortcut(f"G {p.letter}", f"nav.{p.id}", p.path) for p in letters), *fixed[1:]]

    return found
