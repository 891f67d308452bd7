"""What an engine's errors become for who asked it.

Rule: words of an engine are shown in bounds and without its key; that it refuses Croft's key is not the client's fault and never
looks like it.
"""

from __future__ import annotations

import msgspec

from appliance.errors import CroftError, TooMany

SAID_MAX = 500
# What the client can do something about, so that it is told as the engine told it.
_CLIENTS_FAULT = {400, 404, 405, 409, 413, 415, 422}


class EngineFault(CroftError):
    """The engine, or what is set as one, did not answer as it should."""

    code = "engine_failed"
    status = 502

    def __init__(self, cause: str, *, status: int = 502) -> None:
        super().__init__(
            f"the model's engine failed: {cause}", hint="Try again; its log on the Machine page says more."
        )
        self.status = status


class EngineRefused(CroftError):
    """The engine says that the request cannot be done."""

    code = "engine_refused"

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"the model's engine refused the request: {said}")
        self.status = status


class _Error(msgspec.Struct):
    message: str = ""


class _Said(msgspec.Struct):
    error: _Error | str | None = None


def said_by_engine(status: int, body: bytes, key: str = "", retry_after: str = "") -> CroftError:
    """The exception for an error answer."""
    said = _words(body, key) or "it gave no reason"
    if status in (401, 402, 403):
        return EngineFault("it does not accept the key that is set for it")
    if 300 <= status < 400:
        return EngineFault("it leads elsewhere, which is not followed")
    if status == 429:
        seconds = int(retry_after) if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 5 else 5
        return TooMany(f"the model's engine is busy: {said}", retry_after=seconds)
    if status in _CLIENTS_FAULT:
        return EngineRefused(400 if status == 404 else status, said)
    return EngineFault(said, status=503 if status == 503 else 502)


def _words(body: bytes, key: str) -> str:
    try:
        error = msgspec.json.decode(body, type=_Said).error
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""
    text = (error.message if isinstance(error, _Error) else error) or ""
    text = " ".join((text.replace(key, "*") if key else text).split())
    return "".join(char for char in text if char.isprintable())[:SAID_MAX]
