"""Errors as OpenAI's clients read them. Rule: this shape is for ``/v1`` alone; everywhere else there is one of our own."""

from __future__ import annotations

from typing import Any

from appliance.errors import CroftError

PREFIX = "/v1/"
# What clients look at: the status above all, then these names (developers.openai.com, error codes).
_TYPES = {429: "rate_limit_error", 500: "server_error", 502: "server_error", 503: "service_unavailable_error"}
_CODES = {
    "token_refused": "invalid_api_key",
    "sign_in_required": "invalid_api_key",
    "rate_limit": "rate_limit_exceeded",
    "too_many_at_once": "rate_limit_exceeded",
    "too_many_requests": "rate_limit_exceeded",
    "token_quota": "insufficient_quota",
    "person_quota": "insufficient_quota",
}


def error_body(error: CroftError, status: int) -> dict[str, Any]:
    """The JSON for an error. There is one text in it, so what to do next joins what happened."""
    code = _CODES.get(error.code, error.code)
    kind = code if code == "insufficient_quota" else _TYPES.get(status, "invalid_request_error")
    message = f"{error.message}. {error.hint}" if error.hint else error.message
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
