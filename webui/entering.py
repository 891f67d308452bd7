"""Letting a browser in after a proof of identity: who asks, the cookies it gets, and where it goes next.

Rule: every way in ends here, so that no way gives out other cookies than another.
"""

from __future__ import annotations

from urllib.parse import unquote

from aiohttp import web

from appliance.identity.sessions import Session
from appliance.identity.sign_in import Caller, SignedIn
from appliance.identity.verify import relative_path
from webui import cookies
from webui.guard import COOKIE, DEVICE_COOKIE, PRINCIPAL, client_address

NEXT_COOKIE = "__Host-croft-next"
NEXT_SECONDS = 1800


def caller_of(request: web.Request) -> Caller:
    """Where a request comes from, as throttling and sessions want it."""
    return Caller(
        client_address(request), request.headers.get("User-Agent", ""), request.cookies.get(DEVICE_COOKIE, "")
    )


def held_session(request: web.Request) -> Session | None:
    """The live session this browser has already."""
    principal = request.get(PRINCIPAL)
    return principal.session if principal else None


def next_path(request: web.Request, default: str = "/") -> str:
    """What was asked for before signing in, a path of ours."""
    return relative_path(unquote(request.cookies.get(NEXT_COOKIE, ""))) or default


def let_in(request: web.Request, response: web.StreamResponse, signed_in: SignedIn) -> None:
    """Put the cookies of a sign-in on ``response``."""
    if NEXT_COOKIE in request.cookies:
        cookies.drop(response, NEXT_COOKIE)
    cookies.put(response, COOKIE, signed_in.cookie, keep=signed_in.session.remember)
    cookies.put(response, DEVICE_COOKIE, signed_in.device, keep=True, seconds=cookies.DEVICE_SECONDS)
