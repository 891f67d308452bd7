"""Acting on services: by plain forms, which say what they did, and by the API."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("came_from", ["/machine", "/"])
async def test_a_form_leads_back_to_its_page_which_says_what_was_done(door, came_from: str) -> None:
    _, cookie = await door.sign_in_as("operator")
    headers = {"Referer": f"https://croft.localhost{came_from}?did=proxy.start", "Accept": "text/html"}
    async with door.ask("POST", "/machine/services/ide/restart", cookie, headers=headers) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, f"{came_from}?did=ide.restart")
    async with door.ask("GET", f"{came_from}?did=ide.restart", cookie, headers=headers) as answer:
        page = await answer.text()
    assert 'role="status"><svg' in page
    assert "<p>The IDE is restarting.</p>" in page


@pytest.mark.parametrize("did", ["ide.explode", "nobody.start", "ide", "", "<script>.start"])
async def test_only_what_forms_do_is_said(door, did: str) -> None:
    _, cookie = await door.sign_in_as("operator")
    async with door.ask("GET", f"/machine?did={did}", cookie, headers={"Accept": "text/html"}) as answer:
        assert answer.status == 200
        assert "<p>The IDE is" not in await answer.text()


async def test_a_form_sent_from_elsewhere_leads_to_the_machine_page(door) -> None:
    _, cookie = await door.sign_in_as("operator")
    headers = {"Referer": "https://evil.example//x", "Accept": "text/html"}
    async with door.ask("POST", "/machine/services/ide/stop", cookie, headers=headers) as answer:
        assert answer.headers["Location"] == "/machine?did=ide.stop"


async def test_an_update_says_where_it_comes_from_and_is_audited(door) -> None:
    """DESIGN section 6. In the process runtime programs come with the installer."""
    _, cookie = await door.sign_in_as("operator")
    async with door.ask("POST", "/api/services/ide/update", cookie) as answer:
        assert answer.status == 200
        body = await answer.json()
    assert body["update"] == "installer"
    assert {row["name"] for row in body["services"]} == {"proxy", "ide", "ai"}
    assert [record.event for record in await door.audit.records(limit=2)] == ["outcome", "service.update"]
