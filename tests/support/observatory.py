"""Grades response headers offline by the rules that MDN's HTTP Observatory publishes (developer.mozilla.org/observatory, tests and
scoring): 100 to begin with, less what is wrong, and what is better than needed counts once nothing serious is wrong.

Rule: facts only, in our own words; where the rules leave room the stricter reading is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

EXTRA_FROM = 90
SIX_MONTHS = 15_768_000
PRIVATE = {"no-referrer", "same-origin", "strict-origin", "strict-origin-when-cross-origin"}
UNSAFE = {"origin", "origin-when-cross-origin", "unsafe-url", "no-referrer-when-downgrade"}


def grade(headers: Mapping[str, str], cookies: Iterable[str], html: str = "") -> tuple[int, dict[str, int]]:
    """The score, and what each test gave or took. ``headers`` by lower-case name, ``cookies`` as Set-Cookie values."""
    csp = _directives(headers.get("content-security-policy", ""))
    found = {
        "csp": _csp(csp),
        "cookies": _cookies(list(cookies)),
        "cors": -50 if headers.get("access-control-allow-credentials") else 0,
        "referrer": _referrer(headers.get("referrer-policy", "")),
        "hsts": _hsts(headers.get("strict-transport-security", "")),
        "scripts": _scripts(html),
        "nosniff": 0 if headers.get("x-content-type-options", "").lower() == "nosniff" else -5,
        "frames": _frames(csp, headers.get("x-frame-options", "")),
        "corp": _corp(headers.get("cross-origin-resource-policy")),
    }
    score = 100 + sum(points for points in found.values() if points < 0)
    if score >= EXTRA_FROM:
        score += sum(points for points in found.values() if points > 0)
    return max(0, score), found


def _directives(policy: str) -> dict[str, list[str]]:
    parts = (part.split() for part in policy.split(";"))
    return {part[0].lower(): part[1:] for part in parts if part}


def _csp(csp: dict[str, list[str]]) -> int:
    if not csp:
        return -25
    default = csp.get("default-src", ["*"])
    scripts, objects = csp.get("script-src", default), csp.get("object-src", default)
    styles = csp.get("style-src", default)
    broad = {"'unsafe-inline'", "data:", "https:", "http:", "*"}
    if broad & {*scripts, *objects}:
        return -20
    if any(source.startswith("http:") for sources in csp.values() for source in sources):
        return -20
    if "'unsafe-eval'" in scripts:
        return -10
    if broad & set(styles):
        return 0
    # The highest mark also asks where forms may go.
    closed = default == ["'none'"] and set(csp.get("form-action", ["*"])) <= {"'none'", "'self'"}
    return 10 if closed else 5


def _cookies(cookies: list[str]) -> int:
    if not cookies:
        return 0
    flags = [{part.strip().lower() for part in cookie.split(";")[1:]} for cookie in cookies]
    if not all("secure" in each for each in flags):
        return -40
    if not all("httponly" in each for each in flags):
        return -30
    named = [next((flag for flag in each if flag.startswith("samesite=")), "") for each in flags]
    if any(name not in ("", "samesite=strict", "samesite=lax") for name in named):
        return -20
    return 5 if all(named) else 0


def _referrer(value: str) -> int:
    if not value:
        return 0
    last = value.split(",")[-1].strip().lower()
    return 5 if last in PRIVATE else -5


def _hsts(value: str) -> int:
    age = re.search(r"max-age=\"?(\d+)", value.lower())
    if age is None:
        return -20
    return 0 if int(age[1]) >= SIX_MONTHS else -10


def _scripts(html: str) -> int:
    sources = re.findall(r"<script\b[^>]*\bsrc=[\"']([^\"']*)", html, re.IGNORECASE)
    foreign = [source for source in sources if re.match(r"(https?:)?//", source)]
    if not foreign:
        return 0
    return -50 if any(not source.startswith("https:") for source in foreign) else -5


def _frames(csp: dict[str, list[str]], header: str) -> int:
    ancestors = csp.get("frame-ancestors")
    if ancestors and not {"*", "http:", "https:"} & set(ancestors):
        return 5
    return 0 if header.upper() in ("DENY", "SAMEORIGIN") else -20


def _corp(value: str | None) -> int:
    if value is None:
        return 0
    return {"same-origin": 10, "same-site": 10, "cross-origin": 0}.get(value.strip().lower(), -5)
