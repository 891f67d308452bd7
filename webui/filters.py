"""What templates call besides the translator: asset addresses, navigation, states in words, log text made safe to show.

Rule: nothing here reads a request or keeps state between requests; templates decide nothing that is not computed here.

Put to use once, at start::

    assets = Assets(Path("webui/static"))         # webui.assets
    register(environment, assets)                 # the Jinja environment; autoescape stays on

Every template also gets, per request: ``t`` (webui.i18n.Translator), ``user`` (name, email, role; None before sign-in),
``page`` (an id of NAVIGATION or SECTIONS, or ""), ``tab`` (an id in SECTIONS, or ""), ``host``, ``origin_ide``, ``now``
(Unix seconds), ``theme`` (auto, light, dark), ``path`` (of this request, for forms that lead back), ``state`` (the top
line's sentence: ``.key`` and ``.params``, or None), ``notice`` (None, or ``.key`` and ``.params``: the answer to a form;
keys under ``fault.`` are bad news), ``can_mail`` (whether mail is set up), ``undecided`` (how many commands wait for a decision;
None for who may not decide).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from appliance.messages import Message
from appliance.services.model import Health, Problem, ServiceView, State, Want
from webui import manifest, palette
from webui.assets import Assets
from webui.i18n import LANGUAGES

if TYPE_CHECKING:
    from jinja2 import Environment

THEMES = ("auto", "light", "dark")


class Place(NamedTuple):
    """One entry of the rail or of a section's tabs. Its label is ``nav.ID`` in the catalogue; in the rail the icon has the
    id's name, and G followed by ``letter`` leads there."""

    id: str
    path: str
    roles: frozenset[str]
    letter: str = ""


EVERYONE = frozenset({"viewer", "operator", "admin"})
OPERATORS = frozenset({"operator", "admin"})
ADMINS = frozenset({"admin"})

# The order of the rail. A page joins here when it exists. The phone's bottom bar shows the first four; the rest is behind More.
NAVIGATION: tuple[Place, ...] = (
    Place("home", "/", EVERYONE, "H"),
    Place("workspace", "/workspace", OPERATORS, "W"),
    Place("assistant", "/assistant", EVERYONE, "A"),
    Place("commands", "/commands", EVERYONE, "C"),
    Place("machine", "/machine", EVERYONE, "M"),
    Place("people", "/people", ADMINS, "P"),
    Place("settings", "/settings", ADMINS, "S"),
)
# The tabs of a place that has several pages; a page names its own as ``tab``. One tab alone is not shown.
SECTIONS: dict[str, tuple[Place, ...]] = {
    "commands": (
        Place("run", "/commands", EVERYONE),
        Place("approvals", "/commands/approvals", EVERYONE),
        Place("runbooks", "/commands/runbooks", EVERYONE),
        Place("policy", "/policy", EVERYONE),
    ),
    "machine": (
        Place("services", "/machine", EVERYONE),
        Place("models", "/machine/models", EVERYONE),
        Place("tools", "/machine/tools", OPERATORS),
        Place("jobs", "/machine/jobs", EVERYONE),
        Place("logs", "/machine/logs/ide", OPERATORS),
    ),
    "people": (
        Place("members", "/people", ADMINS),
        Place("invitations", "/people/invitations", ADMINS),
        Place("tokens", "/people/tokens", ADMINS),
    ),
    "settings": (
        Place("settings", "/settings", ADMINS),
        Place("privacy", "/settings/privacy", ADMINS),
        Place("audit", "/audit", ADMINS),
    ),
    # What is one's own; reached from the person's menu.
    "account": (
        Place("account", "/account", EVERYONE),
        Place("tokens", "/account/tokens", EVERYONE),
        Place("sessions", "/sessions", EVERYONE),
    ),
}


class Piece(NamedTuple):
    """A stretch of log text; ``hidden`` ones are the names of characters that would not be seen, or would lie."""

    text: str
    hidden: bool


def places(role: str) -> list[Place]:
    """The rail of a person with ``role``."""
    return [place for place in NAVIGATION if role in place.roles]


def tabs(page: str, role: str) -> list[Place]:
    """The tabs of ``page`` for a person with ``role``; empty when there is nothing to choose."""
    found = [place for place in SECTIONS.get(page, ()) if role in place.roles]
    return found if len(found) > 1 else []


def drawings(assets: Assets) -> dict[str, Markup]:
    """What each icon is drawn with, by its name. Pages bring their icons along: fetched as a file of their own, they came last."""
    found = re.findall(
        r'<symbol id="([a-z-]+)" viewBox="0 0 24 24">(.*?)</symbol>', assets.text("icons.svg"), re.DOTALL
    )
    return {name: Markup(drawing) for name, drawing in found}  # noqa: S704 - a file of our own


def icons_of(drawn: Container[str]) -> Callable[[str], str]:
    """The icon of a place: the one with its id where it is drawn, else an arrow."""
    return lambda name: name if name in drawn else "next"


def may_operate(role: str) -> bool:
    """Whether to offer starting and stopping. What is allowed is decided by the handlers."""
    return role in OPERATORS


def shown_state(view: ServiceView) -> str:
    """The state people are told: ``state.NAME`` in the catalogue and ``state-NAME`` in the icon sprite."""
    if view.parked:
        return "parked"
    if view.state is State.RUNNING and view.health is Health.UNHEALTHY:
        return "unwell"
    if view.state is State.STOPPED and view.want is Want.ON_DEMAND:
        return "sleeping"
    return str(view.state)


