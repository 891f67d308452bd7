"""What may leave this machine: the one list (PRV-1). The privacy page shows it; whatever sends something anew gets a row first.

Rule: a field that is not named here is not sent.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from appliance.settings import Settings


class Departure(Struct, frozen=True):
    """One kind of traffic of Croft's own. ``fields`` names everything that goes; ``on`` says whether it can happen now;
    ``asked`` that it only happens when a person asks for it."""

    id: str
    fields: tuple[str, ...]
    on: Callable[[Settings], bool]
    asked: bool = False


LEAVES: tuple[Departure, ...] = (
    Departure("acme", ("host", "email", "address"), lambda settings: settings.proxy_tls == "acme"),
    Departure("mail", ("recipient", "sender", "letter", "address"), lambda settings: bool(settings.mail_host)),
    Departure("endpoint", ("question", "context", "key", "address"), lambda settings: settings.ai_engine == "remote"),
    Departure("images", ("image", "address"), lambda settings: settings.runtime != "process", asked=True),
    Departure("packages", ("package", "address"), lambda settings: True, asked=True),
    Departure("extensions", ("search", "address"), lambda settings: True, asked=True),
)
