"""The one family of errors that may reach a person.

Rule: ``message`` and ``hint`` are words for people and never hold a path, a secret or a stack trace; the cause goes to the
log through ``raise ... from``.
"""

from __future__ import annotations


class CroftError(Exception):
    """Something a person can be told: what happened, why, and what to do next.

    ``code`` is stable and machine-readable; ``status`` is the HTTP status it maps to.
    """

    code = "error"
    status = 500

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code


class Invalid(CroftError):
    """The request is malformed or asks for something that cannot be."""

    code = "invalid"
    status = 400


class Unauthenticated(CroftError):
    """Nobody is signed in, or the session has ended."""

    code = "sign_in_required"
    status = 401


class Forbidden(CroftError):
    """The person is known but may not do this."""

    code = "forbidden"
    status = 403


class NotFound(CroftError):
    """There is no such thing, or the person may not know of it."""

    code = "not_found"
    status = 404


class Conflict(CroftError):
    """The thing changed meanwhile, or is busy."""

    code = "conflict"
    status = 409


class TooMany(CroftError):
    """A limit was reached; ``retry_after`` is in seconds."""

    code = "too_many_requests"
    status = 429

    def __init__(self, message: str, *, retry_after: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class Unavailable(CroftError):
    """A part Croft needs does not answer right now."""

    code = "unavailable"
    status = 503


class SettingsError(CroftError):
    """croft.toml cannot be used."""

    code = "settings"