def summary(views: Sequence[ServiceView], problems: Iterable[Problem]) -> Message:
    """The sentence of the top line: the worst that is true, else what runs and what sleeps."""
    serious = sum(1 for problem in problems if problem.severity != "info")
    if serious:
        return Message("summary.problems", {"n": serious})
    states = {view.name: shown_state(view) for view in views}
    if "starting" in states.values():
        return Message("summary.starting")
    if states.get("ide") == "sleeping":
        return Message("summary.ide_sleeps")
    if states.get("ide") == "stopped":
        return Message("summary.ide_stopped")
    running = sum(1 for state in states.values() if state == "running")
    return Message("summary.running", {"n": running})


_LEVELS = (
    # Caddy's error for every page that is left while its stream of events is open.
    ("debug", re.compile(r'"aborting with incomplete response","error":"context canceled"')),
    ("error", re.compile(r"\b(error|fatal|panic|critical|alert|emerg)\b", re.IGNORECASE)),
    ("warning", re.compile(r"\bwarn(ing)?\b", re.IGNORECASE)),
    ("debug", re.compile(r"\b(debug|trace)\b", re.IGNORECASE)),
)


def log_level(text: str) -> str:
    """What a log line seems to be: error, warning, debug or info. Looks at its first 160 characters."""
    head = text[:160]
    return next((level for level, pattern in _LEVELS if pattern.search(head)), "info")


_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
)
_SYSTEMS = (
    ("Windows", "Windows"),
    ("Android", "Android"),
    ("iPhone", "iOS"),
    ("iPad", "iPadOS"),
    ("CrOS", "ChromeOS"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)


class Device(NamedTuple):
    """What a User-Agent header claims; empty where it says nothing we know."""

    browser: str
    system: str
    icon: str


def device(agent: str) -> Device:
    """Read a User-Agent header, well enough for people to tell their devices apart."""
    browser = next((name for mark, name in _BROWSERS if mark in agent), "")
    system = next((name for mark, name in _SYSTEMS if mark in agent), "")
    small = "Mobile" in agent or system in ("Android", "iOS")
    return Device(browser, system, "phone" if small else "terminal" if browser == "curl" else "laptop")


# Control characters, and those that change direction or are not seen: a log line may not pretend to be another.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def pieces(text: str) -> list[Piece]:
    """Cut ``text`` so that a template can show unseen characters by their code points."""
    found: list[Piece] = []
    start = 0
    for match in _UNSEEN.finditer(text):
        if match.start() > start:
            found.append(Piece(text[start : match.start()], False))
        found.append(Piece(f"U+{ord(match[0]):04X}", True))
        start = match.end()
    if start < len(text) or not found:
        found.append(Piece(text[start:], False))
    return found


def unicode_name(host: str) -> str:
    """A host name as people write it: ``xn--mgbh0fb.example`` in its own letters. One that is not valid stays as it is."""
    try:
        return ".".join(_own_letters(label) for label in host.split("."))
    except UnicodeError:
        return host


def _own_letters(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    own = label.encode("ascii").decode("idna")
    # What does not lead back to the same name is not this name, however it looks.
    return own if own.encode("idna").decode("ascii") == label else label


def iso(ts: float) -> str:
    """A moment as the ``datetime`` attribute wants it."""
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def share(used: float, total: float) -> float:
    """``used`` of ``total`` in percent, 0 to 100, for a meter's width."""
    return round(min(100.0, max(0.0, 100 * used / total)), 1) if total > 0 else 0.0


def level(percent: float) -> str:
    """How a meter looks at ``percent``: ok, warn or bad. Scripts use the same limits (static/js/services.js)."""
    return "bad" if percent >= 95 else "warn" if percent >= 85 else "ok"


def module(assets: Assets) -> Callable[[str], Markup]:
    """What templates write for a script: its element, and before it the names of all that it imports."""

    @cache
    def element(name: str) -> Markup:
        links = "".join(f'<link rel="modulepreload" href="{assets(other)}">' for other in assets.imported(name))
        return Markup(f'{links}<script type="module" src="{assets(name)}"></script>')  # noqa: S704 - addresses of our own

    return element


def register(environment: Environment, assets: Assets) -> None:
    """Make everything above known to the templates."""
    drawn = drawings(assets)
    icon_of = icons_of(drawn)
    environment.globals.update(
        asset=assets,
        module=module(assets),
        places=places,
        tabs=tabs,
        may_operate=may_operate,
        shown_state=shown_state,
        share=share,
        level=level,
        icon_drawings=drawn,
        icon_of=icon_of,
        palette=palette.entries((palette.pages(NAVIGATION, SECTIONS, icon_of), palette.assistant, palette.services)),
        shortcuts=palette.shortcuts(NAVIGATION),
        GROUND=manifest.GROUND,
        LANGUAGES=tuple(LANGUAGES),
        THEMES=THEMES,
        SERVICE_NAMES=palette.SERVICE_NAMES,
    )
    environment.filters.update(iso=iso, pieces=pieces, device=device, unicode_name=unicode_name)
    environment.trim_blocks = environment.lstrip_blocks = True
