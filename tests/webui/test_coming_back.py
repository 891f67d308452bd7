"""Where people land: what they asked for, also after signing in and when another site's link led here."""

from __future__ import annotations

import html
import re

from support.front import UI, Front

PAGE = {"Accept": "text/html"}


async def test_what_was_asked_for_is_opened_after_signing_in(door: Front) -> None:
    """FWD-9: kept in the browser from the sign-in page to the link from the console, and checked again when used."""
    await door.member("operator")
    async with door.ask("GET", "/machine/logs/ide?x=1&y=2", headers=PAGE) as refused:
        assert refused.status == 302
        sign_in = refused.headers["Location"].removeprefix(UI)
    async with door.ask("GET", sign_in, headers=PAGE) as shown:
        kept = shown.cookies["__Host-croft-next"]
        assert (kept["secure"], kept["httponly"], kept["samesite"]) == (True, True, "Strict")
    secret, _, _ = await door.links.create(await door.member("operator"), "console")
    cookie = {"Cookie": f"__Host-croft-next={kept.value}"}
    async with door.ask("POST", "/sign-in/link", data={"t": secret}, headers=PAGE | cookie) as done:
        assert done.headers["Location"] == "/machine/logs/ide?x=1&y=2"
        assert done.cookies["__Host-croft-next"]["max-age"] == "0"


async def test_a_planted_return_address_leads_home(door: Front) -> None:
    """FWD-9."""
    await door.member("admin")
    for planted in ("//evil.example", "https%3A%2F%2Fevil.example", "%2F%2Fevil.example", "%2F%5Cevil.example"):
        secret, _, _ = await door.links.create(await door.member("admin"), "console")
        cookie = {"Cookie": f"__Host-croft-next={planted}"}
        async with door.ask("POST", "/sign-in/link", data={"t": secret}, headers=PAGE | cookie) as done:
            assert done.headers["Location"] == "/"


async def test_a_link_on_another_site_is_asked_for_again_from_here(door: Front) -> None:
    """Strict cookies are not sent along with another site's link; a page of ours asks again, once."""
    headers = PAGE | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    async with door.ask("GET", '/machine?a="><script>&b=1', headers=headers) as bounced:
        text = await bounced.text()
    assert bounced.status == 200
    assert "<script>" not in text
    async with door.ask("GET", "/machine?b=1", headers=headers) as bounced:
        found = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', await bounced.text())
    assert found is not None
    assert html.unescape(found[1]) == "/machine?b=1"
    async with door.ask("GET", "/machine?b=1", headers=PAGE) as again:
        assert again.status == 302, "from our own page a signed-out person is sent to sign in"
