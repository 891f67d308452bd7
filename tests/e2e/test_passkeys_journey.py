"""Set up, leave and come back by passkey on a whole appliance: real Caddy with its own authority, the real daemon, and its death."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from support.appliance import Appliance
from support.browser import person
from support.waiting import poll

pytestmark = pytest.mark.browser


def authenticator(page: Page) -> None:
    """A fingerprint reader that always recognises its owner."""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable", {"enableUI": False})
    options: dict[str, Any] = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    session.send("WebAuthn.addVirtualAuthenticator", {"options": options})


def sign_out(page: Page) -> None:
    page.locator("form[action='/sign-out'] button").first.evaluate("button => button.form.submit()")
    page.wait_for_url("**/sign-in")


def test_a_passkey_outlives_the_daemon(appliance: Appliance, browser: Browser) -> None:
    """AUTH-6, AUTH-12: no mail, no console after the first link; kill -9 in between; a used code stays used."""
    context = person(browser)
    page = context.new_page()
    authenticator(page)
    page.goto(appliance.croft("login-link")["url"])
    page.fill("#email", "owner@example.org")
    page.locator("form[action='/sign-in/link'] button").click()
    page.wait_for_url("**/account/start")
    assert page.evaluate("isSecureContext")
    page.locator("form[data-passkey=add] button").click()
    expect(page.locator(".start [data-done]")).to_have_count(1)
    page.locator("form[action='/account/recovery-codes'] button").click()
    codes = page.locator(".codes code").all_inner_texts()
    page.goto(appliance.url)
    sign_out(page)
    page.goto(f"{appliance.url}/sign-in/recovery")
    page.fill("#code", codes[0])
    page.locator("form[action='/sign-in/recovery'] button.main").click()
    page.wait_for_url(f"{appliance.url}/")
    os.kill(appliance.daemon_pid(), signal.SIGKILL)
    poll(appliance.is_up, "the daemon is back", 30)
    page.goto(f"{appliance.url}/account")
    expect(page.locator("#passkeys [data-row]")).to_have_count(1)
    expect(page.locator("#codes .card-head")).to_contain_text("9 of 10")
    sign_out(page)
    page.goto(f"{appliance.url}/sign-in/recovery")
    page.fill("#code", codes[0])
    page.locator("form[action='/sign-in/recovery'] button.main").click()
    expect(page.locator(".notice[data-kind=bad]").first).to_be_visible()
    page.goto(f"{appliance.url}/sign-in?next=/machine")
    page.locator("[data-passkey=sign-in]").click()
    page.wait_for_url(f"{appliance.url}/machine")
    assert [row["event"] for row in appliance.control.call("GET", "/api/audit?event=sign-in")["records"]] == [
        "sign-in"
    ] * 3
    context.close()


def test_the_editor_host_can_neither_make_nor_ask_for_passkeys(appliance: Appliance, browser: Browser) -> None:
    """Its pages may claim our host name as theirs (a registrable suffix), so the browser is told to refuse them."""
    context = person(browser)
    page = context.new_page()
    authenticator(page)
    answer = page.goto(f"{appliance.settings.ide_origin}/__croft/wake")
    assert answer is not None
    assert "publickey-credentials-create=()" in answer.headers["permissions-policy"]
    rp = appliance.settings.host
    asked = """async ([kind, rp]) => {
      const challenge = new Uint8Array(32), user = {id: new Uint8Array(8), name: 'x', displayName: 'x'};
      const publicKey = kind === 'create'
        ? {rp: {id: rp, name: 'x'}, user, challenge, pubKeyCredParams: [{type: 'public-key', alg: -7}]}
        : {rpId: rp, challenge};
      try { await navigator.credentials[kind]({publicKey}); return 'done'; } catch (error) { return error.message; }
    }"""
    for kind in ("create", "get"):
        assert f"'publickey-credentials-{kind}' feature is not enabled" in page.evaluate(asked, [kind, rp])
    context.close()
