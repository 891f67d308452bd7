"""The journey the product exists for, on real parts: link, editor, a file, a terminal, signing out."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import Browser
from support.appliance import Appliance
from support.browser import editor_frame, person, sign_in
from support.journey import edit_and_save, trust_the_folder, use_the_terminal
from support.waiting import poll

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def sockets_of(appliance: Appliance) -> int:
    """IDE sockets that the relay holds for everybody signed in."""
    return sum(row["ide_sockets"] for row in appliance.control.call("GET", "/api/sessions")["sessions"])


def test_from_link_to_file_on_disk_and_out_again(appliance: Appliance, browser: Browser) -> None:
    """Set-up link, IDE, a file edited and saved, a terminal command, then signing out elsewhere (AUTH-1, AUTH-9)."""
    workspace = appliance.paths.workspace
    context = person(browser)
    page = context.new_page()
    sign_in(page, appliance.croft("login-link")["url"])
    page.goto(f"{appliance.url}/workspace")
    frame = editor_frame(page)
    assert frame.url.startswith(appliance.settings.ide_origin)

    edit_and_save(page, frame, workspace)
    trust_the_folder(page, frame)
    account, folder = use_the_terminal(page, frame, workspace)
    assert account == appliance.settings.users_workspace
    assert folder == str(workspace)

    # Signing out in another tab cuts the editor's sockets within five seconds.
    assert sockets_of(appliance) > 0
    other = context.new_page()
    other.goto(appliance.url)
    begun = time.monotonic()
    other.locator("form[action='/sign-out'] button").first.evaluate("button => button.form.submit()")
    other.wait_for_url("**/sign-in")
    poll(lambda: sockets_of(appliance) == 0, "the editor's sockets are gone", 5)
    assert time.monotonic() - begun < 5
    other.goto(f"{appliance.settings.ide_origin}/")
    assert other.url.startswith(f"{appliance.url}/sign-in"), "the IDE host lets nobody in after signing out (A5)"
    context.close()


def test_a_used_link_does_not_work_again(appliance: Appliance, browser: Browser) -> None:
    """AUTH-1: single use, and the second try reads like any other refusal (AUTH-5)."""
    link = appliance.croft("login-link")["url"]
    first, second = person(browser), person(browser)
    sign_in(first.new_page(), link)
    page = second.new_page()
    page.goto(link)
    assert page.locator("form[action='/sign-in/link']").count() == 0
    assert second.cookies() == [] or all(cookie["name"] != "__Host-croft" for cookie in second.cookies())
    first.close()
    second.close()
