"""Setting and clearing cookies the one safe way (WEB-2): ``__Host-``, Secure, HttpOnly, SameSite=Strict, whole host."""

from __future__ import annotations

from aiohttp import web

REMEMBER_SECONDS = 90 * 24 * 3600
DEVICE_SECONDS = 365 * 24 * 3600


def put(response: web.StreamResponse, name: str, value: str, *, keep: bool, seconds: int = REMEMBER_SECONDS) -> None:
    """Set a cookie; without ``keep`` it goes when the browser closes. How long it counts is decided on the server."""
    response.set_cookie(
        name, value, path="/", secure=True, httponly=True, samesite="Strict", max_age=seconds if keep else None
    )


def drop(response: web.StreamResponse, name: str) -> None:
    response.del_cookie(name, path="/", secure=True, httponly=True, samesite="Strict")
