"""An engine elsewhere: any OpenAI-compatible endpoint that an admin set, with a key that only the daemon knows.

Rule: what is asked leaves this machine, so status always says so and to whom (PRV-3); nobody but an admin's settings names the
endpoint; and its key goes to no other (AI-10).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from appliance import keys
from appliance.assistant import endpoint
from appliance.assistant.endpoint import Endpoint, LookUp
from appliance.assistant.engine import EngineState, EngineStatus, NoEngine, Upstream
from appliance.errors import Invalid, Unavailable
from appliance.settings import Settings

log = logging.getLogger(__name__)

KEY_MAX = 4000
_HINT = "Set its address and its model on the settings page."


class RemoteEngine:
    """See :class:`~appliance.assistant.engine.Engine`. ``settings`` gives those that count now."""

    def __init__(self, settings: Callable[[], Settings], look_up: LookUp | None = None) -> None:
        self._settings, self._look_up, self._key_file = settings, look_up, key_file(settings())
        self._holds = 0
        self._key: tuple[object, str] = (None, "")  # and what it was read from

    def status(self) -> EngineStatus:
        settings = self._settings()
        try:
            where = self._endpoint()
        except Invalid:
            return EngineStatus(EngineState.NONE, remote=True, reason="no_endpoint")
        if not settings.ai_model:
            return EngineStatus(EngineState.NONE, remote=True, host=where.host, reason="no_endpoint")
        return EngineStatus(
            EngineState.READY,
            remote=True,
            host=where.host,
            model=settings.ai_model,
            context=settings.ai_context,
            holds=self._holds,
        )

    @asynccontextmanager
    async def hold(self, purpose: str, *, wait: float = 900.0) -> AsyncIterator[Upstream]:
        """See the Protocol. There is nothing to wait for; the name is looked up anew each time."""
        settings = self._settings()
        try:
            where = self._endpoint()
        except Invalid as error:
            raise NoEngine("no_endpoint", error.message, hint=error.hint) from error
        if not settings.ai_model:
            raise NoEngine("no_endpoint", "no model is set for the endpoint", hint=_HINT)
        # Before anything is waited for: meanwhile it may be another endpoint, and the key another's. Not in a thread: changing to
        # one and back takes longer, for every question (R2).
        key = self._read_key(settings)
        address = await endpoint.resolve(where, self._look_up)
        self._holds += 1
        try:
            yield Upstream(
                where.base, key, settings.ai_model, settings.ai_context, remote=True, address=address, tools=True
            )
        finally:
            self._holds -= 1

    async def idle(self) -> bool:
        """It is not ours to ask."""
        return True

    def _read_key(self, settings: Settings) -> str:
        """The key; read anew when its file or the endpoint is another (R2)."""
        try:
            found = self._key_file.stat()
        except FileNotFoundError:
            return ""
        except OSError:
            return read_key(settings)  # which says what is wrong
        source = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size, _whose(settings))
        if source != self._key[0]:
            self._key = source, read_key(settings)
        return self._key[1]

    def _endpoint(self) -> Endpoint:
        settings = self._settings()
        return endpoint.parse(settings.ai_url, private=settings.ai_network == "private")


def key_file(settings: Settings) -> Path:
    """Where the key of the endpoint lies (0600)."""
    return settings.paths.keys / "ai-endpoint.key"


def has_key(settings: Settings) -> bool:
    """Whether one is kept for the endpoint that is set. Looks at the disk."""
    try:
        return bool(read_key(settings))
    except Unavailable:
        return False


def read_key(settings: Settings) -> str:
    """The key; '' where none is kept for the endpoint that is set. Raises Unavailable."""
    try:
        whose, _, key = key_file(settings).read_text("utf-8").rpartition("\n")
        return key if whose == _whose(settings) else ""
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable("cannot read the key of the endpoint", hint="Set it again on the settings page.") from error


def write_key(settings: Settings, text: str) -> None:
    """Keep the key; empty forgets it. Raises Invalid, OSError."""
    key = text.strip()
    if not key:
        key_file(settings).unlink(missing_ok=True)
        return
    if len(key) > KEY_MAX or not key.isascii() or not key.isprintable() or " " in key:
        raise Invalid(
            "that is not usable as a key",
            hint=f"Give one line of up to {KEY_MAX} printable characters without spaces.",
            code="endpoint_key",
        )
    keys.write_private(key_file(settings), f"{_whose(settings)}\n{key}".encode())


def _whose(settings: Settings) -> str:
    """What the key is kept with. The endpoint may become another where :func:`let_key_go` does not see it: in croft.toml, or in the
    moment in which the daemon ends."""
    return f"{settings.ai_network} {settings.ai_url}"


def let_key_go(before: Settings, after: Settings) -> None:
    """The key stays behind when the endpoint is another: it must not be handed to whoever somebody who took over an admin's session
    names. For SettingsDesk.on_change."""
    where = [(one.ai_url, one.ai_network) for one in (before, after)]
    if where[0] != where[1]:
        key_file(after).unlink(missing_ok=True)
        log.info("the key of the endpoint is forgotten: it is another endpoint now")
