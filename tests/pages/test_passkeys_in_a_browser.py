"""Passkeys, recovery codes and proving again, as people meet them: real Chromium with a virtual authenticator (WebAuthn over
the DevTools protocol) before the real application behind TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, CDPSession, Page, expect
from support import screens
from support.screens import EVIL_NAME, Booth
from support.waiting import until

from webui.guard import COOKIE

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened() -> AsyncIterator[Browser]:
    async with screens.chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def booth(opened: Browser) -> AsyncIterator[Booth]:
    async with screens.booth(opened) as made:
        yield made
        assert [fault for fault in made.told() if not fault.startswith("Failed to load resource")] == []


class Person:
    """A browser of its own with an authenticator in it."""

    def __init__(self, booth: Booth, page: Page, cdp: CDPSession) -> None:
        self.booth, self.page, self.cdp, self.authenticator = booth, page, cdp, ""

    async def plug_in(self, **options: Any) -> None:
        """Another authenticator; the one before is gone."""
        if self.authenticator:
            await self.cdp.send("WebAuthn.removeVirtualAuthenticator", {"authenticatorId": self.authenticator})
        kind = {
            "protocol": "ctap2",
            "transport": "internal",
            "hasResidentKey": True,
            "hasUserVerification": True,
            "isUserVerified": True,
            "automaticPresenceSimulation": True,
        }
        made = await self.cdp.send("WebAuthn.addVirtualAuthenticator", {"options": kind | options})
        self.authenticator = made["authenticatorId"]

    async def go(self, path: str) -> None:
        await self.page.goto(self.booth.address + path)

    async def signed_in(self, role: str) -> None:
        cookie = {"name": COOKIE, "value": await screens.sign_in(self.booth.front, role), "url": self.booth.address}
        await self.page.context.add_cookies([cookie | {"secure": True, "httpOnly": True, "sameSite": "Strict"}])  # type: ignore[arg-type]

    async def sign_out(self) -> None:
        await self.page.locator(".person > summary").click()
        await self.page.locator("form[action='/sign-out'] button").last.click()
        await self.page.wait_for_url("**/sign-in")

    async def add_passkey(self, name: str) -> None:
        await self.page.fill("#passkey-name", name)
        await self.page.locator("form[data-passkey=add] button").click()
        await expect(self.page.locator("#passkeys h3", has_text=name)).to_be_visible()

    def grow_stale(self) -> None:
        for session in self.booth.front.sessions.of(None):
            session.proved -= 1000


@asynccontextmanager
async def person(booth: Booth) -> AsyncIterator[Person]:
    context = await booth.browser.new_context(viewport=screens.SIZES["wide"], locale="en")
    await booth._watch(context)
    page = await context.new_page()
    page.set_default_timeout(20_000)
    cdp = await context.new_cdp_session(page)
    await cdp.send("WebAuthn.enable", {"enableUI": False})
    made = Person(booth, page, cdp)
    await made.plug_in()
    try:
        yield made
    finally:
        await context.close()


async def test_two_passkeys_from_first_to_last(booth: Booth) -> None:
    """Add two on two authenticators, rename, sign out, sign in with no address typed, remove one."""
    async with person(booth) as who:
        page = who.page
        await who.signed_in("viewer")
        await who.go("/account")
        await who.add_passkey("Laptop")
        await who.plug_in(transport="usb")
        await who.add_passkey("<b>مفتاح</b> USB")
        await page.locator("#passkeys details.rename summary").first.click()
        await page.locator("#passkeys details.rename input").first.fill(EVIL_NAME)
        await page.locator("#passkeys details.rename form button").first.click()
        await expect(page.locator("#passkeys h3").first).to_have_text(EVIL_NAME)
        assert await page.evaluate("window.pwned") is None
        await who.sign_out()
        await page.locator("[data-passkey=sign-in]").click()
        await page.wait_for_url(f"{booth.address}/")
        user = await screens.member(booth.front, "viewer")
        keys = await booth.front.passkeys.of(user.id)
        assert [key.used_at is not None for key in keys] == [False, True]
        assert booth.front.sessions.fresh(booth.front.sessions.of(user.id)[0])
        await who.go("/account")
        await page.locator("#passkeys form[data-method=DELETE] button").first.click()
        await page.locator("#confirm [value=yes]").click()
        await expect(page.locator("#passkeys [data-row]")).to_have_count(1)
        assert [key.name for key in await booth.front.passkeys.of(user.id)] == ["<b>مفتاح</b> USB"]
        await page.locator("#passkeys form[data-method=DELETE] button").click()
        await page.locator("#confirm [value=yes]").click()
        await expect(page.locator(".toast[data-kind=bad]")).to_contain_text("last way in")
        await expect(page.locator("#passkeys [data-row]")).to_have_count(1)


async def test_the_field_offers_the_passkey(booth: Booth) -> None:
    """Conditional mediation: the sign-in field brings the passkey up by itself."""
    async with person(booth) as who:
        page = who.page
        await who.signed_in("viewer")
        await who.go("/account")
        await who.add_passkey("Laptop")
        await who.sign_out()
        # Mail is off here, so the page has no address field; the same script serves one that is there from the start.
        await page.add_init_script(_FIELD)
        await who.go("/sign-in")
        await page.wait_for_url(f"{booth.address}/")


# Puts the field in while the page is still being read, before its scripts run.
_FIELD = """new MutationObserver((_, watch) => {
  const ways = document.querySelector('.ways');
  if (!ways) return;
  watch.disconnect();
  const field = document.createElement('input');
  field.autocomplete = 'username webauthn';
  ways.append(field);
}).observe(document, {childList: true, subtree: true})"""


async def test_a_person_who_says_no_is_told_in_words(booth: Booth) -> None:
    async with person(booth) as who:
        await screens.member(booth.front, "admin")
        await who.go("/sign-in")
        await who.page.locator("[data-passkey=sign-in]").click()
        await expect(who.page.locator("[data-passkey-fault]")).to_contain_text("Nothing was confirmed")


async def test_a_removed_passkey_is_refused_in_words(booth: Booth) -> None:
    async with person(booth) as who:
        await who.signed_in("viewer")
        await who.go("/account")
        await who.add_passkey("Laptop")
        await booth.front.store.database.execute("DELETE FROM passkeys")
        await who.sign_out()
        await who.page.locator("[data-passkey=sign-in]").click()
        await expect(who.page.locator("[data-passkey-fault]")).to_contain_text("could not be accepted")
        assert booth.front.sessions.of(None) == []


async def test_a_stale_session_proves_itself_and_the_act_happens_once(booth: Booth) -> None:
    """AUTH-10: the dialog, the passkey, and then exactly what was asked."""
    async with person(booth) as who:
        page, sent = who.page, []
        await who.signed_in("viewer")
        await who.go("/account")
        await who.add_passkey("Laptop")
        await who.plug_in(transport="usb")
        await who.add_passkey("Key")
        page.on("request", lambda request: sent.append(request.method) if "/api/passkeys/" in request.url else None)
        who.grow_stale()
        await page.locator("#passkeys form[data-method=DELETE] button").first.click()
        await page.locator("#confirm [value=yes]").click()
        await page.locator("#step-up [data-prove=passkey]").click()
        await expect(page.locator("#passkeys [data-row]")).to_have_count(1)
        assert sent == ["DELETE", "DELETE"], "refused, then asked again, once"
        events = [record.event for record in await booth.front.audit.records()]
        assert (events.count("passkey.remove"), events.count("step-up")) == (1, 1)
        who.grow_stale()
        await page.locator("#passkeys form[data-method=DELETE] button").first.click()
        await page.locator("#confirm [value=yes]").click()
        await page.locator("#step-up .dialog-foot button").click()
        await expect(page.locator(".toast[data-kind=bad]")).to_be_visible()
        await expect(page.locator("#passkeys [data-row]")).to_have_count(1)


async def test_a_form_that_needs_proof_goes_on_after_a_passkey(booth: Booth) -> None:
    async with person(booth) as who:
        page = who.page
        await who.signed_in("viewer")
        await who.go("/account")
        await who.add_passkey("Laptop")
        who.grow_stale()
        await page.locator("#codes form button").click()
        await expect(page.locator("h1")).to_have_text("Confirm that it is you")
        await page.locator("[data-prove=passkey]").click()
        await expect(page.locator(".codes code")).to_have_count(10)
        events = [record.event for record in await booth.front.audit.records()]
        assert events.count("recovery.replace") == 1


async def test_set_up_from_the_link_to_the_codes_with_no_mail(booth: Booth) -> None:
    """The whole first hour: link, passkey, codes; then in again by a code, once."""
    async with person(booth) as who:
        page = who.page
        secret, _, _ = await booth.front.links.create(None, "console")
        await who.go(f"/sign-in/link?t={secret}")
        await page.fill("#email", "owner@example.org")
        await page.fill("#name", "Amal")
        await page.locator("form[action='/sign-in/link'] button").click()
        await page.wait_for_url("**/account/start")
        await page.locator("form[data-passkey=add] button").click()
        await expect(page.locator(".start [data-done]")).to_have_count(1)
        await page.locator("form[action='/account/recovery-codes'] button").click()
        codes = await page.locator(".codes code").all_inner_texts()
        assert len(set(codes)) == 10
        async with page.expect_download() as saving:
            await page.locator("[data-do=save]").click()
        saved = await (await saving.value).path()
        text = saved.read_text("utf-8")
        assert all(code in text for code in codes)
        await page.emulate_media(media="print")
        for hidden in (".rail", ".codes-actions", ".top"):
            await expect(page.locator(hidden).first).to_be_hidden()
        await expect(page.locator(".codes code").first).to_be_visible()
        await page.emulate_media(media="screen")
        await page.locator(".codes-actions a.main").click()
        await expect(page.locator(".start [data-done]")).to_have_count(2)
        await page.locator(".sheet > a.button").click()
        await page.wait_for_url("**/welcome*")
        await who.go("/")
        await who.sign_out()
        await page.locator("a[href='/sign-in/recovery']").click()
        await page.fill("#code", codes[0].lower())
        await page.locator("form[action='/sign-in/recovery'] button.main").click()
        await page.wait_for_url(f"{booth.address}/")
        await who.sign_out()
        await who.go("/sign-in/recovery")
        await page.fill("#code", codes[0])
        await page.locator("form[action='/sign-in/recovery'] button.main").click()
        await expect(page.locator(".notice[data-kind=bad]")).to_contain_text("does not work")


async def test_a_name_that_is_refused_is_said_beside_the_form(booth: Booth) -> None:
    async with person(booth) as who:
        await who.signed_in("viewer")
        await who.go("/account")
        await who.page.fill("#name", "a\u202eb")
        await who.page.locator("form[action='/account/name'] button").click()
        await expect(who.page.locator("main .notice[data-kind=bad]")).to_contain_text("cannot be used")
        await who.page.fill("#name", "Salma حدّاد")
        await who.page.locator("form[action='/account/name'] button").click()
        await expect(who.page.locator(".menu-head p").first).to_have_text("Salma حدّاد", use_inner_text=False)
        await until(lambda: booth.front.sessions.of(None)[0].user.name == "Salma حدّاد", "the session knows the name")
